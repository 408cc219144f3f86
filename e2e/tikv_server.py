"""The test server of e2e/tikv: PD's and TiKV's real protocols around the store of TiKV's own Go client, with faults on demand."""

import os
import subprocess
from pathlib import Path

import pytest


def program():
    """The program that `e2e/tikv/build.sh` made; `make e2e` names it."""
    named = os.environ.get("PRICKLE_TIKV")
    if not named:
        pytest.skip("PRICKLE_TIKV is not set (make e2e sets it: it needs Go, and a mailnode with --features tikv)")
    return Path(named)


class TikvServer:
    """One PD and one TiKV in one process. Data, locks and commits survive a kill."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.pd = self.kv = "127.0.0.1:0"
        self.starts = 0
        self.start()

    def start(self):
        """Also after a kill: the same store on the same ports."""
        self.starts += 1
        command = [program(), "-pd", self.pd, "-kv", self.kv, "-data", self.directory / "store"]
        log = (self.directory / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        words = self._process.stdout.readline().split()
        assert words[:1] == ["ready"], f"the test server does not start: {(self.directory / 'server.log').read_text()[-500:]}"
        self.pd, self.kv = words[1].removeprefix("pd="), words[2].removeprefix("kv=")

    def tell(self, command):
        """A command of e2e/tikv/commands.go; its answer."""
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer and not answer.startswith("error"), f"{command}: {answer}"
        return answer

    def kill(self):
        """PD and TiKV gone at once."""
        self._process.kill()
        self._process.wait(10)

    def close(self):
        self.kill()
        self._process.stdin.close()
        self._process.stdout.close()


def put_accounts_into(cluster, server, prefix="prickle/"):
    """Before the nodes start: their user database is in TiKV."""
    tikv = f"userDatabase: {{tikv: {{pdEndpoints: ['{server.pd}'], keyPrefix: {prefix}, timeoutSeconds: 4}}}}"
    for node in cluster.nodes:
        lines = node.config.read_text().splitlines()
        assert sum(line.startswith("userDatabase:") for line in lines) == 1
        node.config.write_text("\n".join(tikv if line.startswith("userDatabase:") else line for line in lines) + "\n")
