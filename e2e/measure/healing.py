#!/usr/bin/env python3
"""Figures of healing, for docs/figures/healing.md. Real processes on loopback; nothing else should run meanwhile.

    e2e/measure/healing.py losing [--entries 40000]    a node is lost: p99 of deliveries with and without re-replication
    e2e/measure/healing.py holding [--entries 0,100000,1000000] two nodes that hold so many: starts, bytes of anti-entropy

Prints what it measured as lines of Markdown.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cluster as clusters  # noqa: E402 - found through the path above
from wait import eventually  # noqa: E402

USERS = 200
LONG = 1_200


class Bed:
    """A cluster with users, and the driver that delivers to them."""

    def __init__(self, directory, count, settings=""):
        self.directory = directory
        self.cluster = clusters.Cluster(directory / "c", count=count, settings=settings, log="warn")
        self.cluster.start()
        self.cluster.add_domain()
        for number in range(1, USERS + 1):
            self.cluster.add_user(f"user{number}")

    def fill(self, entries):
        """One body for each 200 of them. What is refused, because the machine is busy, is tried again."""
        left, patience = entries, time.monotonic() + LONG
        while left > 0:
            assert time.monotonic() < patience, f"{left} entries could not be delivered"
            number = str(min(-(-left // USERS), 200))
            left -= self.deliver(self.cluster.nodes, 4, "--messages", number, "--recipients", USERS, whole=False)["acknowledged"]

    def deliver(self, nodes, connections, *arguments, whole=True):
        """Figures of one level."""
        out = self.directory / "bench.json"
        targets = [part for node in nodes for part in ("--target", f"127.0.0.1:{node.ports['lmtp']}")]
        command = [clusters.MAILNODE, "bench", "--users", USERS, "--connections", connections, "--json", out, *targets, *arguments]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=LONG)
        assert done.returncode == 0 or not whole, done.stderr
        return json.loads(out.read_text())["deliveries"][0]


def total(nodes, name):
    return sum(node.metric(name) for node in nodes)


def level(what, figures):
    latency = figures["latency"]
    print(
        f"| {what} | {figures['connections']} | {figures['per_second']:,.0f} | {latency['p50_millis']:.1f} | {latency['p99_millis']:.1f} |"
        f" {latency['max_millis']:.0f} |",
        flush=True,
    )


def losing(options, directory):
    replace_after = 60
    bed = Bed(directory, 4, f"healing: {{replaceAfterSeconds: {replace_after}}}\n")
    cluster = bed.cluster
    try:
        filled = bed.deliver(cluster.nodes, 32, "--messages", options.entries[0])
        print(f"filled: {filled['acknowledged']} entries at {filled['per_second']:,.0f}/s", flush=True)
        cluster.settled(120)
        lost, *left = cluster.nodes
        cluster.kill(lost)
        killed = time.monotonic()
        shutil.rmtree(cluster.directory / "data" / lost.name)
        eventually("it is out of the view", lambda: all(lost.name not in cluster.active(node) for node in left), 20)
        time.sleep(3)
        print("| | connections | messages/s | p50 ms | p99 ms | max ms |\n| --- | ---: | ---: | ---: | ---: | ---: |")
        for connections in (1, 8):
            level("nothing else to do", bed.deliver(left, connections, "--seconds", 12))
        moved = lambda: total(left, "prickle_healing_moved_entries_total")  # noqa: E731
        eventually("re-replication begins", lambda: moved() > 0, replace_after + 30)
        begun, before = time.monotonic(), moved()
        for connections in (1, 8):
            began_with = moved()
            figures = bed.deliver(left, connections, "--seconds", 8)
            level(f"while {moved() - began_with:,.0f} entries were moved", figures)
        eventually("all have two copies again", lambda: total(left, "prickle_healing_entries_left") == 0, LONG, every=0.2)
        cluster.settled(120)
        seconds, copied = time.monotonic() - begun, total(left, "prickle_healing_copied_bytes_total")
        print(f"\nre-replicated {moved():,.0f} entries ({copied / 1e6:,.0f} MB) in {seconds:.1f} s, of which {moved() - before:,.0f} after the first look; "
              f"begun {begun - killed:.0f} s after the loss")
    finally:
        cluster.close()


def ready(cluster, node):
    begun = time.monotonic()
    cluster.start_node(node)
    return time.monotonic() - begun


def quiet(cluster, seconds):
    """(bytes a minute that all nodes sent, comparisons in that time), of a cluster that nobody uses."""
    names = ("prickle_rpc_sent_bytes_total", "prickle_healing_comparisons_total")
    before = [total(cluster.nodes, name) for name in names]
    time.sleep(seconds)
    sent, compared = (total(cluster.nodes, name) - value for name, value in zip(names, before))
    return sent * 60 / seconds, compared


def holding(options, directory):
    bed = Bed(directory, 2)
    cluster, node = bed.cluster, bed.cluster.nodes[1]
    try:
        print("| entries on each of two nodes | start after a clean stop, s | after kill -9, s | without its index, s | memory, MB | "
              "bytes a minute when idle | comparisons meanwhile |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        held = 0
        for entries in options.entries:
            if entries > held:
                bed.fill(entries - held)
                cluster.settled(300)
                held = entries
            assert node.process.stop(seconds=60) == 0
            clean = ready(cluster, node)
            cluster.settled(120)
            cluster.kill(node)
            killed = ready(cluster, node)
            cluster.settled(120)
            cluster.kill(node)
            shutil.rmtree(cluster.directory / "data" / node.name / "index")
            clusters.START_SECONDS = LONG
            rebuilt = ready(cluster, node)
            cluster.settled(300)
            time.sleep(20)
            memory = int(next(line for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
            sent, compared = quiet(cluster, 130)
            print(f"| {entries:,} | {clean:.1f} | {killed:.1f} | {rebuilt:.1f} | {memory:,.0f} | {sent:,.0f} | {compared:.0f} |", flush=True)
    finally:
        cluster.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["losing", "holding"])
    parser.add_argument("--entries", type=lambda text: [int(number) for number in text.split(",")])
    options = parser.parse_args()
    options.entries = options.entries or {"losing": [40_000], "holding": [0, 100_000, 1_000_000]}[options.what]
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as directory:
        {"losing": losing, "holding": holding}[options.what](options, Path(directory))


if __name__ == "__main__":
    main()
