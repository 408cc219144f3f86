"""Nodes of an older version and of this one in one cluster: an upgrade node by node, while mail goes on, and one step back."""

import pytest

import clients
import cluster as clusters
import versions
from test_restart import MESSAGE, fill, seen


@pytest.fixture
def old():
    program = versions.binary()
    if not program.exists():
        pytest.skip(f"no mailnode of commit {versions.commit()[:12]}: `make versions` builds it")
    return program


def replace(cluster, node, program):
    assert node.process.stop() == 0
    node.program = [program]
    cluster.start_node(node)


def use(cluster, users, number):
    """Each node takes mail for everybody, and changes flags, copies and expunges for some; returns what all of them show."""
    for at, node in enumerate(cluster.nodes):
        with clients.lmtp(node) as lmtp:
            text = MESSAGE % (number + at, number + at)
            assert len(clients.send(lmtp, "a@example.net", [user.address for user in users], text)) == len(users)
        with clients.imap(node, users[at]) as imap:
            clients.ok(imap.select("INBOX"))
            last = clients.ok(imap.uid("SEARCH", "ALL"))[0].split()[-3:]
            clients.ok(imap.uid("STORE", last[0], "+FLAGS", r"(\Answered)"))
            clients.ok(imap.uid("COPY", last[1], "Kept"))
            clients.ok(imap.uid("STORE", last[2], "+FLAGS", r"(\Deleted)"))
            clients.ok(imap.expunge())
    cluster.settled()
    shown = seen(cluster.nodes[0], users)
    for node in cluster.nodes[1:]:
        assert seen(node, users) == shown, f"through {node}"
    return shown


def test_a_cluster_is_upgraded_node_by_node_and_one_step_back(tmp_path, old, report):
    cluster = clusters.Cluster(tmp_path / "c", count=3)
    try:
        for node in cluster.nodes:
            node.program = [old]
        cluster.start()
        cluster.add_domain()
        users = [cluster.add_user(f"user{number}") for number in range(6)]
        fill(cluster, users)
        shown = use(cluster, users, 200)
        steps = [(0, clusters.MAILNODE), (1, clusters.MAILNODE), (1, old), (1, clusters.MAILNODE), (2, clusters.MAILNODE)]
        for step, (index, program) in enumerate(steps):
            replace(cluster, cluster.nodes[index], program)
            cluster.settled()
            assert seen(cluster.nodes[index], users) == shown, f"through {cluster.nodes[index]}, which was replaced"
            shown = use(cluster, users, 300 + 10 * step)
        cluster.add_user("made-by-the-new-ones")
        report(f"from {versions.commit()[:12]}: {sum(len(mails) for _, mails in shown.values())} messages, the same through all nodes")
    finally:
        cluster.close()
