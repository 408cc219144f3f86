"""IDLE (RFC 2177): what happens at one node is told to sessions at other nodes in under 100 ms."""

import statistics
import time

import clients

LIMIT = 0.100
MESSAGE = b"Subject: wake up\r\n\r\nnow\r\n"


def summary(delays):
    return f"median {statistics.median(delays) * 1000:.1f} ms, longest {max(delays) * 1000:.1f} ms, of {len(delays)}"


def test_a_delivery_at_one_node_wakes_a_session_at_another_in_under_100_ms(cluster, report):
    """20 deliveries to 10 users, so that each node manages some of them."""
    delays = []
    entry, reader = cluster.nodes[0], cluster.nodes[1]
    with clients.lmtp(entry) as lmtp:
        for _ in range(10):
            user = cluster.add_user()
            with clients.imap(reader, user) as imap:
                clients.ok(imap.select("INBOX"))
                idle = clients.Idle(imap)
                for count in (1, 2):
                    clients.send(lmtp, "a@example.net", [user.address], MESSAGE)
                    begun = time.monotonic()
                    delays.append(max(0.0, idle.wait(rb"\* %d EXISTS" % count) - begun))
                idle.done()
    report(f"from the 250 to EXISTS: {summary(delays)}")
    assert statistics.median(delays) < LIMIT
    assert sum(delay > LIMIT for delay in delays) <= 2, f"more than a tenth are late: {sorted(delays)}"


def test_changes_of_flags_and_expunges_at_one_node_are_seen_at_another_in_under_100_ms(cluster, user, report):
    delays = []
    actor, watcher = clients.imap(cluster.nodes[1], user), clients.imap(cluster.nodes[2], user)
    for _ in range(20):
        clients.append(actor, "INBOX", MESSAGE)
    for client in (actor, watcher):
        assert clients.ok(client.select("INBOX")) == [b"20"]
    idle = clients.Idle(watcher)
    for number in range(1, 11):
        begun = time.monotonic()
        clients.ok(actor.store(str(number), "+FLAGS", r"(\Flagged)"))
        delays.append(idle.wait(rb"\* %d FETCH .*\\Flagged" % number) - begun)
    clients.ok(actor.store("11:20", "+FLAGS", r"(\Deleted)"))
    idle.wait(rb"\* 20 FETCH .*\\Deleted")
    begun = time.monotonic()
    clients.ok(actor.expunge())
    idle.wait(rb"\* (11|20) EXPUNGE|VANISHED")
    delays.append(time.monotonic() - begun)
    report(f"from the command to the event: {summary(delays)}")
    assert statistics.median(delays) < LIMIT
    for client in (actor, watcher):
        client.shutdown()
