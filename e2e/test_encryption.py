"""Mode `user`: mail that only its user can read, with real processes. See docs/security.md."""

import imaplib
import json
import poplib
import re
import secrets

import pytest

import clients
import cluster as clusters
import memory
import user_keys
from wait import eventually

MESSAGE = b"From: a@example.net\r\nSubject: subject %s\r\n\r\nbody %s\r\n"


def message(marker):
    return MESSAGE % (marker.encode(), marker.encode())


def marker():
    return f"marker{secrets.token_hex(12)}"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with clusters.started(tmp_path_factory.mktemp("encryption") / "c") as made:
        yield made


def add_user(cluster, mode="user"):
    user = clusters.User(f"u{secrets.token_hex(6)}@{cluster.domain}", secrets.token_urlsafe(16))
    cluster.admin("user", "add", user.address, "--encryption", mode, input=user.password)
    return user


def api(cluster, method, user, path="", body=None, status=None):
    code, text = cluster.running()[0].http(method, f"/v1/users/{user.address}{path}", body)
    assert code in ([status] if status else [200, 201, 204]), f"{method} {path}: {code} {text}"
    return json.loads(text) if text else None


def deliver(node, user, *markers):
    with clients.lmtp(node) as lmtp:
        for one in markers:
            clients.send(lmtp, "a@example.net", [user.address], message(one))


def bodies(node, user):
    """All bodies of INBOX, read by IMAP."""
    with clients.imap(node, user) as imap:
        clients.ok(imap.select("INBOX", readonly=True))
        return [body for _, (_, body) in sorted(clients.fetch(imap).items())]


def has(node, user, *markers):
    found = bodies(node, user)
    for one in markers:
        assert any(f"body {one}".encode() in body for body in found), f"{one} is not among {len(found)} messages"
    return True


def waiting(cluster, user):
    """Messages whose keys wait to be wrapped anew."""
    return state(cluster, user)["messages_to_rewrap"]


def state(cluster, user):
    return api(cluster, "GET", user)["encryption"]


def test_mail_that_came_while_the_user_was_away_is_read_through_every_node(nodes):
    user = add_user(nodes)
    markers = [marker() for _ in nodes.nodes]
    for node, one in zip(nodes.nodes, markers):
        deliver(node, user, one)
    for node in nodes.nodes:
        has(node, user, *markers)
        with clients.imap(node, user) as imap:
            clients.ok(imap.select("INBOX"))
            assert len(clients.ok(imap.search(None, "BODY", markers[0]))[0].split()) == 1
            assert len(clients.ok(imap.search(None, "SUBJECT", markers[1]))[0].split()) == 1
            head = clients.fetch(imap, "1:*", "UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)]")
            assert sorted(one.split(b" ")[-1].strip() for _, one in head.values()) == sorted(m.encode() for m in markers)
        pop3 = clients.pop3(node, user)
        assert f"body {markers[2]}".encode() in b"".join(clients.retrieve(pop3, n) for n in (1, 2, 3))
        assert any(b"Subject: subject" in line for line in pop3.top(1, 0)[1])
        pop3.quit()
    own = marker()
    with clients.imap(nodes.nodes[1], user) as imap:
        clients.append(imap, "Drafts", message(own))
        clients.ok(imap.select("Drafts"))
        clients.ok(imap.copy("1", "Archive"))
        clients.ok(imap.select("Archive"))
        assert own.encode() in clients.fetch(imap)[1][1]
    assert state(nodes, user)["mode"] == "user"


def test_idle_tells_of_mail_that_is_then_read(nodes):
    user, one = add_user(nodes), marker()
    with clients.imap(nodes.nodes[0], user) as imap:
        clients.ok(imap.select("INBOX"))
        idle = clients.Idle(imap)
        deliver(nodes.nodes[1], user, one)
        idle.wait(rb"1 EXISTS")
        idle.done()
        assert one.encode() in clients.fetch(imap)[1][1]


