#!/usr/bin/env python3
"""Figures of the two user databases, for docs/figures/tikv.md: the embedded one and TiKV (the test server of e2e/tikv), each behind
three real nodes on loopback, one after the other in one run; nothing else should run meanwhile.

    PRICKLE_TIKV=$(e2e/tikv/build.sh) e2e/measure/user_database.py [--users 300] [--rounds 3]

What is measured is what clients see: a look-up is an LMTP RCPT (address and profile), pipelined so that Python does not count.
Prints lines of Markdown.
"""

import argparse
import concurrent.futures
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import clients  # noqa: E402 - found through the path above
import cluster as clusters  # noqa: E402
from tikv_server import TikvServer, put_accounts_into  # noqa: E402

CLIENTS = 8
RECIPIENTS = 100
#: How many users get new folders.
FILERS = 60
MESSAGE = b"Subject: x\r\n\r\nx\r\n"


def together(work, items):
    """Seconds that CLIENTS workers need for all items; each gets (node number, item)."""
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(len(items)), items))
    return time.monotonic() - begun


class Lines:
    """LMTP, as fast as it goes: many commands in one packet (RFC 2920)."""

    def __init__(self, node):
        self._socket = socket.create_connection((node.host, node.ports["lmtp"]), 20)
        self._file = self._socket.makefile("rb")
        self.answers(1)
        self.ask(["LHLO client.example.net"])

    def ask(self, commands):
        self._socket.sendall("".join(f"{command}\r\n" for command in commands).encode())
        return self.answers(len(commands))

    def answers(self, count):
        found = []
        while len(found) < count:
            line = self._file.readline()
            assert line, "hung up"
            if line[3:4] != b"-":
                found.append(int(line[:3]))
        return found

    def close(self):
        self._file.close()
        self._socket.close()


def look_ups(cluster, users):
    """RCPTs a second, spread over all nodes."""
    parts = [users[start:start + RECIPIENTS] for start in range(0, len(users), RECIPIENTS)] * len(cluster.nodes)

    def ask(number, part):
        lines = Lines(cluster.nodes[number * len(cluster.nodes) // len(parts)])
        answers = lines.ask(["MAIL FROM:<a@example.net>", *(f"RCPT TO:<{user.address}>" for user in part), "RSET"])
        assert set(answers) == {250}, set(answers)
        lines.close()
    return len(users) * len(cluster.nodes) / together(ask, parts)


def restart(cluster):
    for node in cluster.nodes:
        cluster.kill(node)
    cluster.start()


def measure(cluster, options):
    """Name -> so many a second."""
    names = [f"user{number}" for number in range(options.users)]
    users = []
    figures = {"accounts made": len(names) / together(lambda _, name: users.append(cluster.add_user(name)), names)}
    uncached, cached = [], []
    for _ in range(options.rounds):
        restart(cluster)
        uncached.append(look_ups(cluster, users))
        # Nodes believe an address for five seconds, and their managers keep the profile.
        for _ in range(3):
            cached.append(look_ups(cluster, users))
    figures["look-ups, nothing in memory"] = statistics.median(uncached)
    figures["look-ups, cached"] = statistics.median(cached)

    def log_in(number, user):
        clients.pop3(cluster.nodes[number % len(cluster.nodes)], user).quit()
    restart(cluster)
    figures["log-ins, nothing in memory"] = len(users) / together(log_in, users)
    figures["log-ins, again"] = len(users) / together(log_in, users)

    def file(number, user):
        imap = connections[number]
        for folder in range(options.rounds):
            clients.append(imap, f"f{folder}", MESSAGE)
    filers = users[:FILERS]
    connections = [clients.imap(cluster.nodes[number % len(cluster.nodes)], user) for number, user in enumerate(filers)]

    def create(number, user):
        for folder in range(options.rounds):
            clients.ok(connections[number].create(f"f{folder}"))
    count = len(filers) * options.rounds
    figures["folders made"] = count / together(create, filers)
    figures["first messages of new folders (a UID block is reserved)"] = count / together(file, filers)
    figures["second messages (no reservation)"] = count / together(file, filers)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        with clusters.started(Path(directory) / "embedded", log="warn") as cluster:
            embedded = measure(cluster, options)
        server = TikvServer(Path(directory) / "server")
        try:
            with clusters.started(Path(directory) / "tikv", lambda made: put_accounts_into(made, server), log="warn") as cluster:
                tikv = measure(cluster, options)
        finally:
            server.close()
    print(f"load average before: {load:.1f}; {CLIENTS} clients, three nodes\n")
    print("| a second | embedded | TiKV (test server) | ratio |\n| --- | ---: | ---: | ---: |")
    for name, value in embedded.items():
        print(f"| {name} | {value:,.0f} | {tikv[name]:,.0f} | {tikv[name] / value:.2f} |")


if __name__ == "__main__":
    main()
