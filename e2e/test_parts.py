"""Big MIME parts are kept once in the cluster: where they lie, how they are read, healed, and given up (docs/decisions/parts.md).

How many copies there are is measured twice: by the nodes' metrics, and on their disks by `mailnode log dump`.
"""

import base64
import email
import os
import random
import re
import shutil
import subprocess

import pytest

import clients
import cluster as clusters
import messages
from test_real_mail import compare, deliver
from wait import eventually

MIB = 1 << 20
#: For the figure of docs/figures/parts.md: 1000.
USERS = int(os.environ.get("PRICKLE_PARTS_USERS", "30"))
#: Leases, trash and segments of seconds and a MiB.
SHORT = """
storage:
  segmentBytes: 1048576
  bodyLeaseSeconds: 4
  parts: {{enabled: true, renewSeconds: 2, leaseSeconds: {lease}, trashSeconds: {trash}}}
healing: {{replaceAfterSeconds: 5, tombstoneLifetimeSeconds: 10}}
"""
MARKER = "a word that only the big text has: xylophone"


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def mail(attachment, text="see the file", line=76, big_text=False):
    """A message with an attachment, its base64 in lines of this length."""
    encoded = base64.b64encode(attachment)
    lines = b"\r\n".join(encoded[at:at + line] for at in range(0, len(encoded), line))
    plain = text + (("\r\nA line of the long text." * 4000) + "\r\n" + MARKER if big_text else "")
    return (
        b"From: a@example.net\r\nSubject: a file\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: multipart/mixed; boundary=\"cut here\"\r\n\r\n--cut here\r\n"
        b"Content-Type: text/plain\r\n\r\n" + plain.encode() + b"\r\n--cut here\r\n"
        b"Content-Type: application/octet-stream; name=f.bin\r\nContent-Transfer-Encoding: base64\r\n"
        b"Content-Disposition: attachment; filename=f.bin\r\n\r\n" + lines + b"\r\n\r\n--cut here--\r\n"
    )


def on_disk(cluster, node):
    """{name: bytes} of the part records in a node's log, those that compaction has not dropped yet among them. The node runs, so a
    copy is looked at."""
    copy = cluster.directory / f"copy-{node.name}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(cluster.directory / "data" / node.name / "log", copy / "log")
    dumped = subprocess.run(
        [clusters.MAILNODE, "log", "dump", "--data", copy],
        capture_output=True, text=True, timeout=120)
    assert dumped.returncode == 0, dumped.stderr
    return {name: int(size) for name, size in re.findall(r"^ +part (\S+) of (\d+) bytes", dumped.stdout, re.M)}


def settled(cluster, seconds=60):
    """All parts are at their owners, as every node sees it by the newest view, and all entries have their replicas."""
    cluster.settled(seconds)

    def quiet():
        members = [member for member in cluster.running()[0].status()["members"] if member["state"] == "active"]
        states = {member["name"]: member["parts"] for member in members}
        assert all(parts and parts["settled"] and parts["missing"] == 0 for parts in states.values()), states
        return True
    eventually("all parts are at their owners", quiet, seconds, every=0.2)


def send(node, users, message):
    with clients.lmtp(node) as lmtp:
        for at in range(0, len(users), 500):
            some = [user.address for user in users[at:at + 500]]
            assert len(clients.send(lmtp, "a@example.net", some, message)) == len(some)


def read(node, user):
    with clients.imap(node, user) as imap:
        clients.ok(imap.select("INBOX", readonly=True))
        return [body for _, (_, body) in sorted(clients.fetch(imap).items())]


def assert_ends(bodies, *expected):
    """Behind Return-Path and Received each message is as it was sent."""
    assert len(bodies) == len(expected)
    for body, sent in zip(bodies, expected):
        assert body.endswith(b"\r\n" + sent) and len(body) < len(sent) + 1000


def expunge_all(node, user):
    with clients.imap(node, user) as imap:
        clients.ok(imap.select("INBOX"))
        clients.ok(imap.store("1:*", "+FLAGS", r"(\Deleted)"))
        clients.ok(imap.expunge())


