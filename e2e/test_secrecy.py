"""What must not be found where it does not belong: passwords and bodies in logs, bodies in the clear on disks."""

import secrets

import pytest

import cluster as clusters
import clients


@pytest.fixture(scope="module")
def talkative(tmp_path_factory):
    with clusters.started(tmp_path_factory.mktemp("secrecy") / "c", log="trace") as made:
        yield made


def test_at_the_most_talkative_level_no_log_has_a_password_or_a_body_and_no_disk_a_body(talkative):
    user = talkative.add_user()
    marker = f"marker {secrets.token_hex(12)}"
    message = f"Subject: s {marker}\r\n\r\nb {marker}\r\n".encode()
    with clients.lmtp(talkative.nodes[0]) as lmtp:
        clients.send(lmtp, "a@example.net", [user.address], message)
    with clients.submission(talkative.nodes[1], user) as submission:
        clients.send(submission, user.address, [user.address], message)
    with clients.imap(talkative.nodes[2], user) as imap:
        clients.append(imap, "INBOX", message)
        clients.ok(imap.select("INBOX"))
        assert len(clients.fetch(imap)) == 3
    clients.pop3(talkative.nodes[0], user).quit()
    changed = secrets.token_urlsafe(16)
    talkative.admin("user", "passwd", user.address, input=changed)
    token = talkative.nodes[0].token_file.read_text().strip()
    cluster_secret = (talkative.directory / "cluster.secret").read_text().strip()
    talkative.stop()
    logs = b"".join(path.read_bytes() for path in talkative.directory.glob("*.log"))
    assert b"delivered" in logs and b"logged in" in logs, "the logs say hardly anything"
    for what, secret in [("password", user.password), ("new password", changed), ("body", marker), ("token", token), ("cluster secret", cluster_secret)]:
        assert secret.encode() not in logs, f"a log has the {what}"
    files = [path for path in (talkative.directory / "data").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) > 1_000
    for path in files:
        data = path.read_bytes()
        assert marker.encode() not in data, f"{path.name} has a body in the clear"
        assert user.password.encode() not in data and changed.encode() not in data, f"{path.name} has a password"