def test_without_a_session_no_disk_and_no_memory_has_mail_password_or_key(nodes, report):
    user, one, own = add_user(nodes), marker(), marker()
    folder = f"Folder{secrets.token_hex(8)}"
    deliver(nodes.nodes[0], user, one)
    key = user_keys.private_key(user_keys.exported(nodes, user.address), user.password)
    wanted = {"delivered": one.encode(), "appended": own.encode(), "password": user.password.encode(), "key": key}
    reader = nodes.nodes[1]
    with clients.imap(reader, user) as imap:
        clients.ok(imap.create(folder))
        clients.append(imap, "INBOX", message(own))
        clients.ok(imap.select("INBOX"))
        assert len(clients.fetch(imap)) == 2
        assert len(clients.ok(imap.search(None, "BODY", one))[0].split()) == 1
        # The search works: what has to be there is found, and the key is nowhere but where the session is.
        now = {node.name: memory.in_memory(node, {"key": key, "folder": folder.encode()}) for node in nodes.nodes}
        assert now[reader.name].get("key", 0) >= 1, now
        assert all("key" not in found for name, found in now.items() if name != reader.name), now
        assert any("folder" in found for found in now.values()), now
    pop3 = clients.pop3(nodes.nodes[2], user)
    assert len(clients.retrieve(pop3, 1)) > 10
    pop3.quit()

    left = {}

    def gone():
        left.clear()
        left.update({node.name: found for node in nodes.nodes if (found := memory.in_memory(node, wanted))})
        return not left
    try:
        eventually("nothing is left in memory", gone, 10, every=0.5)
    except TimeoutError:
        pytest.fail(f"left in memory: {left}")
    assert memory.on_disk(nodes, wanted) == {}
    report("after log-out: none of 2 bodies, password, private key in the memory and on the disks of 3 nodes")


def test_a_password_change_needs_the_old_one_and_keeps_all_mail(nodes):
    user, one = add_user(nodes), marker()
    deliver(nodes.nodes[0], user, one)
    new = clusters.User(user.address, secrets.token_urlsafe(16))
    refused = api(nodes, "PUT", user, "/password", {"password": new.password}, status=422)
    assert "old password" in refused["error"]
    api(nodes, "PUT", user, "/password", {"password": new.password, "secret": "not the old one"}, status=422)
    has(nodes.nodes[1], user, one)
    before = user_keys.exported(nodes, user.address)["encryption"]["pairs"][0]["public"]
    api(nodes, "PUT", user, "/password", {"password": new.password, "secret": user.password})
    assert user_keys.exported(nodes, user.address)["encryption"]["pairs"][0]["public"] == before
    for node in nodes.nodes:
        has(node, new, one)
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        clients.imap(nodes.nodes[0], user)


def test_app_passwords_read_mail_until_they_are_revoked(nodes, tmp_path):
    user, one = add_user(nodes), marker()
    deliver(nodes.nodes[0], user, one)
    refused = nodes.admin("user", "app-password", "add", user.address, "phone", check=False)
    assert refused.returncode == 1 and "opens none" in refused.stderr
    secret = tmp_path / "secret"
    secret.write_text(user.password)
    made = nodes.admin("user", "app-password", "add", user.address, "phone", "--secret-file", secret).strip()
    phone = clusters.User(user.address, made)
    for node in nodes.nodes:
        has(node, phone, one)
    pop3 = clients.pop3(nodes.nodes[0], clusters.User(user.address, made.upper().replace("-", "")))
    assert one.encode() in clients.retrieve(pop3, 1)
    pop3.quit()
    listed = nodes.admin("user", "app-password", "list", user.address)
    assert "phone" in listed and made not in listed
    # It is enough to set another password.
    new = clusters.User(user.address, secrets.token_urlsafe(16))
    api(nodes, "PUT", user, "/password", {"password": new.password, "secret": made})
    has(nodes.nodes[1], new, one)
    has(nodes.nodes[2], phone, one)
    nodes.admin("user", "app-password", "revoke", user.address, listed.split()[0])
    for node in nodes.nodes:
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            clients.imap(node, phone)


