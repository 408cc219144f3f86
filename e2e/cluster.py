"""Clusters of `mailnode` processes on loopback, each in a directory of its own.

`Cluster` is N times `mailnode serve`, which find each other through Leases in a shared directory; `DevCluster` is one
`mailnode dev`. Both give `Node`s, which is all that the clients (clients.py) need to know.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import http_client
from prometheus_client.parser import text_string_to_metric_families
from ports import free_block
from process import Process
from wait import eventually

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
MAILNODE = Path(os.environ.get("PRICKLE_MAILNODE", TARGET / "release" / "mailnode"))
LISTENERS = ["rpc", "http", "smtp", "submission", "submissions", "lmtp", "imap", "imaps", "pop3", "pop3s"]
START_SECONDS = 30


@dataclass(frozen=True)
class User:
    address: str
    password: str


class Node:
    """What a client knows of a node: where it is, by address and by the name in its certificate, and the CA of that."""

    def __init__(self, name, ports, ca, token_file, host="127.0.0.1"):
        self.name = name
        self.host = host
        self.certified = "localhost" if host == "127.0.0.1" else host
        self.ports = ports
        self.ca = ca
        self.token_file = token_file
        self.process = None

    def __repr__(self):
        return self.name

    @property
    def url(self):
        return f"http://{self.host}:{self.ports['http']}"

    @property
    def is_running(self):
        return self.process is not None and self.process.is_running

    def http(self, method, path, body=None, token=None):
        """(status, text). `token`: None is the right one, '' is none."""
        token = self.token_file.read_text().strip() if token is None else token
        return http_client.ask(self.url + path, method, body, token)

    def is_ready(self):
        return self.http("GET", "/readyz", token="")[0] == 200

    def metric(self, name, **labels):
        """The sum of a metric's samples with these labels; 0 if there are none."""
        families = text_string_to_metric_families(self.http("GET", "/metrics", token="")[1])
        samples = (sample for family in families for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())

    def status(self):
        """Cluster status as this node sees it."""
        code, text = self.http("GET", "/v1/cluster")
        assert code == 200, f"{self.name}: cluster status: {code} {text}"
        return json.loads(text)


class Accounts:
    """Making users through the admin API; shared by both kinds of cluster."""

    domain = "example.org"

    def add_domain(self):
        status, text = self.running()[0].http("POST", "/v1/domains", {"domain": self.domain})
        assert status in (201, 409), text

    def add_user(self, name=None):
        # Begins with no "-", which swaks would take for an option.
        user = User(f"{name or 'u' + secrets.token_hex(6)}@{self.domain}", secrets.token_hex(16))
        body = {"address": user.address, "password": user.password}
        status, text = self.running()[0].http("POST", "/v1/users", body)
        assert status == 201, text
        return user

    def running(self):
        return [node for node in self.nodes if node.is_running]

    def run_long(self, *arguments):
        """An admin command that may take minutes."""
        return self.admin(*arguments, timeout=1200)

    def admin(self, *arguments, node=None, input="", token_file=None, check=True, timeout=60):
        """Runs an admin command of the binary against a node; returns its standard output."""
        node = node or self.running()[0]
        command = [MAILNODE, "--server", node.url, "--token-file", token_file or node.token_file, *arguments]
        done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=timeout)
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stderr}"
            return done.stdout
        return done


