"""curl sends, lists, reads and appends, with TLS from the start and by STARTTLS, each command through another node."""

import subprocess

MESSAGE = b"From: a@example.net\r\nTo: b@example.org\r\nSubject: by curl\r\n\r\n.one dot\r\nhello\r\n"


def curl(node, *arguments, user=None, data=b"", check=True):
    command = ["curl", "-sS", "--max-time", "20", "--cacert", str(node.ca)]
    if user is not None:
        command += ["--user", f"{user.address}:{user.password}"]
    done = subprocess.run([*command, *arguments], input=data, capture_output=True, timeout=30)
    if check:
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout
    return done


def url(node, scheme, port, path=""):
    return f"{scheme}://localhost:{node.ports[port]}{path}"


def send(node, scheme, port, to, *more, **options):
    # Who logs in sends as themselves.
    sender = options["user"].address if "user" in options else "a@example.net"
    envelope = ["--mail-from", sender, "--mail-rcpt", to.address, "--upload-file", "-"]
    return curl(node, url(node, scheme, port), *envelope, *more, data=MESSAGE, **options)


def test_smtp_and_submission_by_curl_are_read_back_by_curl(cluster, user):
    first, second, third = cluster.nodes
    send(first, "smtp", "smtp", user)
    send(second, "smtp", "submission", user, "--ssl-reqd", user=user)
    send(third, "smtps", "submissions", user, user=user)
    for node, scheme, imap, more in [(first, "imaps", "imaps", []), (second, "imap", "imap", ["--ssl-reqd"])]:
        for number in range(1, 4):
            body = curl(node, url(node, scheme, imap, f"/INBOX;MAILINDEX={number}"), *more, user=user)
            assert body.endswith(MESSAGE), body
    for node, scheme, pop3, more in [(third, "pop3s", "pop3s", []), (first, "pop3", "pop3", ["--ssl-reqd"])]:
        listing = curl(node, url(node, scheme, pop3, "/"), *more, user=user)
        assert len(listing.split(b"\r\n")) == 4, listing
        assert curl(node, url(node, scheme, pop3, "/2"), *more, user=user).endswith(MESSAGE)


def test_curl_appends_and_reads_a_section(cluster, user, tmp_path):
    (tmp_path / "message").write_bytes(MESSAGE)
    first, second, _ = cluster.nodes
    curl(first, url(first, "imaps", "imaps", "/INBOX"), "--upload-file", str(tmp_path / "message"), user=user)
    assert curl(second, url(second, "imaps", "imaps", "/INBOX;MAILINDEX=1"), user=user) == MESSAGE
    text = curl(second, url(second, "imaps", "imaps", "/INBOX;MAILINDEX=1;SECTION=TEXT"), user=user)
    assert text == b".one dot\r\nhello\r\n"
    status = curl(second, url(second, "imaps", "imaps", "/"), "--request", "STATUS INBOX (MESSAGES UNSEEN)", user=user)
    assert b"MESSAGES 1" in status, status


def test_curl_is_refused_with_a_wrong_password(cluster, user):
    node = cluster.nodes[0]
    wrong = type(user)(user.address, "not the password")
    for scheme, port in [("imaps", "imaps"), ("pop3s", "pop3s")]:
        assert curl(node, url(node, scheme, port, "/"), user=wrong, check=False).returncode == 67, scheme
