"""A node that hangs without dying: its connections stay open and nothing answers. Deliveries and readers do not wait for it."""

import os
import signal
import time

import pytest

import cluster as clusters
import clients
from wait import eventually

REPLACED = 1.0
MESSAGE = "Subject: {0}\r\nX-Number: {0}\r\n\r\nmessage {0}\r\n"


@pytest.fixture
def four(tmp_path):
    with clusters.started(tmp_path / "c", count=4) as made:
        yield made


def test_a_frozen_replica_is_replaced_within_a_second_and_catches_up_when_it_thaws(four, report):
    users = [four.add_user() for _ in range(12)]
    frozen, *others = four.nodes
    sent = 0

    def deliver(node, user):
        nonlocal sent
        sent += 1
        begun = time.monotonic()
        with clients.lmtp(node) as lmtp:
            assert clients.send(lmtp, "a@example.net", [user.address], MESSAGE.format(sent).encode()) == [user.address]
        return time.monotonic() - begun

    for user in users:
        deliver(frozen, user)
    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        # At once, before anybody can know: some of these want the frozen node as a replica, or as the manager.
        took = [deliver(node, user) for user in users for node in others]
        report(f"slowest of {len(took)} deliveries with a frozen node: {max(took):.2f} s, median {sorted(took)[len(took) // 2] * 1000:.0f} ms")
        eventually("it is out of the view", lambda: frozen.name not in four.active(others[0]), 10)
        for user in users:
            with clients.imap(others[1], user) as imap:
                assert clients.ok(imap.select("INBOX")) == [b"4"], f"{user.address} misses mail while a node is frozen"
    finally:
        os.kill(frozen.process.pid, signal.SIGCONT)
    # Two steps may each wait for the frozen node before anybody knows: verification and the copy.
    assert sum(seconds > REPLACED for seconds in took) <= 2, sorted(took)[-5:]
    assert max(took) < 2 * REPLACED + 0.5, sorted(took)[-5:]
    eventually("it is back", lambda: frozen.name in four.active(others[0]), 20)
    four.settled()
    for user in users:
        with clients.imap(frozen, user) as imap:
            assert clients.ok(imap.select("INBOX")) == [b"4"]