def owners(cluster):
    return [node for node in cluster.running() if node.metric("prickle_parts", state="live") > 0]


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    with clusters.started(tmp_path_factory.mktemp("five"), count=5) as cluster:
        yield cluster


def test_an_attachment_to_many_is_stored_twice_and_a_forward_adds_nothing(five, report):
    users = [five.add_user() for _ in range(USERS)]
    attachment = noise(MIB)
    first = mail(attachment)
    send(five.nodes[0], users, first)
    settled(five)
    bytes_of_parts = five.total("prickle_part_bytes", state="live")
    assert MIB < bytes_of_parts <= 2.1 * MIB
    assert five.total("prickle_parts", state="live") == 2
    stored = [on_disk(five, node) for node in five.nodes]
    assert sum(len(parts) for parts in stored) == 2
    assert sum(size for parts in stored for size in parts.values()) <= 2.1 * MIB

    # Forwards, through other nodes, by programs that write base64 in other lines, and inside of another message.
    second = mail(attachment, "a forward", line=64)
    inner = b"From: b@example.net\r\nContent-Type: multipart/mixed; boundary=outer\r\n\r\n--outer\r\n" \
        b"Content-Type: message/rfc822\r\n\r\n" + first + b"\r\n--outer--\r\n"
    send(five.nodes[1], users[:10], second)
    with clients.imap(five.nodes[2], users[0]) as imap:
        clients.append(imap, "INBOX", inner)
    settled(five)
    assert five.total("prickle_part_bytes", state="live") == bytes_of_parts
    assert sum(len(on_disk(five, node)) for node in five.nodes) == 2
    for node in five.nodes:
        bodies = read(node, users[0])
        assert_ends(bodies[:2], first, second)
        assert bodies[2] == inner
    assert_ends(read(five.nodes[3], users[-1]), *([first] if USERS > 10 else [first, second]))
    logs = five.total("prickle_log_live_bytes")
    report(f"1 MiB to {USERS} users, and forwards: {bytes_of_parts / MIB:.3f} MiB of parts; all logs {logs / MIB:.2f} MiB")


def test_protocols_show_every_byte_and_every_part(five):
    user = five.add_user()
    attachment = noise(300_000, seed=2)
    sent = mail(attachment, big_text=True)
    before = five.total("prickle_parts", state="live")
    send(five.nodes[0], [user], sent)
    assert five.total("prickle_parts", state="live") == before + 4, "the text and the file, twice each"
    with clients.imap(five.nodes[1], user) as imap:
        clients.ok(imap.select("INBOX"))
        whole = clients.fetch(imap)[1][1]
        assert whole.endswith(sent)
        structure = clients.ok(imap.fetch("1", "(BODYSTRUCTURE RFC822.SIZE)"))[0].decode()
        assert f"RFC822.SIZE {len(whole)}" in structure
        parsed = email.message_from_bytes(sent)
        text, file = [part.get_payload().encode() for part in parsed.get_payload()]
        assert f'"BASE64" {len(file)}' in structure.upper() or f"{len(file)}" in structure
        for offset, length in [(0, 100), (5_000, 65_536), (len(whole) - 70, 500), (len(whole) + 5, 10)]:
            got = clients.ok(imap.fetch("1", f"(BODY.PEEK[]<{offset}.{length}>)"))[0]
            assert (got[1] if isinstance(got, tuple) else b"") == whole[offset:offset + length]
        got = clients.ok(imap.fetch("1", "(BODY.PEEK[2])"))[0][1]
        assert base64.b64decode(got) == attachment
        assert clients.ok(imap.search(None, "TEXT", "xylophone")) == [b"1"]
        assert clients.ok(imap.search(None, "BODY", "nowhere-in-it")) == [b""]
    popper = clients.pop3(five.nodes[2], user)
    assert clients.retrieve(popper, 1) == whole
    popper.quit()
    assert text in whole


def test_parts_of_an_encrypted_account_are_shared_and_read(five):
    import json
    address = f"secret@{five.domain}"
    body = {"address": address, "password": "a long enough password", "encryption": "user"}
    status, text = five.nodes[0].http("POST", "/v1/users", body)
    assert status == 201, text
    assert json.loads(text)
    secret, other = clusters.User(address, "a long enough password"), five.add_user()
    sent = mail(noise(200_000, seed=3))
    before = five.total("prickle_parts", state="live")
    send(five.nodes[0], [secret, other], sent)
    assert five.total("prickle_parts", state="live") == before + 2
    for node in five.nodes[1:3]:
        assert_ends(read(node, secret), sent)
        assert_ends(read(node, other), sent)


