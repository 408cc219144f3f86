"""The cluster's secret is replaced while mail comes and is read. See docs/security.md."""

import secrets
import threading

import pytest

import clients
import cluster as clusters
from test_encryption import add_user, deliver, has, marker
from wait import eventually


@pytest.fixture
def nodes(tmp_path):
    with clusters.started(tmp_path / "c") as made:
        yield made


def secret(node):
    """What a node says of the cluster's secret."""
    members = node.status()["members"]
    return next(member["node"]["secret"] for member in members if member["name"] == node.name)


def currents(cluster):
    return [secret(node)["current"] for node in cluster.nodes]


class Deliveries(threading.Thread):
    """One message after the other, until it is ended; remembers what was acknowledged."""

    def __init__(self, cluster, user):
        super().__init__(daemon=True)
        self.cluster, self.user = cluster, user
        self.markers, self.ending = [], threading.Event()

    def run(self):
        with clients.lmtp(self.cluster.nodes[0]) as lmtp:
            while not self.ending.wait(0.05):
                one = marker()
                message = f"Subject: {one}\r\n\r\nbody {one}\r\n".encode()
                clients.send(lmtp, "a@example.net", [self.user.address], message)
                self.markers.append(one)

    def end(self):
        self.ending.set()
        self.join(30)
        assert self.markers
        return self.markers


def files_of(cluster):
    """Each node's own file, so that they can be given new versions one after the other."""
    files = []
    for node in cluster.nodes:
        folder = cluster.directory / f"secrets-of-{node.name}"
        folder.mkdir()
        file = folder / "secret"
        file.write_bytes((cluster.directory / "cluster.secret").read_bytes())
        node.config.write_text(node.config.read_text().replace("./cluster.secret", str(file)))
        files.append(file)
    return files


def test_a_new_secret_is_used_when_all_have_it_and_mail_is_rewrapped_until_the_old_one_can_go(tmp_path):
    made = {}
    with clusters.started(tmp_path / "c", prepare=lambda cluster: made.update(files=files_of(cluster))) as cluster:
        files = made["files"]
        plain, sealed = add_user(cluster, "cluster"), add_user(cluster, "user")
        before = [marker() for _ in range(30)]
        deliver(cluster.nodes[0], plain, *before)
        deliver(cluster.nodes[1], sealed, *before[:3])
        assert currents(cluster) == [1, 1, 1]

        load = Deliveries(cluster, plain)
        load.start()
        second = secrets.token_bytes(48)
        for file in files[:2]:
            (file.parent / "secret-2").write_bytes(second)
        eventually("all know their versions", lambda: [secret(node)["versions"] for node in cluster.nodes] == [[1, 2], [1, 2], [1]], 30)
        assert currents(cluster) == [1, 1, 1], "one of them could not open what the others wrapped"
        has(cluster.nodes[2], plain, *before)

        (files[2].parent / "secret-2").write_bytes(second)
        eventually("the new one is in use", lambda: currents(cluster) == [2, 2, 2], 30)
        eventually("all keys are wrapped anew", lambda: all(secret(node)["wrappedByOlder"] == 0 for node in cluster.nodes), 60)
        before += load.end()
        eventually("keys of mail that came meanwhile, too", lambda: all(secret(node)["wrappedByOlder"] == 0 for node in cluster.nodes), 60)
        assert "2 in use; no key here needs an older one" in cluster.admin("cluster", "status")

        for file in files:
            file.unlink()
        eventually("the old one is gone", lambda: [secret(node)["versions"] for node in cluster.nodes] == [[2]] * 3, 30)
        cluster.stop()
        cluster.start()
        has(cluster.nodes[2], plain, *before)
        has(cluster.nodes[0], sealed, *before[:3])


def replace_secret(cluster):
    """Version 2 in place of version 1, when nothing is wrapped by that any more."""
    (cluster.directory / "cluster.secret-2").write_bytes(secrets.token_bytes(48))
    eventually("the new one is in use", lambda: currents(cluster) == [2] * len(cluster.nodes), 30)
    eventually("all keys are wrapped anew", lambda: all(secret(node)["wrappedByOlder"] == 0 for node in cluster.nodes), 60)
    (cluster.directory / "cluster.secret").unlink()
    eventually("the old one is gone", lambda: [secret(node)["versions"] for node in cluster.nodes] == [[2]] * len(cluster.nodes), 30)


def test_mail_that_is_queued_for_others_is_sent_with_the_new_secret_alone(tmp_path):
    receiver = clusters.Cluster(tmp_path / "receiver", count=1, factor=1)
    receiver.domain = "elsewhere.example"
    relay = f"outbound: {{relay: {{host: 127.0.0.1, port: {receiver.nodes[0].ports['smtp']}, tls: none}}, retrySeconds: [1]}}\n"
    try:
        receiver.start()
        receiver.add_domain()
        reader = receiver.add_user("somebody")
        receiver.stop()
        with clusters.started(tmp_path / "c", settings=relay) as cluster:
            sender, markers = add_user(cluster, "cluster"), [marker() for _ in range(20)]
            with clients.submission(cluster.nodes[0], sender) as client:
                for one in markers:
                    data = f"From: {sender.address}\r\nSubject: {one}\r\n\r\nbody {one}\r\n".encode()
                    assert clients.send(client, sender.address, ["somebody@elsewhere.example"], data)
            replace_secret(cluster)
            # One has everything from its disk, the others know the queue from before.
            cluster.nodes[0].process.stop()
            cluster.start_node(cluster.nodes[0])
            receiver.start()
            eventually("all are there", lambda: has(receiver.nodes[0], reader, *markers), 30, every=1)
    finally:
        receiver.close()


def test_a_secret_that_mail_needs_is_kept_in_memory_and_a_changed_one_is_refused(nodes):
    user, one = add_user(nodes, "cluster"), marker()
    deliver(nodes.nodes[0], user, one)
    file = nodes.directory / "cluster.secret"
    first = file.read_bytes()
    file.write_bytes(secrets.token_bytes(48))
    said = lambda text: all(text in node.process.log.read_text(errors="replace") for node in nodes.nodes)
    eventually("the change is refused", lambda: said("version 1 was changed"), 30)
    (nodes.directory / "cluster.secret-2").write_bytes(secrets.token_bytes(48))
    file.unlink()
    eventually("the loss is said", lambda: said("messages need is gone: give it back"), 30)
    has(nodes.nodes[1], user, one)
    nodes.stop()
    file.write_bytes(first)
    nodes.start()
    has(nodes.nodes[2], user, one)
