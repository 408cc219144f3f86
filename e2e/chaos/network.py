"""A network namespace for each node, all on one bridge, where what travels from one node to another can be stopped.

The host has the first address of the network, so clients reach every node whatever is cut between the nodes. A cut is a
neighbour entry with a hardware address that nobody has: packets leave and are never seen again, as with a broken switch, and
in one direction only, if so wished. Everything made here begins with `pk` and the process's id, and is removed at the end; what
a killed run left behind is removed by the next one.
"""

import os
import re
import subprocess

#: RFC 2544: for tests of networks, so no real network has these addresses.
_NETWORKS = [f"198.{18 + number // 256}.{number % 256}" for number in range(512)]
_NOWHERE = "02:50:4b:ff:ff:ff"


class Unavailable(Exception):
    """This machine does not let us make namespaces."""


def _ip(*arguments, check=True):
    done = subprocess.run(["ip", *map(str, arguments)], capture_output=True, text=True, timeout=20)
    if check and done.returncode:
        raise Unavailable(f"ip {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


class Network:
    def __init__(self, count):
        self._prefix = f"pk{os.getpid()}"
        self._count = count
        self._cuts = set()
        try:
            _remove_what_dead_runs_left()
            routes = _ip("-4", "route", "show")
        except FileNotFoundError as error:
            raise Unavailable("no program `ip` (Debian: iproute2)") from error
        start = os.getpid() % len(_NETWORKS)
        self._network = next(net for net in _NETWORKS[start:] + _NETWORKS[:start] if f"{net}." not in routes)
        #: The host's own, which every node reaches.
        self.gateway = f"{self._network}.1"
        self.addresses = [f"{self._network}.{11 + index}" for index in range(count)]

    def start(self):
        bridge = self._prefix
        try:
            _ip("link", "add", bridge, "type", "bridge")
            _ip("addr", "add", f"{self.gateway}/24", "dev", bridge)
            _ip("link", "set", bridge, "up")
            for index in range(self._count):
                self._add(index, bridge)
            for index in range(self._count):
                self._set_neighbours(index)
        except BaseException:
            self.remove()
            raise
        return self

    def _add(self, index, bridge):
        space, outside = self.namespace(index), f"{self._prefix}v{index}"
        _ip("netns", "add", space)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "address", _hardware(index), "netns", space)
        _ip("link", "set", outside, "master", bridge, "up")
        _ip("-n", space, "addr", "add", f"{self.addresses[index]}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip("-n", space, "link", "set", link, "up")

    def namespace(self, index):
        return f"{self._prefix}n{index}"

    def command(self, index):
        """What comes before a command that is to run in the namespace. It is replaced by the command: the same process."""
        return ["ip", "netns", "exec", self.namespace(index)]

    def cut(self, pairs):
        """From now on nothing travels from the first to the second of each pair."""
        self._change(self._cuts | set(pairs))

    def mend(self, pairs=None):
        """Everything, without an argument."""
        self._change(self._cuts - set(pairs) if pairs is not None else set())

    def _change(self, cuts):
        changed = {source for source, _ in cuts ^ self._cuts}
        self._cuts = cuts
        for index in changed:
            self._set_neighbours(index)

    def _set_neighbours(self, index):
        for other in range(self._count):
            if other != index:
                hardware = _NOWHERE if (index, other) in self._cuts else _hardware(other)
                neighbour = (self.addresses[other], "lladdr", hardware, "dev", "eth0", "nud", "permanent")
                _ip("-n", self.namespace(index), "neigh", "replace", *neighbour)

    def remove(self):
        _remove(self._prefix)


def _hardware(index):
    return f"02:50:4b:00:00:{index + 1:02x}"


def _ours():
    """Prefix of each run that has a bridge or namespaces."""
    names = _ip("-o", "link", "show", "type", "bridge") + _ip("netns", "list")
    return set(re.findall(r"\bpk\d+(?=n\d|:)", names))


def _remove(prefix):
    for name in re.findall(rf"\b{prefix}n\d+\b", _ip("netns", "list", check=False)):
        # The kernel takes a namespace apart a little later; the link to it is gone at once.
        _ip("link", "del", name.replace("n", "v"), check=False)
        _ip("netns", "del", name, check=False)
    _ip("link", "del", prefix, check=False)


def _remove_what_dead_runs_left():
    for prefix in _ours():
        if not os.path.exists(f"/proc/{prefix[2:]}"):
            _remove(prefix)