def test_accounts_of_mode_cluster_have_app_passwords_too(nodes):
    user, one = nodes.add_user(), marker()
    deliver(nodes.nodes[0], user, one)
    made = nodes.admin("user", "app-password", "add", user.address, "laptop").strip()
    has(nodes.nodes[1], clusters.User(user.address, made), one)
    has(nodes.nodes[2], user, one)
    # They open what is encrypted later.
    api(nodes, "PUT", user, "/encryption", {"mode": "user", "password": user.password})
    eventually("re-wrapped", lambda: state(nodes, user)["messages_to_rewrap"] == 0, 30)
    has(nodes.nodes[0], clusters.User(user.address, made), one)


def test_a_reset_without_the_old_password_locks_old_mail_until_the_recovery_key_is_used(nodes):
    user, old, new = add_user(nodes), marker(), marker()
    recovery = nodes.admin("user", "recovery-key", user.address, input=user.password).strip()
    deliver(nodes.nodes[0], user, old)
    after = clusters.User(user.address, secrets.token_urlsafe(16))
    refused = nodes.admin("user", "passwd", user.address, input=after.password, check=False)
    assert refused.returncode == 1 and "recovery key" in refused.stderr
    has(nodes.nodes[0], user, old)
    nodes.admin("user", "passwd", user.address, "--lose-mail", input=after.password)
    deliver(nodes.nodes[1], user, new)
    assert state(nodes, user)["locked_keys"] == 1
    for node in nodes.nodes:
        client = imaplib.IMAP4_SSL(node.certified, node.ports["imaps"], ssl_context=clients.tls(node), timeout=20)
        client.login(after.address, after.password)
        assert any(b"[ALERT]" in text and b"recovery key" in text for text in client.untagged_responses["OK"])
        clients.ok(client.select("INBOX"))
        kind, data = client.uid("FETCH", "1:*", "(UID BODY.PEEK[])")
        assert kind == "NO" and b"CONTACTADMIN" in data[0], data
        assert client.uid("FETCH", "2", "(UID BODY.PEEK[])")[0] == "OK"
        client.logout()
        pop3 = clients.pop3(node, after)
        with pytest.raises(poplib.error_proto, match=r"\[SYS/PERM\]"):
            pop3.retr(1)
        assert new.encode() in clients.retrieve(pop3, 2)
        pop3.quit()
    assert "reset" in nodes.admin("user", "show", user.address)
    wrong = nodes.admin("user", "recover", user.address, input="aaaa-" * 7 + "aaaa", check=False)
    assert wrong.returncode == 1 and "opens none" in wrong.stderr
    nodes.admin("user", "recover", user.address, input=recovery)
    assert state(nodes, user)["locked_keys"] == 0
    for node in nodes.nodes:
        has(node, after, old, new)


def test_a_domain_says_what_new_accounts_get(nodes):
    domain = f"{secrets.token_hex(4)}.example"
    nodes.admin("domain", "add", domain, "--encryption", "user")
    one = clusters.User(f"one@{domain}", secrets.token_urlsafe(16))
    nodes.admin("user", "add", one.address, input=one.password)
    assert state(nodes, one)["mode"] == "user"
    nodes.admin("domain", "encryption", domain, "cluster")
    two = clusters.User(f"two@{domain}", secrets.token_urlsafe(16))
    nodes.admin("user", "add", two.address, input=two.password)
    assert state(nodes, two)["mode"] == "cluster" and state(nodes, one)["mode"] == "user"


