"""Logs that are not what peers saw of them: rolled back, cut, or of an older disk. The node starts empty, says why, and is refilled."""

import contextlib
import poplib
import re
import shutil
import subprocess
import threading
import time

import pytest

import clients
from cluster import MAILNODE
from test_healing import check, made
from test_restart import MESSAGE, seen
from wait import eventually

ANNOUNCED = 12  # seconds: a head that moved is given to peers every 10


def data(cluster, node):
    return cluster.directory / "data" / node.name


def aside(cluster, node):
    return [path for path in data(cluster, node).iterdir() if path.name.startswith("quarantined-")]


def send_more(cluster, users, first, count=10):
    for number in range(first, first + count):
        with clients.lmtp(cluster.nodes[0]) as lmtp:
            clients.send(lmtp, "a@example.net", [user.address for user in users], MESSAGE % (number, number))


def quarantined(cluster, node):
    return {member["name"]: member["node"] for member in node.status()["members"]}[node.name]["quarantined"]


def cut(cluster, node, count):
    """The last bytes of the log are gone."""
    segment = max((data(cluster, node) / "log").glob("*.log"))
    with segment.open("r+b") as log:
        log.truncate(segment.stat().st_size - count)


@pytest.fixture
def cluster(tmp_path):
    cluster, users, _ = made(tmp_path, 3)
    yield cluster, users
    cluster.close()


def refilled(cluster, node, held):
    eventually(f"{node} has its copies back", lambda: node.metric("prickle_log_live_bytes") > held * 0.8, 60)

    # So much is there while a comparison with one of the peers may still be under way.
    def compared():
        members = [member["node"] for member in cluster.running()[0].status()["members"]]
        return all(member and member["healing"]["peersToCompare"] == 0 for member in members)
    eventually("all have compared what they share", compared, 60)
    cluster.settled()


def test_a_log_that_was_rolled_back_is_put_aside_and_refilled(cluster, tmp_path):
    cluster, users = cluster
    first, rolled_back, third = cluster.nodes
    rolled_back.process.stop()
    shutil.copytree(data(cluster, rolled_back), tmp_path / "old")
    cluster.start_node(rolled_back)
    cluster.settled()
    send_more(cluster, users, 1000)
    before = seen(first, users)
    cluster.settled()
    held = rolled_back.metric("prickle_log_live_bytes")
    time.sleep(ANNOUNCED)
    rolled_back.process.stop()
    shutil.rmtree(data(cluster, rolled_back))
    shutil.copytree(tmp_path / "old", data(cluster, rolled_back))

    cluster.start_node(rolled_back)
    assert len(aside(cluster, rolled_back)) == 1
    assert "rolled back or cut" in quarantined(cluster, rolled_back)["reason"]
    assert rolled_back.metric("prickle_log_quarantine_timestamp_seconds") > 0
    # Who answers may not have reached the new process yet.
    eventually("it is told of", lambda: "quarantine" in cluster.admin("cluster", "status").lower(), 10)
    refilled(cluster, rolled_back, held)
    check(cluster.nodes, users, before)
    # It is this log that peers know now: the next start finds nothing wrong.
    time.sleep(ANNOUNCED)
    cluster.kill(rolled_back)
    cluster.start_node(rolled_back)
    assert len(aside(cluster, rolled_back)) == 1
    cluster.kill(first)
    check([rolled_back, third], users, before)


def test_a_log_that_was_cut_is_put_aside_and_the_old_disk_of_a_replaced_one_is_known(cluster, tmp_path):
    cluster, users = cluster
    first, victim, third = cluster.nodes
    before = seen(first, users)
    held = victim.metric("prickle_log_live_bytes")
    time.sleep(ANNOUNCED)
    victim.process.stop()
    shutil.copytree(data(cluster, victim), tmp_path / "old")
    cut(cluster, victim, 3000)
    cluster.start_node(victim)
    assert len(aside(cluster, victim)) == 1
    refilled(cluster, victim, held)

    # The disk that was in use before comes back, whole.
    time.sleep(ANNOUNCED)
    victim.process.stop()
    shutil.rmtree(data(cluster, victim))
    shutil.copytree(tmp_path / "old", data(cluster, victim))
    cluster.start_node(victim)
    assert "older log" in quarantined(cluster, victim)["reason"]
    refilled(cluster, victim, held)
    cluster.kill(first)
    check([victim, third], users, before)


def test_a_node_that_is_asked_to_stop_while_it_begins_anew_stops(cluster):
    cluster, users = cluster
    victim = cluster.nodes[1]
    time.sleep(ANNOUNCED)
    victim.process.stop()
    cut(cluster, victim, 3000)
    cluster.start_node(victim, wait=False)

    # A login that waits for a user database keeps the old program from ending for some seconds.
    def log_in():
        while not victim.process.has_said("is put into quarantine"):
            with contextlib.suppress(OSError, poplib.error_proto, EOFError):
                clients.pop3(victim, users[0]).close()
    login = threading.Thread(target=log_in)
    login.start()
    eventually("its log is found to be cut", lambda: victim.process.has_said("is put into quarantine"), 20, every=0.01)
    assert victim.process.stop(seconds=20) == 0
    login.join()
    assert victim.process.has_said("stopped before it began anew")
    assert not aside(cluster, victim)
    cluster.start_node(victim)
    assert len(aside(cluster, victim)) == 1


def test_a_whole_cluster_that_lost_the_ends_of_its_logs_uses_what_is_left(cluster):
    cluster, users = cluster
    time.sleep(ANNOUNCED)
    cluster.stop()
    for node in cluster.nodes:
        cut(cluster, node, 200)
    cluster.start()
    assert not any(aside(cluster, node) for node in cluster.nodes)
    for node in cluster.nodes:
        assert len(seen(node, users)[users[0].address, "INBOX"][1]) >= 25
    send_more(cluster, users, 2000, 1)


def run(*arguments):
    return subprocess.run([MAILNODE, "log", *arguments], capture_output=True, text=True, timeout=60)


def test_a_log_is_verified_and_shown_from_its_files(cluster):
    cluster, users = cluster
    node = cluster.nodes[0]
    node.process.stop()
    where = ["--data", str(data(cluster, node))]
    sound = run("verify", *where)
    assert sound.returncode == 0 and "head" in sound.stdout, sound
    shown = run("dump", *where)
    assert shown.returncode == 0 and "entry" in shown.stdout and "group 1/" in shown.stdout
    for secret in (b"This is message".decode(), users[0].password):
        assert secret not in shown.stdout
    segment = min((data(cluster, node) / "log").glob("*.log"))
    with segment.open("r+b") as log:
        log.seek(segment.stat().st_size // 2)
        log.write(b"damage" * 10)
    damaged = run("verify", *where)
    assert damaged.returncode == 1 and "not what was written" in damaged.stderr, damaged
    assert run("verify", "--data", "/nonexistent").returncode == 1


def test_signatures_in_a_log_agree_with_it_and_are_the_nodes_own(cluster):
    cluster, users = cluster
    send_more(cluster, users, 0)
    cluster.stop()
    node, other = cluster.nodes[:2]

    def verify(certificate):
        command = [MAILNODE, "log", "verify", "--data", data(cluster, node), "--name", node.name]
        command += ["--certificate", cluster.directory / f"{certificate}.pem"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        found = (re.match(r"(.+?)\s{2,}(\d+)", line) for line in done.stdout.splitlines())
        return {match[1]: int(match[2]) for match in found if match}

    right = verify(node.name)
    assert right["contradicted"] == right["by other keys"] == 0, right
    assert verify(other.name)["by other keys"] > 0
