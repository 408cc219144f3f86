"""Mail, accounts, flags, folders and UIDs survive a clean stop, and `kill -9` of all nodes at once."""

import signal

import pytest

import clients
import cluster as clusters
from wait import eventually

MESSAGE = b"From: a@example.net\r\nSubject: number %d\r\n\r\nThis is message %d.\r\n"


def fill(cluster, users):
    """Mail by LMTP and APPEND, flags, a folder, an expunge, through all nodes. Returns the expunged UIDs by user."""
    expunged = {}
    for number in range(30):
        with clients.lmtp(cluster.nodes[number % len(cluster.nodes)]) as lmtp:
            clients.send(lmtp, "a@example.net", [user.address for user in users], MESSAGE % (number, number))
    for number, user in enumerate(users):
        with clients.imap(cluster.nodes[number % len(cluster.nodes)], user) as imap:
            clients.ok(imap.create("Kept"))
            clients.append(imap, "Kept", MESSAGE % (100, 100), r"\Seen \Draft")
            clients.ok(imap.select("INBOX"))
            clients.ok(imap.store("1:10", "+FLAGS", r"(\Seen)"))
            clients.ok(imap.store("5", "+FLAGS", r"(\Flagged $Later)"))
            uids = clients.ok(imap.uid("SEARCH", "ALL"))[0].split()
            clients.ok(imap.uid("STORE", uids[-1], "+FLAGS", r"(\Deleted)"))
            clients.ok(imap.expunge())
            expunged[user.address] = int(uids[-1])
    return expunged


def seen(node, users):
    """All that a client can see of all users through a node."""
    everything = {}
    for user in users:
        with clients.imap(node, user) as imap:
            for folder in ("INBOX", "Kept"):
                clients.ok(imap.select(folder, readonly=True))
                everything[user.address, folder] = (clients.uid_validity(imap), clients.fetch(imap))
    return everything


def check_same(cluster, users, before, expunged):
    for node in cluster.nodes:
        assert seen(node, users) == before, f"through {node}"
    for user in users:
        with clients.imap(cluster.nodes[-1], user) as imap:
            clients.ok(imap.select("INBOX"))
            highest = max(expunged[user.address], *before[user.address, "INBOX"][1])
            validity, uid = clients.append(imap, "INBOX", MESSAGE % (200, 200))
            assert validity == before[user.address, "INBOX"][0]
            assert uid > highest, "the UID of the expunged message was given out again"


def test_a_node_that_is_asked_to_stop_while_it_starts_stops(tmp_path):
    cluster = clusters.Cluster(tmp_path / "c", count=2)
    try:
        # Nobody else is there, so it waits.
        node = cluster.nodes[0]
        for _ in range(3):
            cluster.start_node(node, wait=False)
            eventually("it has begun", lambda: node.process.has_said("INFO"), 20)
            assert node.process.stop() == 0
    finally:
        cluster.close()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_dev_stops_cleanly_and_everything_is_there_again(tmp_path, sign):
    cluster = clusters.DevCluster(tmp_path)
    try:
        cluster.start()
        users = cluster.accounts()
        expunged = fill(cluster, users)
        before = seen(cluster.nodes[0], users)
        assert cluster.stop(sign) == 0
        cluster.start()
        assert cluster.accounts() == users
        check_same(cluster, users, before, expunged)
    finally:
        cluster.close()


def test_nothing_acknowledged_is_lost_when_all_nodes_are_killed_at_once(tmp_path):
    cluster = clusters.Cluster(tmp_path / "c", count=3)
    try:
        cluster.start()
        cluster.add_domain()
        users = [cluster.add_user() for _ in range(3)]
        expunged = fill(cluster, users)
        before = seen(cluster.nodes[0], users)
        for node in cluster.nodes:
            cluster.kill(node)
        cluster.start()
        check_same(cluster, users, before, expunged)
    finally:
        cluster.close()


def test_nodes_that_are_asked_to_stop_end_with_success(tmp_path):
    cluster = clusters.Cluster(tmp_path / "c", count=2)
    try:
        cluster.start()
        assert cluster.stop(signal.SIGTERM) == [0, 0]
    finally:
        cluster.close()