def test_turning_it_on_wraps_old_mail_anew_and_turning_it_off_does_so_while_the_user_is_there(nodes):
    user = nodes.add_user()
    markers = [marker() for _ in range(30)]
    deliver(nodes.nodes[0], user, *markers)
    has(nodes.nodes[1], user, *markers)
    api(nodes, "PUT", user, "/encryption", {"mode": "user"}, status=422)
    api(nodes, "PUT", user, "/encryption", {"mode": "user", "password": "not the password"}, status=422)
    api(nodes, "PUT", user, "/encryption", {"mode": "user", "password": user.password})
    eventually("re-wrapped", lambda: state(nodes, user)["messages_to_rewrap"] == 0, 30)
    for node in nodes.nodes:
        has(node, user, *markers)
    # Without the keys nothing can be read any more: all of it is for the user alone.
    recovery = nodes.admin("user", "recovery-key", user.address, input=user.password).strip()
    reset = clusters.User(user.address, secrets.token_urlsafe(16))
    nodes.admin("user", "passwd", user.address, "--lose-mail", input=reset.password)
    with clients.imap(nodes.nodes[0], reset) as imap:
        clients.ok(imap.select("INBOX"))
        for uid in (1, 15, 30):
            kind, data = imap.uid("FETCH", str(uid), "(UID BODY.PEEK[])")
            assert kind == "NO" and b"CONTACTADMIN" in data[0], data
    nodes.admin("user", "recover", user.address, input=recovery)
    has(nodes.nodes[1], reset, *markers)

    nodes.admin("user", "encryption", user.address, "cluster")
    assert state(nodes, user)["messages_to_rewrap"] == 30, "only a session can open it"
    last = marker()
    deliver(nodes.nodes[2], user, last)
    with clients.imap(nodes.nodes[0], reset) as imap:
        clients.ok(imap.select("INBOX"))
        assert len(clients.fetch(imap)) == 31
        eventually("re-wrapped", lambda: state(nodes, user)["messages_to_rewrap"] == 0, 40)
    # Even a password that opens no keys reads all of it now.
    other = clusters.User(user.address, secrets.token_urlsafe(16))
    nodes.admin("user", "passwd", user.address, "--lose-mail", input=other.password)
    for node in nodes.nodes:
        has(node, other, *markers, last)


def test_metrics_tell_of_modes_and_of_keys_that_were_opened(nodes):
    def told():
        text = "".join(node.http("GET", "/metrics", token="")[1] for node in nodes.nodes)
        users = sum(int(count) for count in re.findall(r'prickle_encryption_accounts{mode="user"} (\d+)', text))
        unlocked = sum(int(count) for count in re.findall(r'prickle_encryption_unlocked_total{keys="all"} (\d+)', text))
        return users >= 1 and unlocked >= 1 and "prickle_encryption_rewrapped_total" in text
    user, one = add_user(nodes), marker()
    deliver(nodes.nodes[0], user, one)
    has(nodes.nodes[0], user, one)
    has_old = nodes.add_user()
    deliver(nodes.nodes[0], has_old, one)
    api(nodes, "PUT", has_old, "/encryption", {"mode": "user", "password": has_old.password})
    eventually("metrics", told, 30, every=0.5)


