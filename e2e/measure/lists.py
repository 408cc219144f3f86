#!/usr/bin/env python3
"""Figures of mailing lists, for docs/figures/events.md. Real processes on loopback; nothing else should run meanwhile.

    e2e/measure/lists.py [--members 10000] [--nodes 5] [--bytes 2000] [--messages 3]

One message to a list whose members are all here, two copies of each: from the answer 250 to the last member's copy, by the nodes'
own counters (then some mailboxes are read); and what the nodes sent each other meanwhile. Prints lines of Markdown.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import clients  # noqa: E402 - found through the path above
import cluster as clusters  # noqa: E402

LOOKED_AT = 20


def members(cluster, count):
    """Accounts with one password, made by an import: hashing a password for each would take longer than all else."""
    model = cluster.add_user("model")
    lines = [json.loads(line) for line in cluster.admin("directory", "export").splitlines()]
    profile = next(line["user"] for line in lines if "user" in line)
    header = next(line for line in lines if "header" in line)
    users, out = [], [header]
    for number in range(count):
        address = f"m{number}@{cluster.domain}"
        identifier = f"{random.getrandbits(128):032x}"
        out.append({"user": {**profile, "id": identifier, "addresses": [address]}})
        users.append(clusters.User(address, model.password))
    out.append({"end": {"domains": 0, "aliases": 0, "lists": 0, "users": count}})
    file = cluster.directory / "members.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in out))
    cluster.run_long("directory", "import", file)
    return users


def measure(cluster, address, users, size):
    copies, sent = cluster.total("prickle_list_copies_total"), cluster.total("prickle_rpc_sent_bytes_total")
    text = "".join(f"{random.getrandbits(280):070x}\r\n" for _ in range(size // 72))
    marker = f"{random.getrandbits(64):x}"
    with clients.lmtp(cluster.nodes[0]) as lmtp:
        begun = time.monotonic()
        clients.send(lmtp, "a@example.net", [address], f"Subject: {marker}\r\n\r\n{text}".encode())
        accepted = time.monotonic()
    while cluster.total("prickle_list_copies_total") < copies + len(users):
        assert time.monotonic() < accepted + 600
        time.sleep(0.1)
    last = time.monotonic()
    bytes_sent = cluster.total("prickle_rpc_sent_bytes_total") - sent
    for user in random.sample(users, LOOKED_AT):
        with clients.imap(random.choice(cluster.nodes), user) as imap:
            clients.ok(imap.select("INBOX", readonly=True))
            found = [head for _, head in clients.fetch(imap, "1:*", "UID FLAGS BODY.PEEK[HEADER]").values() if marker.encode() in head]
            assert len(found) == 1, user
    seconds = last - accepted
    print(
        f"| {len(users):,} | {len(cluster.nodes)} | {size:,} | {(accepted - begun) * 1000:.0f} | {seconds:.1f} "
        f"| {len(users) / seconds:,.0f} | {bytes_sent / 2**20:.1f} | {bytes_sent / len(users):,.0f} |",
        flush=True,
    )


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--members", type=int, default=10_000)
    options.add_argument("--nodes", type=int, default=5)
    options.add_argument("--bytes", type=int, default=2_000)
    options.add_argument("--messages", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        with clusters.started(Path(directory) / "c", count=given.nodes, log="warn") as cluster:
            users = members(cluster, given.members)
            owner, address = cluster.add_user("owner"), f"all@{cluster.domain}"
            cluster.admin("list", "add", address, "--owner", owner.address, "--posting", "anyone")
            file = cluster.directory / "addresses"
            file.write_text("\n".join(user.address for user in users))
            cluster.run_long("list", "subscribe", address, "--file", file)
            print("| members | nodes | bytes of the message | to 250, ms | to the last copy, s | copies/s | sent between nodes, MiB | bytes a member |")
            print("| --- | --- | --- | --- | --- | --- | --- | --- |")
            for _ in range(given.messages):
                measure(cluster, address, users, given.bytes)


if __name__ == "__main__":
    main()
