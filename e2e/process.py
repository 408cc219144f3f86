"""One process under test: its log, its end. Only processes started here are ever signalled."""

import signal
import subprocess
from pathlib import Path

#: Every process started by this run, for the logs of a failed test.
STARTED = []


class Process:
    def __init__(self, name, arguments, log, cwd=None):
        self.name = name
        self.log = Path(log)
        with self.log.open("ab") as out:
            self._begins = out.tell()
            self._process = subprocess.Popen(
                [str(argument) for argument in arguments],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        STARTED.append(self)

    @property
    def pid(self):
        return self._process.pid

    @property
    def is_running(self):
        return self._process.poll() is None

    @property
    def exit_code(self):
        return self._process.poll()

    def kill(self):
        """kill -9: no farewell."""
        self._process.kill()
        self._process.wait(10)

    def stop(self, sign=signal.SIGTERM, seconds=20):
        """Asks it to stop and returns its exit code."""
        if self.is_running:
            self._process.send_signal(sign)
        return self.wait(seconds)

    def wait(self, seconds=20):
        """Its exit code."""
        return self._process.wait(seconds)

    def end(self):
        """However it is: gone afterwards."""
        if self.is_running:
            self._process.kill()
        self._process.wait(10)

    def has_said(self, text):
        """In this life."""
        return text in self.log.read_bytes()[self._begins:].decode(errors="replace")

    def tail(self, lines=40):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])
