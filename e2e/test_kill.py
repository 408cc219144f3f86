"""The scenario of the design: four nodes under load, one killed, back, another killed, back. Nobody loses mail.

The first victim is not the coordinator, the second one is. What proves that a returned node has caught up: each message
has two copies (R=2), so while another node is dead, what both had is read from the returned one; and at the end the cluster
is started again, without soft state, without each of the nodes in turn.
"""

import time

import pytest

import cluster as clusters
from ledger import FOLDERS, Ledger
from load import Load
from wait import eventually
import clients

pytestmark = pytest.mark.kill

ROUTED_AROUND = 1.0
# 3 s by the default settings (docs/figures, 5), coordinator or not; measured here: 0.3 to 0.5, and 2.5 to 2.7 s for the coordinator. The rest is
# for a machine that does much else.
OUT_OF_VIEW = 3.5
WHOLE_SCENARIO = 120.0
SEED = 3
USERS = 16


class Scene:
    def __init__(self, directory):
        self.cluster = clusters.Cluster(directory, count=4)
        self.ledger = Ledger()
        self.completed = False

    def start(self):
        self.cluster.start()
        self.cluster.add_domain()
        self.users = [self.cluster.add_user(f"user{number}") for number in range(USERS)]
        for user in self.users:
            with clients.imap(self.cluster.nodes[0], user) as imap:
                clients.ok(imap.create(FOLDERS[1]))
        self.load = Load(self.cluster, self.users, self.ledger, SEED)

    def check(self, nodes=None):
        for node in self.cluster.running() if nodes is None else nodes:
            self.ledger.check(node, self.users)

    def node_named(self, name):
        return next(node for node in self.cluster.nodes if node.name == name)

    def coordinator(self):
        return self.node_named(self.cluster.running()[0].status()["coordinator"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    made = Scene(tmp_path_factory.mktemp("kill") / "c")
    try:
        made.start()
        yield made
    finally:
        made.cluster.close()


def kill_under_load(scene, victim, report):
    """Kills a node while load runs on; then everything promised must be there, from every node that is left."""
    cluster, load = scene.cluster, scene.load
    survivors = [node for node in cluster.nodes if node is not victim]
    with load.running():
        time.sleep(4)
        load.retries.clear()
        scene.ledger.phase(f"{victim} is killed")
        killed = time.monotonic()
        cluster.kill(victim)
        for node in survivors:
            eventually(f"{node} has {victim} out of its view", lambda: victim.name not in cluster.active(node), 10, every=0.02)
        out_of_view = time.monotonic() - killed
        scene.ledger.phase(f"{victim} is out of all views")
        time.sleep(max(0.0, 6 - out_of_view))
        end = time.monotonic()
    gaps = {node.name: load.longest_gap(node, killed - 0.2, end) for node in survivors}
    slowest = max(seconds for at, _, seconds in load.deliveries if killed <= at <= end)
    report(
        f"{victim} killed: out of all views after {out_of_view:.2f} s; longest gap between deliveries at "
        + ", ".join(f"{name} {gap:.2f} s" for name, gap in gaps.items())
        + f"; slowest delivery {slowest:.2f} s; {len(load.retries)} commands retried"
    )
    assert not load.failures, f"{len(load.failures)} commands failed twice: {load.failures[:8]}; phases: {scene.ledger.phases}"
    assert out_of_view < OUT_OF_VIEW
    assert max(gaps.values()) < ROUTED_AROUND, gaps
    scene.check(survivors)


def return_under_load(scene, node, report):
    """The node comes back while load runs on, catches up, and serves everything like the others."""
    cluster, load = scene.cluster, scene.load
    begun = time.monotonic()
    with load.running():
        scene.ledger.phase(f"{node} starts")
        cluster.start_node(node)
        for seer in cluster.nodes:
            eventually(f"{seer} sees {node} active", lambda: node.name in cluster.active(seer), 20)
        active = time.monotonic() - begun
        scene.ledger.phase(f"{node} is active")
        time.sleep(3)
    stopped = time.monotonic()
    scene.ledger.phase("the load pauses")
    cluster.settled()
    scene.ledger.phase("all updates have settled")
    report(f"{node} returned: active after {active:.2f} s, caught up {time.monotonic() - stopped:.2f} s after the load")
    assert not load.failures, f"{len(load.failures)} commands failed twice: {load.failures[:8]}; phases: {scene.ledger.phases}"
    scene.check()


def test_acknowledged_mail_survives_the_death_of_two_nodes_one_after_the_other(scene, report):
    begun = time.monotonic()
    coordinator = scene.coordinator()
    first = next(node for node in scene.cluster.nodes if node is not coordinator)
    kill_under_load(scene, first, report)
    return_under_load(scene, first, report)
    second = scene.coordinator()
    assert second is not first
    kill_under_load(scene, second, report)
    return_under_load(scene, second, report)
    whole = time.monotonic() - begun
    ledger = scene.ledger
    report(
        f"{len(ledger.acknowledged)} messages acknowledged and intact, {len(ledger.expunged)} expunged, "
        f"{len(ledger.uncertain)} of unknown outcome, {len(ledger.uids)} UIDs, in {whole:.0f} s"
    )
    assert len(ledger.acknowledged) > 500, "there was hardly any load"
    assert whole < WHOLE_SCENARIO
    scene.completed = True


@pytest.mark.parametrize("absent", range(4))
def test_without_soft_state_and_without_one_node_everything_is_there(scene, absent):
    """All are killed and all but one start again: the copies of the absent one's partners are the only ones."""
    cluster = scene.cluster
    if not scene.completed:
        pytest.skip("only after the whole scenario has all nodes caught up")
    for node in cluster.running():
        cluster.kill(node)
    present = [node for number, node in enumerate(cluster.nodes) if number != absent]
    cluster.start(present)
    scene.check([present[0]])
