"""NOTIFY (RFC 5465): what happens in any mailbox, at any node, is told without IDLE, and after the manager's end, too."""

import re
import statistics
import time

import clients
import cluster as clusters

MESSAGE = b"Subject: %s\r\n\r\nnow\r\n"
LIMIT = 0.100


def notify(client, wanted):
    tag = client._new_tag()
    client.send(tag + b" NOTIFY " + wanted + b"\r\n")
    return until(client, tag)


def until(client, end):
    """The lines up to one that begins with `end` or matches it."""
    lines = []
    while True:
        line = client.readline()
        assert line, "the server closed the connection"
        lines.append(line.rstrip(b"\r\n"))
        if line.startswith(end) or re.search(end, line):
            return lines


def test_other_mailboxes_and_the_selected_one_are_told_of_at_once(cluster, user, report):
    actor, watcher = clients.imap(cluster.nodes[0], user), clients.imap(cluster.nodes[1], user)
    clients.ok(actor.create("Lists"))
    clients.ok(watcher.select("INBOX"))
    wanted = (
        b"SET STATUS (selected (MessageNew (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)]) MessageExpunge FlagChange))"
        b" (personal (MessageNew MessageExpunge MailboxName))"
    )
    lines = notify(watcher, wanted)
    assert any(line.startswith(b"* STATUS Lists (MESSAGES 0 ") for line in lines), lines
    assert b" OK" in lines[-1], lines
    delays = []
    for number in range(1, 11):
        clients.append(actor, "Lists", MESSAGE % b"other")
        begun = time.monotonic()
        until(watcher, rb"\* STATUS Lists \(MESSAGES %d " % number)
        delays.append(time.monotonic() - begun)
    clients.append(actor, "INBOX", MESSAGE % b"hello")
    lines = until(watcher, rb"^\)")
    assert any(re.search(rb"\* 1 FETCH \(UID \d+ BODY\[HEADER.FIELDS \(SUBJECT\)\]", line) for line in lines), lines
    assert b"Subject: hello" in lines, lines
    clients.ok(actor.create("Born"))
    until(watcher, rb'\* LIST \(\) "/" Born')
    clients.ok(actor.rename("Born", "Grown"))
    until(watcher, rb'\* LIST \(\) "/" Grown \("OLDNAME" \(Born\)\)')
    clients.ok(actor.delete("Grown"))
    until(watcher, rb'\* LIST \(\\NonExistent\) "/" Grown')
    report(f"from APPEND's OK to STATUS at another node: median {statistics.median(delays) * 1000:.1f} ms")
    assert statistics.median(delays) < LIMIT
    assert b" OK" in notify(watcher, b"NONE")[-1]
    for client in (actor, watcher):
        client.shutdown()


def test_nothing_is_missed_when_a_manager_is_killed(tmp_path):
    """Whoever manages a mailbox next takes its topic over: twelve users, a third of them managed by the node that dies."""
    with clusters.started(tmp_path) as cluster:
        users = [cluster.add_user() for _ in range(12)]
        watchers = [clients.imap(cluster.nodes[0], user) for user in users]
        for watcher in watchers:
            assert b" OK" in notify(watcher, b"SET (personal (MessageNew MessageExpunge))")[-1]
            watcher.sock.settimeout(20)
        cluster.kill(cluster.nodes[2])
        with clients.lmtp(cluster.nodes[1]) as lmtp:
            for user in users:
                clients.send(lmtp, "a@example.net", [user.address], MESSAGE % b"after")
        for watcher in watchers:
            until(watcher, rb"\* STATUS INBOX \(MESSAGES 1 ")
            watcher.shutdown()