class Cluster(Accounts):
    """N nodes, each its own process; on loopback, or in the namespaces of a `chaos.network.Network`."""

    def __init__(self, directory, count=3, factor=2, zones=(), log="info", network=None, settings=""):
        """`settings`: further lines for each node's configuration."""
        self.network = network
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._run("pki", "ca", "--out", self.directory)
        self.ca = self.directory / "ca.pem"
        token_file = self._secret("admin.token")
        self._secret("cluster.secret")
        self.nodes = []
        for index in range(count):
            name = f"node-{index + 1}"
            host = network.addresses[index] if network else "127.0.0.1"
            names = ["--san", f"localhost,{host}"]
            self._run("pki", "node", "--ca", self.directory, "--name", name, "--out", self.directory, *names)
            first = free_block(len(LISTENERS))
            ports = {listener: first + offset for offset, listener in enumerate(LISTENERS)}
            node = Node(name, ports, self.ca, token_file, host)
            node.program = [*(network.command(index) if network else []), MAILNODE]
            zone = zones[index % len(zones)] if zones else None
            node.config = self.directory / f"{name}.yaml"
            node.config.write_text(_config(node, min(factor, count), min(3, count), zone, log) + settings)
            self.nodes.append(node)

    def make_ca(self, directory):
        directory.mkdir()
        self._run("pki", "ca", "--out", directory)

    def _run(self, *arguments):
        done = subprocess.run([MAILNODE, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"mailnode {arguments}: {done.stderr}"

    def _secret(self, name):
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(48))
        return path

    def start_node(self, node, wait=True):
        assert not node.is_running
        command = [*node.program, "serve", "--config", node.config]
        node.process = Process(node.name, command, self.directory / f"{node.name}.log")
        if wait:
            self.wait_ready([node])

    def start(self, nodes=None):
        """Starts nodes and waits until all of them serve as members of one view."""
        nodes = self.nodes if nodes is None else nodes
        for node in nodes:
            self.start_node(node, wait=False)
        self.wait_ready(nodes)
        for node in nodes:
            eventually(f"{node} sees all started nodes active", lambda: self.active(node) >= {n.name for n in nodes}, START_SECONDS)
        return self

    def wait_ready(self, nodes):
        for node in nodes:
            def ready():
                assert node.is_running, f"{node} ended with {node.process.exit_code}:\n{node.process.tail()}"
                return node.is_ready()
            eventually(f"{node} is ready", ready, START_SECONDS)

    def total(self, name, **labels):
        """A metric of all nodes that run."""
        return sum(node.metric(name, **labels) for node in self.running())

    def active(self, seen_by):
        return {member["name"] for member in seen_by.status()["members"] if member["state"] == "active"}

    def kill(self, node):
        node.process.kill()

    def stop(self, sign=signal.SIGTERM):
        """Stops all nodes at the same time, cleanly; returns their exit codes."""
        processes = [node.process for node in self.running()]
        for process in processes:
            os.kill(process.pid, sign)
        return [process.stop(sign) for process in processes]

    def settled(self, seconds=30):
        """Waits until no update is pending anywhere and every entry has all its replicas."""
        def quiet():
            status = self.running()[0].status()
            answering = {member["name"] for member in status["members"] if member["node"] is not None}
            assert answering >= {node.name for node in self.running()}, f"only {answering} answer"
            pending = (status["pendingUpdates"], status["underReplicatedEntries"])
            assert pending == (0, 0), f"pending updates, under-replicated entries: {pending}"
            return True
        eventually("all updates have reached all replicas", quiet, seconds, every=0.1)

    def close(self):
        for node in self.nodes:
            if node.process is not None:
                node.process.end()


@contextlib.contextmanager
def started(directory, prepare=lambda made: None, **options):
    """A `Cluster` that runs and has its domain, while the block lasts. `prepare` is done to it before it starts."""
    made = Cluster(directory, **options)
    prepare(made)
    try:
        made.start()
        made.add_domain()
        yield made
    finally:
        made.close()


class DevCluster(Accounts):
    """`mailnode dev`: all nodes in one process, with the accounts that it makes."""

    #: Offsets from a node's first port (mailnode/src/dev.rs).
    OFFSETS = {
        "pop3": 10, "lmtp": 24, "smtp": 25, "imap": 43, "submissions": 65, "rpc": 70, "http": 80, "submission": 87,
        "imaps": 93, "pop3s": 95,
    }

    def __init__(self, directory, count=3):
        self.directory = Path(directory)
        self.data = self.directory / "data"
        self.count = count
        self.base = free_block(100 * count)
        self.process = None
        self.starts = 0
        self.nodes = []
        for index in range(count):
            ports = {name: self.base + 100 * index + offset for name, offset in self.OFFSETS.items()}
            self.nodes.append(Node(f"node-{index + 1}", ports, self.data / "ca.pem", self.data / "admin.token"))

    def start(self):
        arguments = [MAILNODE, "dev", "--nodes", self.count, "--data", self.data, "--base-port", self.base, "--log", "info"]
        self.starts += 1
        self.process = Process("dev", arguments, self.directory / f"dev-{self.starts}.log")
        for node in self.nodes:
            node.process = self.process

        def ready():
            assert self.process.is_running, f"mailnode dev ended:\n{self.process.tail()}"
            said_so = "Ctrl-C stops it." in self.process.log.read_text(errors="replace")
            return said_so and all(node.is_ready() for node in self.nodes)
        eventually("mailnode dev is ready", ready, START_SECONDS)
        return self

    def accounts(self):
        """The accounts that it made: their passwords are kept beside the mail."""
        return [User(f"{path.stem}@{self.domain}", path.read_text().strip()) for path in sorted(self.data.glob("*.password"))]

    def kill(self):
        self.process.kill()

    def stop(self, sign=signal.SIGINT):
        return self.process.stop(sign)

    def close(self):
        if self.process is not None:
            self.process.end()


def _config(node, factor, replicas, zone, log):
    name = node.name
    lines = [
        f"name: {name}",
        f"dataDirectory: ./data/{name}",
        *([f"zone: {zone}"] if zone else []),
        "hostName: localhost",
        "cluster:",
        "  name: e2e",
        "  secretFile: ./cluster.secret",
        "  leases: {directory: ./leases}",
        f"  tls: {{ca: ./ca.pem, certificate: ./{name}.pem, key: ./{name}.key}}",
        f"replication: {{factor: {factor}, minCopies: {factor}}}",
        f"userDatabase: {{embedded: {{replicas: {replicas}}}}}",
        "listeners:",
        *[f"  {listener}: {node.host}:{port}" for listener, port in node.ports.items()],
        "admin: {tokenFile: ./admin.token}",
        f"log: {{filter: {log}}}",
    ]
    return "\n".join(lines) + "\n"
