#!/usr/bin/env python3
"""Figures of MIME parts kept apart, for docs/figures/parts.md. Real processes on loopback.

    e2e/measure/parts.py leases [--messages 2000]     bytes and time of a round of leases
    e2e/measure/parts.py space [--members 20]         a mailing list's mail: maildir, Dovecot's sdbox, and a cluster of 5 nodes
    e2e/measure/parts.py speed [--messages 200]       deliveries of 1 MiB and 5 KiB, with parts and without

Prints what it measured as lines of Markdown.
"""

import argparse
import base64
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import clients  # noqa: E402 - found through the path above
import cluster as clusters  # noqa: E402
import messages  # noqa: E402
from wait import eventually  # noqa: E402

MIB = 1 << 20
WHOLE = "storage: {parts: {enabled: false}}\n"


def mail(number, attachment=b""):
    """An attachment of noise, which no compressor makes smaller."""
    head = f"From: a@example.net\r\nSubject: {number}\r\nMIME-Version: 1.0\r\n"
    if not attachment:
        return (head + "\r\nshort\r\n").encode()
    encoded = base64.b64encode(attachment).decode()
    lines = "\r\n".join(encoded[at:at + 76] for at in range(0, len(encoded), 76))
    return (
        head + "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nsee the file\r\n--b\r\n"
        f"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n{lines}\r\n--b--\r\n"
    ).encode()


def noise(size, seed):
    return random.Random(seed).randbytes(size)


def deliver(port, mails, recipients):
    """Each mail to all, by LMTP; seconds that each took."""
    took = []
    with clients.smtplib.LMTP("127.0.0.1", port, local_hostname="client.example.net", timeout=60) as lmtp:
        lmtp.ehlo()
        for mail in mails:
            begun = time.monotonic()
            assert len(clients.send(lmtp, "list@example.net", recipients, mail)) == len(recipients)
            took.append(time.monotonic() - begun)
    return took


def settled(cluster):
    def quiet():
        states = [member["parts"] for member in cluster.nodes[0].status()["members"]]
        assert all(parts["settled"] and parts["missing"] == 0 for parts in states), states
        return True
    cluster.settled()
    eventually("all parts are at their owners", quiet, 60)


def leases(options, directory):
    """One part a message: the dearest case."""
    settings = "storage: {parts: {enabled: true, thresholdBytes: 1024, renewSeconds: 20, leaseSeconds: 600}}\n"
    with clusters.started(directory / "c", count=3, settings=settings, log="warn") as cluster:
        user = cluster.add_user()
        deliver(cluster.nodes[0].ports["lmtp"], (mail(n, noise(1_500, n)) for n in range(options.messages)), [user.address])
        settled(cluster)
        names = ["prickle_parts_lease_bytes_total", "prickle_parts_renewed_total", "prickle_log_written_bytes_total"]
        before = {name: cluster.total(name) for name in names}
        renewed = 4 * options.messages
        eventually("a round by all nodes", lambda: cluster.total(names[1]) - before[names[1]] >= renewed, 60, every=0.5)
        rounds = (cluster.total(names[1]) - before[names[1]]) / renewed
        requests = (cluster.total(names[0]) - before[names[0]]) / rounds
        log = (cluster.total(names[2]) - before[names[2]]) / rounds
        per_million = 1_000_000 / options.messages
        print(f"| {options.messages} messages, a part each | {requests:,.0f} | {log:,.0f} | {requests * per_million / MIB:.0f} MiB | "
              f"{requests * per_million * 0.1 / MIB:.1f} MiB |")


def space(options, directory):
    """348 real messages, and 60 with attachments of 100 KB to 1 MB, 20 of which are sent again with another text."""
    dice = random.Random(7)
    mails = [message.crlf for source in messages.all_messages().values() for message in source if b"\0" not in message.raw]
    files = [noise(dice.randrange(100_000, 1_000_000), 1_000 + number) for number in range(40)]
    mails += [mail(number, files[number if number < 40 else number - 40]) for number in range(60)]
    addresses = [f"u{number}@example.org" for number in range(options.members)]
    content = sum(map(len, mails))
    print(f"{len(mails)} messages, {content / MIB:.1f} MiB, to {options.members} members")
    blocks = sum(-(-len(mail) // 4096) * 4096 for mail in mails)
    rows = [("maildir: a file a member and message", content * options.members, blocks * options.members)]
    try:
        from compare import dovecot
        dovecot.install()
        server = dovecot.Dovecot(directory / "dovecot", "password")
        try:
            deliver(server.lmtp, mails, addresses)
            files_of = [path for path in (directory / "dovecot" / "home").rglob("*") if path.is_file()]
            sizes = [path.stat() for path in files_of]
            rows.append((f"Dovecot {dovecot.version()} sdbox, one machine", sum(s.st_size for s in sizes), sum(s.st_blocks * 512 for s in sizes)))
        finally:
            server.close()
    except (OSError, AssertionError) as error:
        print(f"Dovecot not measured: {error}")
    for name, settings in [("parts whole", WHOLE), ("parts apart", "")]:
        with clusters.started(directory / name.replace(" ", ""), count=5, settings=settings, log="warn") as cluster:
            for address in addresses:
                cluster.add_user(address.split("@")[0])
            before = cluster.total("prickle_log_live_bytes")
            deliver(cluster.nodes[0].ports["lmtp"], mails, addresses)
            settled(cluster)
            live = cluster.total("prickle_log_live_bytes") - before
            on_disk = sum(path.stat().st_blocks * 512 for path in cluster.directory.glob("data/*/log/*.log"))
            parts = cluster.total("prickle_part_bytes")
            rows.append((f"Prickle, 5 nodes, two copies of everything, {name} ({parts / MIB:.1f} MiB of parts)", live, on_disk))
    for name, size, disk in rows:
        print(f"| {name} | {size / MIB:,.1f} | {disk / MIB:,.1f} |")


def speed(options, directory):
    attached = [mail(number, noise(MIB, number)) for number in range(options.messages // 10)]
    same = [mail(number, noise(MIB, 99)) for number in range(options.messages // 10)]
    small = [mail(number) for number in range(options.messages)]
    for name, settings in [("whole", WHOLE), ("apart", "")]:
        with clusters.started(directory / name, count=3, settings=settings, log="warn") as cluster:
            user = cluster.add_user()
            for what, mails in [("small", small), ("1 MiB attached", attached), ("the same MiB attached", same)]:
                took = sorted(deliver(cluster.nodes[0].ports["lmtp"], mails, [user.address]))
                with clients.imap(cluster.nodes[1], user) as imap:
                    clients.ok(imap.select("INBOX", readonly=True))
                    last = clients.ok(imap.search(None, "ALL"))[0].split()[-10:]
                    begun = time.monotonic()
                    for number in last:
                        clients.ok(imap.fetch(number, "(BODY.PEEK[])"))
                    reading = (time.monotonic() - begun) / len(last)
                print(f"| {name} | {what} | {took[len(took) // 2] * 1000:.1f} | {took[-1] * 1000:.0f} | {reading * 1000:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["leases", "space", "speed"])
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--members", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        # Dovecot's unprivileged processes go through it.
        Path(directory).chmod(0o755)
        {"leases": leases, "space": space, "speed": speed}[options.what](options, Path(directory))


if __name__ == "__main__":
    main()
