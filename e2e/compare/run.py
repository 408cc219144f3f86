#!/usr/bin/env python3
"""A first look at speed: Debian's Dovecot, one node of Prickle with R=1, three nodes with R=2 on the same machine, in turn
(A B C A B C ...), so that the machine's noise is shared; each time from an empty disk. `make bench` calls it, as root.

    e2e/compare/run.py [--rounds 3] [--messages 5000] [--connections 1,8,32] [--only dovecot,one,three] [--out DIRECTORY]

Prints a table; writes it as first-look.md, and all rounds as first-look.csv.
"""

import argparse
import datetime
import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import dovecot  # noqa: E402 - found through the path above
import report  # noqa: E402
from cluster import MAILNODE, TARGET  # noqa: E402
from prickle import Prickle  # noqa: E402

USERS = 200
#: A whole run of the driver against one server.
BENCH_SECONDS = 1800


class Comparison:
    def __init__(self, options, directory):
        self.options = options
        self.directory = directory
        self.password = secrets.token_urlsafe(16)
        self.password_file = directory / "password"
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(self.password)
        self.servers = {
            "dovecot": lambda where: dovecot.Dovecot(where, self.password),
            "one": lambda where: Prickle(where, self.password, USERS, count=1, factor=1),
            "three": lambda where: Prickle(where, self.password, USERS, count=3, factor=2),
        }

    def bench(self, *arguments, messages=None, connections=None, show=True):
        """Runs the driver; it fails if one message is lost, doubled, damaged or refused."""
        figures = self.directory / "figures.json"
        command = [
            *self.options.driver, "--protocol", "lmtp", "--users", USERS, "--seed", self.options.seed,
            "--connections", connections or self.options.connections, "--messages", messages or self.options.messages,
            "--json", figures, *arguments,
        ]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=BENCH_SECONDS)
        if show:
            print(done.stdout, flush=True)
        if done.returncode:
            raise SystemExit(f"the run is not valid: {done.stderr}")
        return json.loads(figures.read_text())

    def with_server(self, key, work):
        where = self.directory / key
        server = self.servers[key](where)
        try:
            return work(server)
        finally:
            server.close()
            shutil.rmtree(where, ignore_errors=True)

    def run(self):
        rounds = []
        for number in range(1, self.options.rounds + 1):
            for key in self.options.only:
                def measure(server):
                    print(f"== round {number} of {self.options.rounds}: {server.name}", flush=True)
                    figures = self.bench(*server.arguments(), "--password-file", self.password_file)
                    rounds.append((number, server.name, figures))
                self.with_server(key, measure)
        return rounds

    def dovecot_fsyncs(self):
        """Flushes per 1,000 messages, counted from outside in a run of its own; None if that cannot be done."""
        def measure(server):
            # So that the mailboxes exist.
            self.bench(*server.targets(), messages=1, connections=1, show=False)
            figures = []
            counted = server.count_fsyncs(
                lambda: figures.append(self.bench(*server.targets(), messages=1000, connections=8, show=False)))
            if counted is None:
                return None
            # The driver's first message to each user is counted, too.
            return counted * 1000 / (USERS + figures[0]["deliveries"][0]["acknowledged"])
        return self.with_server("dovecot", measure)


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=5000, help="of each level")
    parser.add_argument("--connections", default="1,8,32")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="dovecot,one,three", help="which servers, in which order")
    parser.add_argument("--out", type=Path, default=TARGET / "compare")
    parser.add_argument("--driver", default=f"{MAILNODE} bench", help="the command that drives the servers")
    parser.add_argument("--directory", type=Path, help="where the servers keep their mail (default: the temporary directory)")
    chosen = parser.parse_args()
    chosen.only = chosen.only.split(",")
    chosen.driver = chosen.driver.split()
    if unknown := set(chosen.only) - {"dovecot", "one", "three"}:
        parser.error(f"--only: unknown: {', '.join(unknown)}")
    return chosen


def main():
    chosen = options()
    # So that the servers are ended and their mail is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    facts = {"date": datetime.date.today().isoformat()}
    with tempfile.TemporaryDirectory(prefix="prickle-compare-", dir=chosen.directory) as directory:
        # Dovecot's unprivileged processes must pass.
        Path(directory).chmod(0o755)
        facts |= report.machine(directory)
        comparison = Comparison(chosen, Path(directory))
        if "dovecot" in chosen.only:
            dovecot.install()
            facts["Dovecot"] = f"{dovecot.version()} from Debian, sdbox, mail_fsync=always, LMTP"
        rounds = comparison.run()
        if "dovecot" in chosen.only:
            counted = comparison.dovecot_fsyncs()
            facts["Dovecot's fsyncs per 1,000 messages"] = "not counted" if counted is None else f"{counted:,.0f} (strace, a run of its own)"
    figures = rounds[0][2]
    facts["load"] = (
        f"{chosen.messages:,} messages a level to {USERS} users, log-normal with sigma 1, mean {figures['mean_bytes']:,.0f} bytes, "
        f"one recipient each; medians of {chosen.rounds} rounds, in turn, each from an empty disk"
    )
    facts["reading"] = "the 20 newest messages of each user, one FETCH each; the first level is the first time that mailboxes are opened"
    facts["checked in every round"] = "all acknowledged messages are counted by the server, once; those read came back with the right checksum"
    rows = report.rows(rounds)
    text = report.as_markdown(rows, facts)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "first-look.csv").write_text(report.as_csv(rows))
    (chosen.out / "first-look.md").write_text(text)
    print(text)
    print(f"written: {chosen.out / 'first-look.md'}, first-look.csv")


if __name__ == "__main__":
    main()
