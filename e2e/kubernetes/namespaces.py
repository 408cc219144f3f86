"""The machines' ground: network namespaces on one bridge, and control groups by which all that runs in a machine is known.

Processes that share the tests of one run (pytest-xdist) have a Kubernetes each, side by side: a lane, whose number is in all
names and addresses. Everything here has the prefix `prickle-e2e-LANE`; nothing else on the computer is touched. A control group
of that name that is left from a run that was killed holds only what that run started, so it may be ended (`end_group`).
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

#: Of this process; how many the run has; for how many there are addresses.
LANE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
LANES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
MOST_LANES = 8
PREFIX = f"prickle-e2e-{LANE}"
BRIDGE = PREFIX
#: The benchmarking range (RFC 2544), which nobody routes; all addresses here are of it, an eighth for each lane.
RANGE = "198.18.0.0/15"


def _address(third, fourth):
    return f"198.{18 + LANE // 4}.{LANE % 4 * 64 + third}.{fourth}"


HOST = _address(0, 1)
CONTROL = _address(0, 10)
PODS = _address(16, "0/20")
SERVICES = _address(32, "0/24")
API_SERVICE = _address(32, 1)
DNS_SERVICE = _address(32, 10)

#: Weights against any other process, which has 1,024: of everything here; in here, of all pods of a machine.
SHARES, PODS_SHARES = 32_768, 4_096


def machine_address(number):
    return _address(0, 10 + number)


def pod_range(number):
    return _address(16 + number, "0/24")


def run(*command, check=True, input=None, timeout=60):
    """Standard output of a command that must succeed."""
    given = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
    done = subprocess.run([str(part) for part in command], **given, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.stderr.strip()} {done.stdout.strip()}")
    return done.stdout


# Network

def make_bridge():
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "addr", "add", f"{HOST}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")


def make_namespace(name, address):
    """A network namespace on the bridge; its end of the cable is `eth0`, ours has the namespace's name."""
    run("ip", "netns", "add", f"{PREFIX}-{name}")
    inside = ("ip", "-n", f"{PREFIX}-{name}")
    run("ip", "link", "add", _cable(name), "type", "veth", "peer", "name", "eth0", "netns", f"{PREFIX}-{name}")
    run("ip", "link", "set", _cable(name), "master", BRIDGE, "up")
    run(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "link", "set", "eth0", "up")
    run(*inside, "route", "add", "default", "via", HOST)
    run(*enter(name), "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")


def _cable(name):
    # At most 15 characters.
    return f"pe{LANE}-{name}"


def unplug(name):
    run("ip", "link", "set", _cable(name), "down")


def plug(name):
    run("ip", "link", "set", _cable(name), "up")


def route(target, via, name=None):
    """Here, or inside a namespace."""
    run("ip", *([] if name is None else ["-n", f"{PREFIX}-{name}"]), "route", "replace", target, "via", via)


def enter(name):
    """Not `ip netns exec`, which hides the control groups."""
    return ["nsenter", f"--net=/run/netns/{PREFIX}-{name}"]


def remove_network():
    # Before the namespaces: those go in the background, and their cables with them, when a new network may be wanted already.
    for link in json.loads(run("ip", "-json", "link", "show", "type", "veth")):
        if link["ifname"].startswith(_cable("")):
            run("ip", "link", "delete", link["ifname"], check=False)
    for line in run("ip", "netns", "list").splitlines():
        if line.startswith(f"{PREFIX}-"):
            run("ip", "netns", "delete", line.split()[0], check=False)
    run("ip", "link", "delete", BRIDGE, check=False)


# Control groups (v1 or hybrid, one directory in each hierarchy)

_ROOT = Path("/sys/fs/cgroup")


def _hierarchies():
    return [path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink() and (path / "cgroup.procs").exists()]


def has_groups():
    """Whether processes can be put into groups here, as a kubelet does."""
    return any(path.name == "pids" and os.access(path, os.W_OK) for path in _hierarchies())


def share():
    """All pods would else have as much of the computer as one process outside of the group, and starve where others compile: nodes
    that are not scheduled for seconds lose their Leases and each other. This process, its clients and what it starts are in the
    group, too, or starve where pods work."""
    make_group("")
    if weigh("", SHARES):
        _join(PREFIX)


def weigh(path, shares):
    """A group; whether that can be."""
    file = _ROOT / "cpu" / PREFIX / path / "cpu.shares"
    return file.exists() and file.write_text(str(shares))


def _join(group):
    (_ROOT / "cpu" / group / "cgroup.procs").write_text(str(os.getpid()))


def make_group(path):
    for hierarchy in _hierarchies():
        at = hierarchy
        for part in Path(PREFIX, path).parts:
            above, at = at, at / part
            at.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (at / name).exists() and not (at / name).read_text().strip():
                    (at / name).write_text((above / name).read_text())


def in_group(path):
    """Prefix of a command that runs in the group."""
    file = _ROOT / "pids" / PREFIX / path / "cgroup.procs"
    return ["sh", "-c", f'echo $$ >{file} && exec "$@"', "sh"]


def _pids(path):
    top = _ROOT / "pids" / PREFIX / path
    for directory, _, _ in os.walk(top):
        with contextlib.suppress(OSError):
            yield from map(int, (Path(directory) / "cgroup.procs").read_text().split())


def end_group(path=""):
    """Kills everything in the group and the groups below it, and removes them."""
    end = time.monotonic() + 30
    while pids := list(_pids(path)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < end, f"processes in {PREFIX}/{path} do not end: {pids}"
        time.sleep(0.1)
    if not path and (_ROOT / "cpu" / PREFIX).exists():
        _join("")
    for hierarchy in _hierarchies():
        for directory, _, _ in os.walk(hierarchy / PREFIX / path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