def test_a_damaged_copy_is_replaced_when_it_is_read(tmp_path):
    with clusters.started(tmp_path, count=3) as cluster:
        user = cluster.add_user()
        sent = mail(noise(MIB, seed=4))
        send(cluster.nodes[0], [user], sent)
        settled(cluster)
        damaged = owners(cluster)
        assert len(damaged) == 2
        victim, other = damaged
        log = sorted((cluster.directory / "data" / victim.name / "log").glob("*.log"))[-1]
        bytes_of_log = log.read_bytes()
        at = bytes_of_log.index(b"\x93prickle blob\r\n\x01\x02") + 100_000
        with open(log, "r+b") as file:
            file.seek(at)
            file.write(bytes([bytes_of_log[at] ^ 0xff]))
        for node in cluster.nodes:
            assert_ends(read(node, user), sent)
        read(victim, user)
        eventually("the owner fetched a good copy", lambda: victim.metric("prickle_parts_fetched_total") == 1, 20)
        assert victim.metric("prickle_parts", state="live") == 1
        # The bytes at the old place are still bad; what is read is the new copy.
        cluster.kill(other)
        eventually("the message is read without the other owner", lambda: [sent == body[-len(sent):] for body in read(victim, user)] == [True], 30)


def test_a_node_that_is_lost_or_drained_is_replaced_as_an_owner(tmp_path, report):
    with clusters.started(tmp_path, count=5, settings=SHORT.format(lease=600, trash=600)) as cluster:
        users = [cluster.add_user() for _ in range(3)]
        sent = [mail(noise(150_000, seed=number)) for number in range(10, 22)]
        for number, message in enumerate(sent):
            send(cluster.nodes[number % 5], users, message)
        settled(cluster)
        assert cluster.total("prickle_parts", state="live") == 24
        lost = max(cluster.nodes[1:], key=lambda node: node.metric("prickle_parts", state="live"))
        had = lost.metric("prickle_parts", state="live")
        cluster.kill(lost)
        gone = lambda: lost.name not in {member["name"] for member in cluster.running()[0].status()["members"]}
        eventually("the lost node is replaced", gone, 60)
        settled(cluster)
        assert cluster.total("prickle_parts", state="live") == 24, "each part is on two of those that are left"
        drained = max(cluster.running()[1:], key=lambda node: node.metric("prickle_parts", state="live"))
        cluster.admin("cluster", "drain", drained.name)

        def done():
            members = {member["name"]: member for member in cluster.nodes[0].status()["members"]}
            return members[drained.name]["drain"]["state"] == "done"
        eventually("the drain is done", done, 90)
        cluster.kill(drained)
        left = cluster.running()
        assert len(left) == 3
        assert cluster.total("prickle_parts", state="live") == 24
        for node in left:
            for user in users:
                assert_ends(read(node, user), *sent)
        report(f"a lost node had {had:.0f} of 24 copies of parts; all are back, and again after a drain")


