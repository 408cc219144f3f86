"""Disks with little room, and with none: all nodes of a cluster on one small file system (tmpfs, so it needs root)."""

import os
import subprocess

import pytest

import clients
import cluster as clusters
from test_healing import REPLACE_AFTER, check, lose, members
from test_restart import MESSAGE, fill, seen
from wait import eventually

MIB = 1 << 20
SIZE = 256 * MIB
#: Small segments: the reserve for compaction is two of them.
SETTINGS = f"storage: {{segmentBytes: {MIB}}}\nhealing: {{replaceAfterSeconds: {REPLACE_AFTER}}}\n"


class SmallDisk:
    """A tmpfs, of which so much is taken by a file that only `left` bytes are free."""

    def __init__(self, directory):
        self.directory = directory
        self.filler = directory / "filler"
        directory.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", directory], capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")

    def leave(self, left):
        with self.filler.open("ab") as filler:
            stat = os.statvfs(self.directory)
            size = filler.tell() + stat.f_bavail * stat.f_frsize - left
            if size > filler.tell():
                os.posix_fallocate(filler.fileno(), 0, size)
            else:
                filler.truncate(size)

    def close(self):
        subprocess.run(["umount", "--lazy", self.directory], check=True)


@pytest.fixture
def disk(tmp_path):
    made = SmallDisk(tmp_path / "disk")
    yield made
    made.close()


def test_on_nearly_full_disks_mail_flows_and_copies_are_made_again(disk):
    with clusters.started(disk.directory / "c", count=4, settings=SETTINGS) as cluster:
        users = [cluster.add_user(f"user{number}") for number in range(4)]
        disk.leave(SIZE // 40)
        full = lambda: [member["node"]["load"]["fullness"] for member in cluster.nodes[0].status()["members"]]  # noqa: E731
        eventually("they say that they are nearly full", lambda: min(full()) > 950, 10)
        fill(cluster, users)
        before = seen(cluster.nodes[0], users)
        cluster.settled()
        # How much each has is chance: a node may have nobody's mail.
        stored = {member["name"]: member["node"]["liveBytes"] for member in cluster.nodes[0].status()["members"]}
        lost, second, third, fourth = sorted(cluster.nodes, key=lambda node: -stored[node.name])
        lose(cluster, lost)
        disk.leave(SIZE // 40)
        eventually(f"{lost} is given up", lambda: lost.name not in members(second), REPLACE_AFTER + 15)
        eventually("entries get new replicas", lambda: cluster.total("prickle_healing_moved_entries_total") > 20, 30)
        cluster.settled(60)
        cluster.kill(second)
        check([third, fourth], users, before)


def test_on_full_disks_new_mail_is_refused_for_now_and_all_else_goes_on(disk):
    with clusters.started(disk.directory / "c", settings=SETTINGS) as cluster:
        user = cluster.add_user("user")
        fill(cluster, [user])
        node = cluster.nodes[0]
        disk.leave(MIB)

        def refused():
            try:
                return not takes(node, user)
            except clients.Refused as refusal:
                return refusal.code // 100 == 4

        eventually("new mail is refused for now", refused, 10)
        with clients.imap(node, user) as imap:
            status, said = imap.append("INBOX", None, None, MESSAGE % (301, 301))
            assert status == "NO", said
            clients.ok(imap.select("INBOX"))
            before = clients.fetch(imap)
            clients.ok(imap.store("1:3", "+FLAGS", r"(\Deleted)"))
            clients.ok(imap.expunge())
            assert len(clients.fetch(imap)) == len(before) - 3
        for other in cluster.nodes:
            assert other.is_ready(), "a full disk is no reason to send readers elsewhere"
        disk.leave(SIZE // 4)
        eventually("mail is taken again", lambda: takes(node, user), 10)
        cluster.settled()


def takes(node, user):
    with clients.lmtp(node) as lmtp:
        return clients.send(lmtp, "a@example.net", [user.address], MESSAGE % (302, 302)) == [user.address]
