"""swaks: submission with STARTTLS and AUTH, SMTP with STARTTLS, LMTP with several recipients."""

import subprocess

import clients


def swaks(node, *arguments):
    command = ["swaks", "--timeout", "20", "--server", f"127.0.0.1:{node.ports[arguments[0]]}", *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=40)


def inbox(node, user):
    with clients.imap(node, user) as imap:
        clients.ok(imap.select("INBOX", readonly=True))
        return [body for _, body in clients.fetch(imap).values()]


def test_submission_with_starttls_and_auth(cluster, user):
    first, second, _ = cluster.nodes
    for mechanism in ("PLAIN", "LOGIN"):
        login = ["--auth", mechanism, "--auth-user", user.address, "--auth-password", user.password]
        message = ["--from", user.address, "--to", user.address, "--h-Subject", f"swaks {mechanism}", "--body", "..two dots"]
        done = swaks(first, "submission", "--tls", *login, *message)
        assert done.returncode == 0, done.stdout + done.stderr
    bodies = inbox(second, user)
    assert len(bodies) == 2
    assert all(b"\r\n..two dots\r\n" in body for body in bodies)


def test_a_wrong_password_is_refused(cluster, user):
    login = ["--auth", "PLAIN", "--auth-user", user.address, "--auth-password", "not the password"]
    done = swaks(cluster.nodes[0], "submission", "--tls", *login, "--from", user.address, "--to", user.address)
    assert done.returncode == 28, done.stdout + done.stderr  # swaks: authentication failed
    assert inbox(cluster.nodes[0], user) == []


def test_smtp_with_starttls(cluster, user):
    done = swaks(cluster.nodes[1], "smtp", "--tls", "--from", "a@example.net", "--to", user.address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(inbox(cluster.nodes[2], user)) == 1


def test_lmtp_with_several_recipients(cluster):
    one, other = cluster.add_user(), cluster.add_user()
    to = f"{one.address},{other.address},nobody-here@example.org"
    done = swaks(cluster.nodes[2], "lmtp", "--protocol", "LMTP", "--from", "a@example.net", "--to", to)
    assert done.returncode == 0, done.stdout + done.stderr  # at least one recipient was accepted
    assert "550 5.1.1" in done.stdout, done.stdout
    for user in (one, other):
        assert len(inbox(cluster.nodes[0], user)) == 1, user
