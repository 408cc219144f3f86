"""Zones from the labels of Kubernetes' nodes to the placement of mail."""

import secrets

import pytest

import clients
from ledger import make

LABEL = "topology.kubernetes.io/zone"
MESSAGES = 60
#: Makes messages large beside what else a node stores (accounts, of which each node has a copy).
PADDING_LINES = 150


@pytest.fixture
def zones(kubernetes):
    """Two machines are in zone `a`, one is in zone `b`."""
    where = {machine: "b" if machine is kubernetes.machines[-1] else "a" for machine in kubernetes.machines}
    for machine, zone in where.items():
        kubernetes.kubectl("label", "node", machine.name, f"{LABEL}={zone}", "--overwrite")
    yield where
    for machine in where:
        kubernetes.kubectl("label", "node", machine.name, f"{LABEL}-")


def padded(identity):
    lines = (f"X-Padding: {secrets.token_hex(32)}\r\n" for _ in range(PADDING_LINES))
    return "".join(lines).encode() + make(identity)


def live_bytes(mail):
    status = mail.status()
    return {member["name"]: member["node"]["liveBytes"] for member in status["members"]}


def test_copies_are_in_different_zones(kubernetes, zones, loaded, report):
    mail, traffic = loaded(nodes=3)
    of_pod = {name: zones[kubernetes.machine(pod["spec"]["nodeName"])] for name, pod in mail.pods().items()}
    assert sorted(of_pod.values()) == ["a", "a", "b"], "two nodes on one machine"
    assert {member["name"]: member["zone"] for member in mail.status()["members"]} == of_pod
    alone = next(name for name, zone in of_pod.items() if zone == "b")

    before = live_bytes(mail)
    recorder = traffic.recorder
    for number in range(MESSAGES):
        user = traffic.users[number % len(traffic.users)]
        identity = f"zoned-{number}"
        recorder.attempt(user.address, identity)
        with mail.smtp() as client:
            client.ehlo()
            for address in clients.send(client, "load@example.net", [user.address], padded(identity)):
                recorder.acknowledge(address, identity)
    traffic.wait_quiet()
    stored = {name: count - before[name] for name, count in live_bytes(mail).items()}
    here, there = stored[alone], sum(stored.values()) - stored[alone]
    # Two copies each: without zones a third of the messages would have none there.
    report(f"of {MESSAGES} messages the node alone in its zone stores {here} bytes, the two of the other zone {there} together")
    assert here > 0.9 * there, stored
    report(traffic.check())
