"""Python's smtplib, imaplib and poplib do what their users do with them, each through another node."""

import smtplib

import pytest

import clients
from wait import eventually

MESSAGE = b"From: a@example.net\r\nTo: b@example.org\r\nSubject: %s\r\n\r\nHello.\r\n.\r\n..dots\r\n"


def test_submission_needs_tls_and_a_password(cluster, user):
    node = cluster.nodes[0]
    with smtplib.SMTP("localhost", node.ports["submission"], timeout=20) as client:
        client.ehlo()
        assert not client.has_extn("auth"), "AUTH is offered without TLS"
        assert client.mail(user.address)[0] in (530, 538, 550)
        client.starttls(context=clients.tls(node))
        client.ehlo()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login(user.address, "not the password")
        client.login(user.address, user.password)
        client.sendmail(user.address, [user.address], MESSAGE % b"submitted")
    with smtplib.SMTP_SSL("localhost", node.ports["submissions"], context=clients.tls(node), timeout=20) as client:
        client.login(user.address, user.password)
        client.sendmail(user.address, [user.address], MESSAGE % b"submitted")
    with clients.imap(cluster.nodes[1], user) as imap:
        assert clients.ok(imap.select("INBOX")) == [b"2"]


def test_unknown_recipients_and_foreign_domains_are_refused(cluster, user):
    with clients.smtp(cluster.nodes[0]) as client:
        client.ehlo()
        client.mail("a@example.net")
        assert client.rcpt("nobody-here@example.org")[0] == 550
        assert client.rcpt("somebody@elsewhere.example.com")[0] == 550
        assert client.rcpt(user.address)[0] == 250


def test_one_transaction_reaches_all_its_recipients_once(cluster):
    users = [cluster.add_user() for _ in range(5)]
    with clients.smtp(cluster.nodes[0]) as client:
        client.ehlo()
        clients.send(client, "a@example.net", [user.address for user in users] + [users[0].address], MESSAGE % b"all")
    for number, user in enumerate(users):
        with clients.imap(cluster.nodes[number % 3], user) as imap:
            assert clients.ok(imap.select("INBOX")) == [b"1"], user


def test_folders_flags_copy_move_search_and_expunge_are_seen_from_all_nodes(cluster, user):
    first, second, third = (clients.imap(node, user) for node in cluster.nodes)
    clients.ok(first.create("Archive/2026"))
    for number in range(4):
        clients.append(first, "INBOX", MESSAGE % b"number %d" % number)
    assert any(b"Archive/2026" in line for line in clients.ok(second.list()))
    assert clients.ok(second.select("INBOX")) == [b"4"]
    uids = clients.ok(second.uid("SEARCH", "ALL"))[0].split()
    clients.ok(second.uid("STORE", uids[0], "+FLAGS", r"(\Seen \Flagged $Important)"))
    clients.ok(second.uid("COPY", uids[1], "Archive/2026"))
    clients.ok(second.uid("MOVE", uids[2], "Archive/2026"))
    clients.ok(second.uid("STORE", uids[3], "+FLAGS", r"(\Deleted)"))
    clients.ok(second.expunge())

    clients.ok(third.select("INBOX"))
    assert {uid: flags for uid, (flags, _) in clients.fetch(third).items()} == {
        int(uids[0]): {"\\Seen", "\\Flagged", "$Important"},
        int(uids[1]): frozenset(),
    }
    assert clients.ok(third.uid("SEARCH", "SUBJECT", '"number 1"'))[0] == uids[1]
    assert clients.ok(third.select('"Archive/2026"')) == [b"2"]
    bodies = sorted(body for _, body in clients.fetch(third).values())
    assert bodies == [MESSAGE % b"number 1", MESSAGE % b"number 2"]
    clients.ok(third.select("INBOX"))
    clients.ok(first.delete("Archive/2026"))
    eventually("the folder is gone on another node", lambda: not any(b"2026" in (line or b"") for line in third.list()[1]), 5)
    for client in (first, second, third):
        client.logout()


def test_pop3_deletes_what_imap_on_another_node_then_misses(cluster, user):
    with clients.imap(cluster.nodes[0], user) as imap:
        for number in range(3):
            clients.append(imap, "INBOX", MESSAGE % b"number %d" % number)
    pop3 = clients.pop3(cluster.nodes[1], user)
    assert pop3.stat() == (3, 3 * len(MESSAGE % b"number 0"))
    listed = pop3.uidl()[1]
    assert len(set(listed)) == 3
    assert clients.retrieve(pop3, 2) == MESSAGE % b"number 1"
    assert b"Subject: number 2" in pop3.top(3, 0)[1]
    pop3.dele(2)
    pop3.quit()
    pop3 = clients.pop3(cluster.nodes[2], user)
    again = pop3.uidl()[1]
    assert [line.split()[1] for line in again] == [listed[0].split()[1], listed[2].split()[1]]
    pop3.quit()
    with clients.imap(cluster.nodes[2], user) as imap:
        assert clients.ok(imap.select("INBOX")) == [b"2"]


def test_a_wrong_password_is_refused_everywhere(cluster, user):
    import imaplib
    import poplib

    wrong = type(user)(user.address, user.password + "x")
    with pytest.raises(imaplib.IMAP4.error):
        clients.imap(cluster.nodes[0], wrong)
    with pytest.raises(poplib.error_proto):
        clients.pop3(cluster.nodes[1], wrong)
    unknown = type(user)("nobody-here@example.org", user.password)
    with pytest.raises(imaplib.IMAP4.error):
        clients.imap(cluster.nodes[2], unknown)


def test_one_user_never_sees_the_mail_of_another(cluster):
    one, other = cluster.add_user(), cluster.add_user()
    with clients.imap(cluster.nodes[0], one) as imap:
        clients.append(imap, "INBOX", MESSAGE % b"private")
    with clients.imap(cluster.nodes[0], other) as imap:
        assert clients.ok(imap.select("INBOX")) == [b"0"]
