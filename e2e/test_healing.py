"""Disks lost, nodes lost for good, nodes drained: every message stays readable, with its UID and flags, and gets its copies back.

With two copies of each message, what proves that a copy is where it should be is that another node dies and nothing is missing.
"""

import shutil
import subprocess
import threading
import time

import pytest

import clients
import cluster as clusters
from test_restart import MESSAGE, fill, seen
from wait import eventually

REPLACE_AFTER = 8


def made(directory, count, tombstones=3600, settings=""):
    cluster = clusters.Cluster(directory / "c", count=count, settings=settings)
    for node in cluster.nodes:
        healing = f"healing: {{replaceAfterSeconds: {REPLACE_AFTER}, tombstoneLifetimeSeconds: {tombstones}}}\n"
        node.config.write_text(node.config.read_text() + healing)
    cluster.start()
    cluster.add_domain()
    users = [cluster.add_user(f"user{number}") for number in range(6)]
    fill(cluster, users)
    before = seen(cluster.nodes[0], users)
    cluster.settled()
    return cluster, users, before


def lose(cluster, node):
    """The process and its disk."""
    cluster.kill(node)
    shutil.rmtree(cluster.directory / "data" / node.name)


def members(node):
    return {member["name"]: member["state"] for member in node.status()["members"]}


def check(nodes, users, before):
    for node in nodes:
        assert seen(node, users) == before, f"through {node}"


def test_a_wiped_disk_is_brought_level(tmp_path, report):
    cluster, users, before = made(tmp_path, 3)
    try:
        first, wiped, third = cluster.nodes
        held = wiped.metric("prickle_log_live_bytes")
        lose(cluster, wiped)
        cluster.start_node(wiped)
        eventually(f"{wiped} has its copies back", lambda: wiped.metric("prickle_log_live_bytes") > held * 0.8, 60)
        cluster.settled()
        repaired = sum(node.metric("prickle_healing_repaired_entries_total") for node in cluster.nodes)
        assert repaired > 20
        check(cluster.nodes, users, before)
        # Now one of those that refilled it goes: what both had is read from the refilled one.
        cluster.kill(first)
        check([wiped, third], users, before)
        report(f"{repaired:.0f} entries repaired")
    finally:
        cluster.close()


def test_a_node_lost_for_good_is_replaced(tmp_path, report):
    cluster, users, before = made(tmp_path, 4)
    try:
        lost, second, third, fourth = cluster.nodes
        lose(cluster, lost)
        left = [second, third, fourth]
        for node in left:
            eventually(f"{node} gave up {lost}", lambda: lost.name not in members(node), REPLACE_AFTER + 15)
        moved = lambda: sum(node.metric("prickle_healing_moved_entries_total") for node in left)  # noqa: E731
        eventually("entries get new replicas", lambda: moved() > 20, 30)
        cluster.settled(60)
        check(left, users, before)
        report(f"{moved():.0f} entries moved")
        # Each message that had a copy on the lost node has two again.
        cluster.kill(second)
        check([third, fourth], users, before)
    finally:
        cluster.close()


def test_a_node_away_longer_than_tombstones_live_starts_empty_and_is_refilled(tmp_path):
    cluster, users, before = made(tmp_path, 4, tombstones=12)
    try:
        away, second, third, fourth = cluster.nodes
        cluster.kill(away)
        eventually(f"{away} is given up", lambda: away.name not in members(second), REPLACE_AFTER + 15)
        with clients.imap(second, users[0]) as imap:
            clients.ok(imap.select("INBOX"))
            gone = sorted(before[users[0].address, "INBOX"][1])[:10]
            clients.ok(imap.uid("STORE", f"{gone[0]}:{gone[-1]}", "+FLAGS", r"(\Deleted)"))
            clients.ok(imap.expunge())
        cluster.settled(60)
        time.sleep(12)  # Every tombstone is older than its lifetime now.
        cluster.start_node(away)
        aside = [path for path in (cluster.directory / "data" / away.name).iterdir() if path.name.startswith("outdated-")]
        assert len(aside) == 1 and "starts empty" in away.process.log.read_text()
        for uid in gone:
            del before[users[0].address, "INBOX"][1][uid]
        cluster.settled(60)
        check(cluster.nodes, users, before)
        second.process.stop()
        check([away, third, fourth], users, before)
    finally:
        cluster.close()