def test_what_nobody_refers_to_goes_to_the_trash_and_its_space_comes_back(tmp_path, report):
    with clusters.started(tmp_path, count=3, settings=SHORT.format(lease=6, trash=6)) as cluster:
        users = [cluster.add_user() for _ in range(2)]
        kept, dropped = mail(noise(200_000, seed=31)), [mail(noise(700_000, seed=number)) for number in range(32, 40)]
        send(cluster.nodes[0], users, kept)
        for message in dropped:
            send(cluster.nodes[1], users, message)
        settled(cluster)

        def disk_bytes():
            return sum(path.stat().st_size for path in cluster.directory.glob("data/*/log/*.log"))
        full = disk_bytes()
        assert cluster.total("prickle_parts", state="live") == 18
        for user in users:
            with clients.imap(cluster.nodes[2], user) as imap:
                clients.ok(imap.select("INBOX"))
                clients.ok(imap.store("2:*", "+FLAGS", r"(\Deleted)"))
                clients.ok(imap.expunge())
        eventually("the parts are in the trash", lambda: cluster.total("prickle_parts", state="trash") == 16, 60)
        shown = cluster.admin("cluster", "status")
        assert "TRASH" in shown
        eventually("they are gone", lambda: cluster.total("prickle_parts", state="trash") == 0, 60)
        assert cluster.total("prickle_parts", state="live") == 2, "what is referred to stays"
        assert cluster.total("prickle_parts_discarded_total") == 16

        def given_back():
            # Segments are closed by what comes after them.
            send(cluster.nodes[0], users[:1], mail(noise(200_000, seed=random.randrange(1 << 30))))
            return disk_bytes() < full / 2
        eventually("the file system has the space back", given_back, 90, every=1.0)
        report(f"logs of {full / MIB:.1f} MiB, 90% of it expunged: {disk_bytes() / MIB:.1f} MiB")
        for node in cluster.nodes:
            assert_ends(read(node, users[1]), kept)


def test_a_part_comes_back_from_the_trash(tmp_path):
    with clusters.started(tmp_path, count=3, settings=SHORT.format(lease=4, trash=600)) as cluster:
        user = cluster.add_user()
        sent = mail(noise(MIB, seed=41))
        send(cluster.nodes[0], [user], sent)
        expunge_all(cluster.nodes[1], user)
        eventually("the part is in the trash", lambda: cluster.total("prickle_parts", state="trash") == 2, 60)
        stored = cluster.total("prickle_parts_stored_total")
        send(cluster.nodes[2], [user], sent)
        assert (cluster.total("prickle_parts", state="live"), cluster.total("prickle_parts", state="trash")) == (2, 0)
        assert cluster.total("prickle_parts_stored_total") == stored, "it was there"
        for node in cluster.nodes:
            assert_ends(read(node, user), sent)


@pytest.fixture(scope="module")
def cutting(tmp_path_factory):
    settings = "\nstorage: {parts: {enabled: true, thresholdBytes: 64}}\n"
    with clusters.started(tmp_path_factory.mktemp("cutting"), count=3, settings=settings) as cluster:
        yield cluster


def test_a_large_attachment_that_is_fetched_in_pieces_is_put_together_once(five):
    user, attachment = five.add_user(), noise(2 * MIB, seed=9)
    send(five.nodes[0], [user], mail(attachment))
    with clients.imap(five.nodes[3], user) as imap:
        clients.ok(imap.select("INBOX", readonly=True))
        pieces = []
        while not pieces or len(pieces[-1]) == 65536:
            found = clients.ok(imap.fetch("1", f"(BODY.PEEK[2]<{sum(map(len, pieces))}.65536>)"))
            pieces.append(found[0][1])
    assert base64.b64decode(b"".join(pieces)) == attachment
    assert five.nodes[3].metric("prickle_recent_bodies_total") == len(pieces) - 1 > 40


@pytest.mark.parametrize("way", ["lmtp", "bdat", "append-raw"])
def test_real_and_broken_mail_comes_back_though_all_but_the_smallest_parts_are_cut_out(cutting, report, way):
    entry, reader, popper = cutting.nodes
    user = cutting.add_user()
    sent = [message for source in messages.SOURCES for message in messages.all_messages()[source]]
    expected, refused = deliver(way, entry, user, sent)
    assert all(b"\0" in next(message for message in sent if message.name == name).raw for name in refused)
    with clients.imap(reader, user) as imap:
        clients.ok(imap.select("INBOX", readonly=True))
        by_imap = [body for _, body in clients.fetch(imap).values()]
    compare("IMAP", way, sent, expected, by_imap)
    pop3 = clients.pop3(popper, user)
    by_pop3 = [clients.retrieve(pop3, number) for number in range(1, pop3.stat()[0] + 1)]
    pop3.quit()
    ended = {key: body if body.endswith(b"\r\n") else body + b"\r\n" for key, body in expected.items()}
    compare("POP3", way, sent, ended, by_pop3)
    cut = cutting.total("prickle_parts_cut_total")
    assert cut > 200
    report(f"{way}: {len(expected)} messages intact, {cut:.0f} parts cut out so far")
