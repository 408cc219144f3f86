"""Zones from the labels of Kubernetes' nodes to the placement of mail: a zone is lost, and nothing else."""

import time

import pytest

from mail import READY_SECONDS
from wait import eventually

LABEL = "topology.kubernetes.io/zone"


@pytest.fixture
def zones(kubernetes):
    """Two machines are in zone `a`, one is in zone `b`."""
    where = {machine: "b" if machine is kubernetes.machines[-1] else "a" for machine in kubernetes.machines}
    for machine, zone in where.items():
        kubernetes.kubectl("label", "node", machine.name, f"{LABEL}={zone}", "--overwrite")
    yield where
    for machine in where:
        kubernetes.kubectl("label", "node", machine.name, f"{LABEL}-")


def test_copies_are_in_different_zones_and_a_zone_may_die(kubernetes, zones, loaded, report):
    mail, traffic = loaded(nodes=4, zones={"whenUnsatisfiable": "DoNotSchedule"})
    of_pod = {name: zones[kubernetes.machine(pod["spec"]["nodeName"])] for name, pod in mail.pods().items()}
    assert sorted(of_pod.values()) == ["a", "a", "b", "b"], of_pod
    assert {member["name"]: member["zone"] for member in mail.status()["members"]} == of_pod
    left = {name for name, zone in of_pod.items() if zone == "b"}
    addresses = {name: mail.address_of(name) for name in left}
    dead = [machine for machine, zone in zones.items() if zone == "a"]
    try:
        with traffic.running():
            # Without zones one message in six would have both its copies in zone a.
            eventually("there are enough messages", lambda: len(traffic.recorder.acknowledged) >= 60, 120, every=0.5)
            begun = time.monotonic()
            for machine in dead:
                machine.kill()
            members = lambda: {name for name, state in mail.members(min(left)).items() if state == "active"}  # noqa: E731
            eventually("the other zone is out of the view", lambda: members() == left, 90, every=0.5)
            known = time.monotonic()
            eventually("the Service leaves it out", lambda: set(mail.ready_pods()) == left, 120, every=0.5)
            traffic.flows()
            report(f"a zone of two machines dies: out of the view in {known - begun:.1f} s, longest pause of a client "
                   f"{traffic.longest_gap(begun):.1f} s")
        for name, address in addresses.items():
            count = traffic.recorder.compare(name, lambda user, address=address: mail.imap(user, address), traffic.users, ["INBOX"])
        report(f"all {count} messages read from each node of the zone that is left")
    finally:
        kubernetes.revive(*dead)
    mail.wait_settled(READY_SECONDS, nodes=4)
    report(traffic.check())