def test_a_damaged_body_is_read_elsewhere_and_stored_again(tmp_path):
    # Bodies, not parts of them, which test_parts.py damages.
    cluster, users, _ = made(tmp_path, 3, settings="storage: {parts: {enabled: false}}\n")
    try:
        text = b"Subject: large\r\n\r\n" + b"".join(b"line %06d of a large message\r\n" % line for line in range(12_000))
        held = {node: node.metric("prickle_log_live_bytes") for node in cluster.nodes}
        with clients.lmtp(cluster.nodes[0]) as lmtp:
            clients.send(lmtp, "a@example.net", [users[0].address], text)
        holder = next(node for node in cluster.nodes if node.metric("prickle_log_live_bytes") > held[node] + len(text))
        cluster.settled()
        holder.process.stop()
        segment = max((cluster.directory / "data" / holder.name / "log").glob("*.log"))
        with segment.open("r+b") as log:
            log.seek(segment.stat().st_size - len(text) // 2)
            log.write(b"damage" * 100)
        cluster.start_node(holder)

        def intact():
            with clients.imap(holder, users[0]) as imap:
                clients.ok(imap.select("INBOX", readonly=True))
                return any(body.endswith(text) for _, body in clients.fetch(imap).values())

        assert intact()
        eventually("it is stored again", lambda: holder.metric("prickle_healing_repaired_bodies_total") == 1, 10)
        assert holder.metric("prickle_log_corrupt_records_total") >= 1
        for node in cluster.nodes:
            if node is not holder:
                cluster.kill(node)
        assert holder.metric("prickle_log_live_bytes") > held[holder] + len(text)
    finally:
        cluster.close()


def test_a_drain_returns_when_nothing_lives_only_there(tmp_path):
    cluster, users, before = made(tmp_path, 3)
    try:
        drained, second, third = cluster.nodes
        session = clients.imap(drained, users[0])
        clients.ok(session.select("INBOX"))
        said = []
        waiting = threading.Thread(target=lambda: said.append(cluster.admin("cluster", "drain", drained.name, node=second)))
        waiting.start()
        with pytest.raises(Exception, match="(?i)bye|closed|eof|going down"):
            for _ in range(200):
                session.noop()
        waiting.join(60)
        assert said and "is drained" in said[0], said
        assert members(second)[drained.name] == "draining"
        cluster.settled()
        with clients.lmtp(second) as lmtp:
            clients.send(lmtp, "a@example.net", [users[0].address], MESSAGE % (300, 300))
        after = seen(second, users)
        lose(cluster, drained)
        check([second, third], users, after)
        cut = {place: (validity, {uid: mail for uid, mail in mails.items() if b"number 300" not in mail[1]}) for place, (validity, mails) in after.items()}
        assert cut == before
    finally:
        cluster.close()


def cancel_worked(cancel):
    """The other nodes may need a moment to see the new life of a node."""
    return lambda: cancel() == ""


def test_a_drain_can_be_cancelled_and_outlives_a_restart(tmp_path):
    cluster, users, before = made(tmp_path, 3)
    try:
        node, second, third = cluster.nodes
        cluster.admin("cluster", "drain", node.name, "--no-wait", node=second)
        eventually("it drains", lambda: members(second)[node.name] == "draining", 10)
        assert node.http("GET", "/readyz", token="")[0] == 503
        node.process.stop()
        cluster.start_node(node, wait=False)
        eventually("it drains again", lambda: members(node)[node.name] == "draining", 20)
        cancel = lambda: cluster.admin("cluster", "drain", node.name, "--cancel", node=third)  # noqa: E731
        eventually("the drain is cancelled", cancel_worked(cancel), 20, every=0.5)
        eventually("it is active", lambda: members(second)[node.name] == "active", 10)
        eventually("it is ready", node.is_ready, 20)
        cluster.settled(60)
        check(cluster.nodes, users, before)
        refused = cluster.admin("cluster", "drain", "nobody", node=second, check=False)
        assert isinstance(refused, subprocess.CompletedProcess) and refused.returncode == 1 and "not found" in refused.stderr
    finally:
        cluster.close()
