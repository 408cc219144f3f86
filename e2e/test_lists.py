"""Mailing lists: a message for a list reaches each member, exactly once, whatever dies. See docs/lists.md."""

import collections
import json
import time

import pytest

import clients
import cluster as clusters
from test_encryption import marker
from wait import eventually

MEMBERS = 60


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    settings = "outbound: {enabled: false}\n"
    with clusters.started(tmp_path_factory.mktemp("lists") / "c", count=4, settings=settings) as made:
        yield made


@pytest.fixture(scope="module")
def users(nodes):
    return [nodes.add_user(f"member{number}") for number in range(MEMBERS)]


def add_list(nodes, name, owner, members=(), posting="members"):
    address = f"{name}@{nodes.domain}"
    nodes.admin("list", "add", address, "--owner", owner.address, "--posting", posting, "--description", "The team")
    if members:
        nodes.admin("list", "subscribe", address, *members)
    return address


def post(node, sender, address, one):
    message = f"From: {sender}\r\nSubject: {one}\r\n\r\nbody {one}\r\n".encode()
    with clients.lmtp(node) as lmtp:
        assert clients.send(lmtp, sender, [address], message) == [address]


def copies(node, user, one):
    with clients.imap(node, user) as imap:
        clients.ok(imap.select("INBOX", readonly=True))
        return [body for _, body in clients.fetch(imap).values() if f"body {one}".encode() in body]


def got_it(node, user, one):
    """Waits for it; a second copy would be one too many."""
    return eventually(f"{user.address} has {one}", lambda: len(copies(node, user, one)) == 1, 30)


def test_members_get_what_a_member_posts_and_strangers_may_not_post(nodes, users):
    address = add_list(nodes, "team", users[0], [user.address for user in users[1:5]])
    one = marker()
    post(nodes.nodes[1], users[1].address, address, one)
    for node, user in zip(nodes.nodes, users[1:5]):
        got_it(node, user, one)
    assert not copies(nodes.nodes[0], users[0], one), "an owner is no member"
    (body,) = copies(nodes.nodes[2], users[2], one)
    head = body.split(b"\r\n\r\n")[0].decode()
    assert head.startswith(f"Return-Path: <team+owner@{nodes.domain}>\r\n"), head
    assert f'List-Id: "The team" <team.{nodes.domain}>' in head
    with clients.lmtp(nodes.nodes[0]) as lmtp:
        for sender in ["stranger@example.net", "<>", users[6].address]:
            lmtp.mail(sender)
            assert lmtp.rcpt(address) == (550, b"5.7.2 The sender may not post to this list")
            lmtp.rset()
        lmtp.mail(users[0].address)
        assert lmtp.rcpt(address)[0] == 250, "an owner always may"
    nodes.admin("list", "set", address, "--posting", "anyone")
    two = marker()
    eventually("the change is known", lambda: post(nodes.nodes[3], "stranger@example.net", address, two) is None, 10)
    got_it(nodes.nodes[0], users[1], two)


def test_a_list_in_a_list_an_alias_and_a_loop_give_each_member_one_copy(nodes, users):
    outer, inner = f"outer@{nodes.domain}", f"inner@{nodes.domain}"
    add_list(nodes, "inner", users[0], [users[10].address, users[11].address], posting="anyone")
    nodes.admin("alias", "add", f"both@{nodes.domain}", users[12].address, users[13].address)
    add_list(nodes, "outer", users[0], [inner, f"both@{nodes.domain}", users[10].address], posting="anyone")
    nodes.admin("list", "subscribe", inner, outer)
    one = marker()
    post(nodes.nodes[0], "stranger@example.net", outer, one)
    for user in users[11:14]:
        got_it(nodes.nodes[1], user, one)
    time.sleep(2)
    assert len(copies(nodes.nodes[0], users[10], one)) == 2, "one by each list"
    assert len(copies(nodes.nodes[0], users[11], one)) == 1


def test_owners_are_told_of_members_that_are_gone(nodes, users):
    gone = nodes.add_user("gone")
    address = add_list(nodes, "news", users[20], [users[21].address, gone.address], posting="owners")
    nodes.admin("user", "remove", gone.address)
    one = marker()
    post(nodes.nodes[2], users[20].address, address, one)
    got_it(nodes.nodes[0], users[21], one)

    def report():
        with clients.imap(nodes.nodes[0], users[20]) as imap:
            clients.ok(imap.select("INBOX", readonly=True))
            return [body for _, body in clients.fetch(imap).values() if b"all other members have the message" in body]

    eventually("a report to the owner", lambda: gone.address.encode() in b"".join(report()), 30)
    assert nodes.admin("queue", "list").count(address) == 0


def test_lists_are_shown_changed_exported_and_removed(nodes, users, tmp_path):
    address = add_list(nodes, "shown", users[0])
    file = tmp_path / "members"
    file.write_text("\n".join(f"someone{number}@example.net" for number in range(1500)))
    assert "1500 changed" in nodes.admin("list", "subscribe", address, "--file", file)
    assert "1 changed, 1 as they were" in nodes.admin("list", "unsubscribe", address, "someone7@example.net", "nobody@example.net")
    assert len(nodes.admin("list", "members", address).split()) == 1499
    assert "posting: members" in nodes.admin("list", "show", address)
    assert address in nodes.admin("list", "list").split()
    lines = [json.loads(line) for line in nodes.admin("directory", "export").splitlines()]
    shown = next(line["list"] for line in lines if line.get("list", {}).get("address") == address)
    records = [line["members"] for line in lines if "members" in line and line["members"]["list"] == shown["list"]["id"]]
    assert sum(len(record["members"]) for record in records) == 1499
    nodes.admin("list", "remove", address)
    assert nodes.admin("list", "show", address, check=False).returncode == 1
    wrong = nodes.admin("list", "add", f"x@{nodes.domain}", "--owner", "a@example.net", check=False)
    assert "in none of our domains" in wrong.stderr


def holder(nodes):
    """The node that is to bring a queued message to its members, or None."""
    return next((node for node in nodes.running() if node.metric("prickle_queue_messages") > 0), None)


def test_whoever_dies_each_member_gets_each_message_once(nodes, users):
    address = add_list(nodes, "everybody", users[0], [user.address for user in users], posting="anyone")
    ports = [node for node in nodes.nodes]
    sent = []
    for number in range(30):
        one = marker()
        post(ports[number % 2], "stranger@example.net", address, one)
        sent.append(one)
        if number == 15:
            victim = holder(nodes)
            victim = victim if victim in ports[2:] else ports[3]
            nodes.kill(victim)
    nodes.start_node(victim)
    for user in users[::7]:
        def counts(user=user):
            with clients.imap(ports[0], user) as imap:
                clients.ok(imap.select("INBOX", readonly=True))
                bodies = [body for _, body in clients.fetch(imap).values()]
            return collections.Counter(one for one in sent for body in bodies if f"body {one}".encode() in body)
        eventually(f"{user.address} has all", lambda: len(counts()) == len(sent), 120)
        assert set(counts().values()) == {1}
