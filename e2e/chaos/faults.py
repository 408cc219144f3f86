"""Does to the nodes what a round of the plan says, and undoes it; what it did, and when, is the timeline."""

import os
import shutil
import signal
import time


class Faults:
    def __init__(self, cluster, begun):
        self.cluster, self.network, self.begun = cluster, cluster.network, begun
        self.timeline = []
        #: Nodes that ended without being told to.
        self.deaths = []
        self._down, self._stopping, self._frozen = set(), set(), set()

    def note(self, text):
        self.timeline.append(f"{time.monotonic() - self.begun:7.2f} {text}")

    def run(self, faults, seconds):
        """One round; afterwards all nodes run and the network is whole."""
        started = time.monotonic()
        events = [(fault.begin, self._begin, fault) for fault in faults] + [(fault.end, self._end, fault) for fault in faults]
        try:
            for at, act, fault in sorted(events, key=lambda event: event[0]):
                self._wait(started + at)
                act(fault)
            self._wait(started + seconds)
        finally:
            self.calm()

    def calm(self):
        self.network.mend()
        for node in list(self._frozen):
            self._thaw(node)
        for node in list(self._down):
            self._start(node)

    def _wait(self, until):
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))
            self._look()

    def _look(self):
        for node in self.cluster.nodes:
            if node not in self._down and not node.is_running:
                self.deaths.append(f"{node} ended with {node.process.exit_code}:\n{node.process.tail(15)}")
                self.note(f"{node} ended by itself with {node.process.exit_code}")
                self._down.add(node)

    def _begin(self, fault):
        self.note(str(fault))
        if fault.pairs:
            self.network.cut(fault.pairs)
            return
        node = self.cluster.nodes[fault.node]
        if node in self._down:
            return
        if fault.kind == "freeze":
            os.kill(node.process.pid, signal.SIGSTOP)
            self._frozen.add(node)
            return
        self._down.add(node)
        if fault.kind == "stop":
            os.kill(node.process.pid, signal.SIGTERM)
            self._stopping.add(node)
            return
        self.cluster.kill(node)
        data = self.cluster.directory / "data" / node.name
        if fault.kind == "wipe":
            shutil.rmtree(data)
        elif fault.kind == "truncate log":
            self._truncate(data / "log", fault)
        elif fault.kind == "truncate index":
            self._truncate(data / "index", fault)

    def _truncate(self, directory, fault):
        """Cuts off the end of the largest file. What is lost of a log is at most half of it: else it is a wipe."""
        path = max((path for path in directory.rglob("*") if path.is_file()), key=lambda path: (path.stat().st_size, path.name))
        size = path.stat().st_size
        keep = int(size * (0.5 + fault.fraction / 2))
        os.truncate(path, keep)
        self.note(f"  {path.name} has {keep} of {size} bytes left")

    def _end(self, fault):
        if fault.pairs:
            self.network.mend(fault.pairs)
            self.note(f"mended: {fault.kind}")
            return
        node = self.cluster.nodes[fault.node]
        if node in self._frozen:
            self._thaw(node)
        elif node in self._down:
            self._start(node)

    def _thaw(self, node):
        os.kill(node.process.pid, signal.SIGCONT)
        self._frozen.discard(node)
        self.note(f"{node} goes on")

    def _start(self, node):
        if node in self._stopping:
            code = node.process.wait(30)
            # A process that had hardly begun has not said yet what it does with SIGTERM.
            if code != 0 and node.process.has_said("started node="):
                self.deaths.append(f"{node} was asked to stop and ended with {code}:\n{node.process.tail(15)}")
            self._stopping.discard(node)
        self.cluster.start_node(node, wait=False)
        self._down.discard(node)
        self.note(f"{node} starts")

