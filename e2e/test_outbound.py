"""Mail to other servers: three nodes, a real DNS server and Debian's Postfix, each in a network namespace, because the
names and port 25 are part of it."""

import re
import smtplib
import time

import pytest

import clients
import cluster as clusters
from chaos import network
from dns_server import Dns
from ports import free_block
from postfix import Postfix
from wait import eventually

NODES = 3
#: Waits between attempts, in place of minutes and hours.
SETTINGS = """outbound:
  nameServers: ['{dns}']
  retrySeconds: [1, 2]
  expireSeconds: 30
"""


class World:
    """The cluster and what is around it."""

    def __init__(self, directory, net):
        self.directory = directory
        self.net = net
        self.dns = Dns(net.gateway, free_block(1)).start()
        settings = SETTINGS.format(dns=self.dns.where)
        self.cluster = clusters.Cluster(directory / "cluster", NODES, network=net, settings=settings)
        self.servers = []

    def server(self, name, domains, index, options=""):
        server = Postfix(self.directory / name, name, domains, self.net, NODES + index, options)
        self.dns.zones.set(name, "A", server.address)
        self.servers.append(server)
        return server

    def close(self):
        self.cluster.close()
        for server in self.servers:
            server.stop()
        self.dns.stop()


@pytest.fixture(scope="module")
def net():
    try:
        made = network.Network(NODES + 2).start()
    except network.Unavailable as error:
        pytest.skip(f"no network namespaces on this machine: {error}")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def world(tmp_path_factory, net):
    made = World(tmp_path_factory.mktemp("outbound"), net)
    try:
        made.cluster.start()
        made.cluster.add_domain()
        made.mx = made.server("mx1.example.net", ["example.net"], 0).start()
        made.dns.zones.set("example.net", "MX", (10, "mx1.example.net"))
        yield made
    finally:
        made.close()


@pytest.fixture
def user(world):
    return world.cluster.add_user()


def message(subject, body="hello\r\n.dot\r\n..dots\r\n\r\n.\r\nend\r\n"):
    head = f"From: a@example.org\r\nSubject: {subject}\r\nDate: Thu, 1 Jan 1970 00:00:00 +0000\r\nMessage-ID: <{subject}@a>\r\n"
    return f"{head}\r\n{body}".encode()


def submit(node, user, recipients, data):
    with clients.submission(node, user) as client:
        return clients.send(client, user.address, recipients, data)


def arrived(server, subject):
    """Messages of this subject, with our own Received line taken off."""
    found = [data for data in server.messages() if f"\r\nSubject: {subject}\r\n".encode() in data]
    return [re.sub(rb"\AReceived: from .*?;\r\n\t[^\r]*\r\n", b"", data, flags=re.DOTALL) for data in found]


def queue_is_empty(world):
    for node in world.cluster.running():
        status, text = node.http("GET", "/metrics")
        assert status == 200 and "\nprickle_queue_messages 0\n" in text, node
    return True


def test_a_message_arrives_once_and_byte_for_byte(world, user):
    data = message("plain")
    assert submit(world.cluster.nodes[0], user, ["inbox@example.net"], data) == ["inbox@example.net"]
    eventually("it arrives", lambda: arrived(world.mx, "plain"), 20)
    eventually("the queue is empty", lambda: queue_is_empty(world), 20)
    assert arrived(world.mx, "plain") == [data]
