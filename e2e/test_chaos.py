"""Five nodes, each in a network of its own, under mixed load, to which everything happens that DESIGN 3 says they survive.

    PRICKLE_CHAOS_SECONDS=600 PRICKLE_CHAOS_SEED=7 make e2e ONLY=test_chaos.py

A round of faults (chaos/plan.py), then the load pauses, the cluster has to report that it is whole, and all that clients were
promised is compared with what they can read; at the end through every node, and once more without soft state and without one node.
"""

import os
import random
import time
import traceback
from collections import Counter

import pytest

import clients
import cluster as clusters
from chaos import judge, network, plan
from chaos.faults import Faults
from chaos.load import Load
from chaos.promises import FOLDERS, INBOX, Promises
from ledger import make
from wait import eventually

SECONDS = float(os.environ.get("PRICKLE_CHAOS_SECONDS", "90"))
SEED = os.environ.get("PRICKLE_CHAOS_SEED", "4")
LOG = os.environ.get("PRICKLE_CHAOS_LOG", "info")
NODES = 5
USERS = 10
#: Parts of nearly every message are kept apart, and what nobody renews is in the trash before the end.
PARTS = "storage: {bodyLeaseSeconds: 60, parts: {thresholdBytes: 64, renewSeconds: 5, leaseSeconds: 15}}\n"
#: From the end of the faults until all is whole.
WHOLE = 90


class Chaos:
    def __init__(self, directory, net):
        self.directory = directory
        self.cluster = clusters.Cluster(directory, count=NODES, network=net, log=LOG, settings=PARTS)
        self.random = random.Random(SEED)
        self.failures = []
        self.healed = []

    def start(self):
        self.cluster.start()
        self.cluster.add_domain()
        self.users = [self.cluster.add_user(f"user{number}") for number in range(USERS)]
        for user in self.users:
            with clients.imap(self.cluster.nodes[0], user) as imap:
                for folder in FOLDERS[1:]:
                    clients.ok(imap.create(folder))
        begun = time.monotonic()
        self.promises, self.faults = Promises(begun), Faults(self.cluster, begun)
        self.load = Load(self.cluster, self.users, self.promises, SEED)
        self.load.begin()

    def round(self):
        faults = plan.make_round(self.random, NODES)
        self.load.go()
        self.faults.run(faults, plan.ROUND_SECONDS)
        self.become_whole()
        self.judge([self.random.choice(self.cluster.nodes)])

    def become_whole(self):
        self.faults.note("faults end")
        self.load.pause_all()
        begun = time.monotonic()
        for node in self.cluster.nodes:
            eventually(f"{node} reports that the cluster is whole", lambda: whole(node), WHOLE, every=0.2)
        self.healed.append(time.monotonic() - begun)
        self.faults.note(f"whole after {self.healed[-1]:.1f} s")

    def judge(self, nodes):
        """What each of these nodes shows is what was promised, and the same."""
        seen = None
        for node in nodes:
            before, seen = seen, judge.look(node, self.users)
            judge.judge(self.promises, seen, f"at {node}")
            if before is not None:
                self.failures += [f"{node} shows something else: {text}" for text in judge.differences(before, seen)]
        self.faults.note(f"judged through {nodes}: {len(self.promises.violations)} violations")

    def everybody_gets_mail_through_every_node(self):
        for node in self.cluster.running():
            identity = f"last-{node}"
            keys = [(user.address, identity, "original") for user in self.users]
            for key in keys:
                self.promises.try_new(key, INBOX, (), f"last delivery at {node}")
            with clients.lmtp(node) as lmtp:
                clients.send(lmtp, "a@example.net", [user.address for user in self.users], make(identity))
            for key in keys:
                self.promises.made(key, "250")

    def without_soft_state_and_without_one_node(self):
        absent = self.random.choice(self.cluster.nodes)
        self.faults.note(f"all are killed; all but {absent} start again")
        for node in self.cluster.nodes:
            self.cluster.kill(node)
        present = [node for node in self.cluster.nodes if node is not absent]
        self.cluster.start(present)
        self.judge([self.random.choice(present)])

    def report(self):
        """All that there is to say, kept beside the logs as well."""
        kinds = Counter(kind for kind, _ in self.promises.violations)
        lines = [
            f"seed {SEED}, {SECONDS:.0f} s; logs and data: {self.directory}",
            f"violations: {dict(kinds)}; nodes that ended by themselves: {len(self.faults.deaths)}",
            *[f"- {text}" for text in [*self.failures, *self.faults.deaths, *self.load.bugs]],
            *[f"- {text}" for _, text in self.promises.violations],
            "timeline:",
            *self.faults.timeline,
        ]
        (self.directory / "chaos.txt").write_text("\n".join(lines) + "\n")
        return lines


def whole(node):
    """As `mailnode cluster status` says: all members are there, nothing waits, and all who share something have compared it."""
    status = node.status()
    states = {member["name"]: member["state"] for member in status["members"]}
    assert len(states) == NODES and set(states.values()) == {"active"}, f"members: {states}"
    assert all(member["reachable"] for member in status["members"]), "a member does not answer"
    left = {}
    for member in status["members"]:
        told = member["node"] | member["node"]["healing"]
        for name in ("pendingUpdates", "underReplicatedEntries", "entriesLeft", "bucketsLeft", "peersToCompare"):
            if told.get(name, 0):
                left[f"{name} of {member['name']}"] = told[name]
    assert not left, f"{left}"
    return True


@pytest.fixture(scope="module")
def net():
    try:
        made = network.Network(NODES).start()
    except network.Unavailable as error:
        pytest.skip(f"no network namespaces on this machine: {error}")
    yield made
    made.remove()


@pytest.mark.kill
def test_nothing_acknowledged_is_lost_whatever_happens_to_nodes_disks_and_network(tmp_path, net, report):
    begun = time.monotonic()
    chaos = Chaos(tmp_path / "c", net)
    try:
        chaos.start()
    except BaseException:
        chaos.cluster.close()
        raise
    print(f"chaos: seed {SEED}, {SECONDS:.0f} s, {chaos.directory}")
    try:
        while time.monotonic() - begun < SECONDS:
            chaos.round()
        chaos.load.end()
        chaos.everybody_gets_mail_through_every_node()
        chaos.judge(chaos.cluster.nodes)
        chaos.without_soft_state_and_without_one_node()
    except Exception:  # noqa: BLE001 - reported below, with all that was found until then
        chaos.failures.append(traceback.format_exc(limit=-3))
    finally:
        chaos.load.end()
        chaos.cluster.close()
    lines = chaos.report()
    promises = chaos.promises
    acknowledged = sum(mail.acknowledged for mail in promises.mails.values())
    expunged = sum(mail.removed == "yes" for mail in promises.mails.values())
    report(
        f"seed {SEED}: {len(chaos.healed)} rounds in {time.monotonic() - begun:.0f} s; {acknowledged} of {len(promises.mails)} messages acknowledged, "
        f"{expunged} expunged, {promises.renumbered} announced again; whole after {max(chaos.healed, default=0):.1f} s at most; "
        f"done {sum(chaos.load.done.values())}, failed {sum(chaos.load.failed.values())}"
    )
    kinds = Counter(kind for kind, _ in promises.violations)
    if kinds:
        report(f"violations: {dict(kinds)}")
    broken = chaos.failures or chaos.faults.deaths or chaos.load.bugs or kinds
    assert not broken, "\n".join(line[:1500] for line in lines[:60] + ["..."] + chaos.faults.timeline)
    assert acknowledged > SECONDS * 5, f"there was hardly any load: {chaos.load.done}, failed: {chaos.load.failed}"
