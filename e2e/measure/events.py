#!/usr/bin/env python3
"""Figures of event notification, for docs/figures/events.md. Real processes on loopback; nothing else should run meanwhile.

    e2e/measure/events.py [--idle 1,10000] [--deliveries 300]

From the answer 250 of LMTP at one node to `* EXISTS` in a session that idles at another, of three nodes with two copies of each
message; with so many idle sessions at that node, ten of each user. Prints lines of Markdown.
"""

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import clients  # noqa: E402 - found through the path above
import cluster as clusters  # noqa: E402

SESSIONS_OF_A_USER = 10
LOGINS_AT_ONCE = 16
MESSAGE = b"Subject: an event\r\n\r\nnow\r\n"


async def idle(node, user, context, gate):
    """A session that idles: its reader and writer."""
    async with gate:
        reader, writer = await asyncio.open_connection(node.host, node.ports["imaps"], ssl=context, server_hostname=node.certified)
        await reader.readline()
        for tag, command in (("a", f'LOGIN {user.address} "{user.password}"'), ("b", "SELECT INBOX")):
            writer.write(f"{tag} {command}\r\n".encode())
            while not (line := await reader.readline()).startswith(tag.encode()):
                assert line, "the server closed the connection"
            assert b" OK" in line, line
        writer.write(b"c IDLE\r\n")
        assert (await reader.readline()).startswith(b"+")
        return reader, writer


async def drain(reader):
    while await reader.readline():
        pass


async def measure(cluster, count, deliveries):
    entry, node = cluster.nodes[0], cluster.nodes[1]
    users = [cluster.add_user() for _ in range(max(1, count // SESSIONS_OF_A_USER))]
    gate, context = asyncio.Semaphore(LOGINS_AT_ONCE), clients.tls(node)
    wanted = [users[number % len(users)] for number in range(count)]
    sessions = await asyncio.gather(*(idle(node, user, context, gate) for user in wanted))
    watched = {user.address: reader for user, (reader, _) in zip(users, sessions)}
    others = [asyncio.create_task(drain(reader)) for reader, _ in sessions[len(users):]]
    delays = []
    with clients.lmtp(entry) as lmtp:
        for number in range(deliveries):
            user = users[number * 7 % len(users)]
            seen = asyncio.create_task(exists(watched[user.address]))
            await asyncio.to_thread(clients.send, lmtp, "a@example.net", [user.address], MESSAGE)
            begun = time.monotonic()
            delays.append(max(0.0, await asyncio.wait_for(seen, 20) - begun))
    for task in others:
        task.cancel()
    for _, writer in sessions:
        writer.transport.abort()
    delays.sort()
    at = lambda part: delays[min(len(delays) - 1, int(len(delays) * part))] * 1000  # noqa: E731
    print(f"| {count:,} | {len(users):,} | {deliveries} | {at(0.5):.1f} | {at(0.99):.1f} | {delays[-1] * 1000:.1f} |", flush=True)
    assert statistics.median(delays) < 10


async def exists(reader):
    while b" EXISTS" not in (line := await reader.readline()):
        assert line, "the server closed the connection"
    return time.monotonic()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", default="1,10000")
    parser.add_argument("--deliveries", type=int, default=300)
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print("| idle sessions | users | deliveries | p50, ms | p99, ms | longest, ms |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as directory:
        with clusters.started(Path(directory), settings="limits: {connections: 20000}\n", log="warn") as cluster:
            for count in map(int, arguments.idle.split(",")):
                asyncio.run(measure(cluster, count, arguments.deliveries))


if __name__ == "__main__":
    main()