def test_kill_9_in_the_middle_of_wrapping_anew_loses_no_access(tmp_path, report):
    with clusters.started(tmp_path / "c", count=4) as nodes:
        user = nodes.add_user()
        markers = [marker() for _ in range(1_500)]
        with clients.imap(nodes.nodes[0], user, timeout=120) as imap:
            for first in range(0, len(markers), 100):
                # MULTIAPPEND (RFC 3502), with LITERAL+.
                imap.send(b"x APPEND INBOX")
                for one in markers[first:first + 100]:
                    body = message(one)
                    imap.send(b" {%d+}\r\n" % len(body) + body)
                imap.send(b"\r\n")
                while not (line := imap.readline()).startswith(b"x "):
                    assert line, "the server closed the connection"
                assert line.startswith(b"x OK"), line

        def read_all(node):
            found = b"".join(bodies(node, user))
            missing = [one for one in markers if f"body {one}".encode() not in found]
            assert not missing, f"{len(missing)} messages cannot be read through {node}"
            return True

        api(nodes, "PUT", user, "/encryption", {"mode": "user", "password": user.password})
        left = []
        eventually("it has begun", lambda: left.append(waiting(nodes, user)) or 0 < left[-1] < len(markers), 40, every=0.01)
        busy = max(nodes.nodes, key=lambda node: _rewrapped(node))
        nodes.kill(busy)
        report(f"killed {busy} with {left[-1]} of {len(markers)} keys left as asked just before")
        eventually("all is read without it", lambda: read_all(nodes.running()[0]), 40, every=1)
        eventually("the next manager ends it", lambda: state(nodes, user)["messages_to_rewrap"] == 0, 60)
        nodes.start_node(busy)
        nodes.settled(60)
        for node in nodes.nodes:
            read_all(node)
        # And all at once, on the way back.
        nodes.admin("user", "encryption", user.address, "cluster")
        imap = clients.imap(nodes.nodes[0], user)
        clients.ok(imap.select("INBOX"))
        eventually("it has begun", lambda: 0 < waiting(nodes, user) < len(markers), 40, every=0.01)
        for node in nodes.nodes:
            nodes.kill(node)
        imap.shutdown()
        nodes.start()
        assert 0 < waiting(nodes, user) < len(markers), "the kill was not in the middle"
        read_all(nodes.nodes[1])
        with clients.imap(nodes.nodes[2], user) as imap:
            clients.ok(imap.select("INBOX"))
            eventually("it ends", lambda: state(nodes, user)["messages_to_rewrap"] == 0, 60)
        read_all(nodes.nodes[3])


def _rewrapped(node):
    text = node.http("GET", "/metrics", token="")[1]
    return sum(int(count) for count in re.findall(r"prickle_encryption_rewrapped_total{[^}]*} (\d+)", text))


def test_where_signatures_are_required_mail_waits_until_the_ca_has_signed_and_again_after_each_change(tmp_path):
    required = lambda made: [node.config.write_text(node.config.read_text().replace("cluster:\n", "cluster:\n  requireSignedAccounts: true\n")) for node in made.nodes]  # noqa: E731
    with clusters.started(tmp_path / "c", prepare=required) as cluster:
        user, plain = add_user(cluster), add_user(cluster, "cluster")

        def is_put_off(address):
            for node in cluster.nodes:
                with clients.lmtp(node) as lmtp:
                    lmtp.mail("a@example.net")
                    assert lmtp.rcpt(address) == (451, b"4.3.0 Cannot verify the recipient now, try again later")

        is_put_off(user.address)
        is_put_off(plain.address)
        other = tmp_path / "other"
        cluster.make_ca(other)
        wrong = cluster.admin("user", "sign", user.address, "--ca", other, check=False)
        assert "did not sign this mode and key" in wrong.stderr
        cluster.admin("user", "sign", user.address, "--ca", cluster.directory)
        assert "signed" in cluster.admin("user", "show", user.address)
        assert cluster.admin("user", "sign", "--all", "--ca", cluster.directory) == f"{plain.address} cluster\n"
        first = marker()
        for node in cluster.nodes:
            deliver(node, user, first)
            deliver(node, plain, first)
        has(cluster.nodes[1], user, first)
        # Other keys, and another mode, are not what was signed.
        cluster.admin("user", "passwd", user.address, "--lose-mail", input="another password")
        is_put_off(user.address)
        cluster.admin("user", "sign", "--all", "--ca", cluster.directory)
        user = clusters.User(user.address, "another password")
        deliver(cluster.nodes[2], user, marker())
        assert cluster.admin("user", "sign", "--all", "--ca", cluster.directory) == ""
        assert len(cluster.admin("user", "sign", "--all", "--again", "--ca", cluster.directory).splitlines()) == 2
        cluster.admin("user", "encryption", user.address, "cluster")
        is_put_off(user.address)
        with clients.imap(cluster.nodes[0], user) as imap:
            assert imap.append("INBOX", None, None, message(marker()))[0] == "NO"
        cluster.admin("user", "sign", "--all", "--ca", cluster.directory)
        deliver(cluster.nodes[2], user, marker())
