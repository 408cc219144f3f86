"""Accounts in TiKV: real nodes, TiKV's real client and protocols, the test server of e2e/tikv (docs/tikv.md says what that does
not prove). What nodes know goes on working while TiKV is away; what must write gets a temporary error, and says so."""

import imaplib
import threading
import time

import pytest

import clients
import cluster as clusters
from ledger import FOLDERS, Ledger
from load import Load
from tikv_server import TikvServer, program, put_accounts_into
from wait import eventually

USERS = 6
SEED = 5
#: A command of a client waits at most for a look-up that takes a second, twice (docs/tikv.md), and for the machine.
PATIENCE = 5.0
AWAY = "the user database"


def nodes_on_tikv(directory, server, count=3, prefix="prickle/"):
    return clusters.started(directory, lambda made: put_accounts_into(made, server, prefix), count=count)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    program()
    made = TikvServer(tmp_path_factory.mktemp("tikv"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory, server):
    with nodes_on_tikv(tmp_path_factory.mktemp("on-tikv") / "c", server) as made:
        yield made


@pytest.fixture(autouse=True)
def no_faults_are_left(server):
    yield
    server.tell("clear")


def deliver(node, user, text):
    with clients.smtp(node) as smtp:
        smtp.ehlo()
        return clients.send(smtp, "a@example.net", [user.address], f"Subject: {text}\r\n\r\n{text}\r\n".encode())


def subjects(node, user):
    with clients.imap(node, user) as imap:
        clients.ok(imap.select("INBOX", readonly=True))
        return [body.split(b"Subject: ")[1].split(b"\r\n")[0].decode() for _, body in clients.fetch(imap).values()]


def test_accounts_in_tikv_serve_mail_through_every_node(three, server):
    users = [three.add_user() for _ in range(3)]
    sent = []
    for user in users:
        for number, node in enumerate(three.nodes):
            deliver(node, user, f"{number} for {user.address}")
        sent.append([f"{number} for {user.address}" for number in range(3)])
    for user, expected in zip(users, sent):
        for node in three.nodes:
            assert sorted(subjects(node, user)) == expected, f"{user.address} through {node}"
        pop3 = clients.pop3(three.nodes[0], user)
        assert pop3.stat()[0] == 3
        pop3.quit()
    assert int(server.tell("count KvCommit")) >= 3 * 3, "the accounts are elsewhere"
    assert all(node.metric("prickle_user_database_reachable") == 1 for node in three.nodes)
    # Nothing of it is on the nodes: new processes find it again.
    for node in three.nodes:
        three.kill(node)
    three.start()
    for user, expected in zip(users, sent):
        assert sorted(subjects(three.nodes[1], user)) == expected
    three.admin("user", "remove", users[0].address)
    with clients.smtp(three.nodes[2]) as smtp:
        smtp.ehlo()
        smtp.mail("a@example.net")
        eventually("the account is gone", lambda: smtp.rcpt(users[0].address)[0] == 550, 10)


class Scene:
    """Load on a cluster whose users every node has met: their accounts are in all nodes' memory."""

    def __init__(self, cluster, name):
        self.cluster, self.ledger = cluster, Ledger()
        self.users = [cluster.add_user(f"{name}{number}") for number in range(USERS)]
        self.load = Load(cluster, self.users, self.ledger, SEED)
        for user in self.users:
            with clients.imap(cluster.nodes[0], user) as imap:
                clients.ok(imap.create(FOLDERS[1]))
        # Both folders of everybody get numbers, and every node looks every address up.
        for user in self.users:
            for number, node in enumerate(cluster.nodes):
                with clients.imap(node, user) as imap:
                    clients.ok(imap.select("INBOX"))
                    for folder in FOLDERS:
                        self._append(imap, user, folder, f"{name}-warm-{number}-{folder}")
                with clients.lmtp(node) as lmtp:
                    lmtp.mail("a@example.net")
                    assert lmtp.rcpt(user.address)[0] == 250

    def _append(self, imap, user, folder, identity):
        from ledger import make

        self.ledger.attempt(user.address, identity)
        validity, uid = clients.append(imap, folder, make(identity))
        self.ledger.acknowledge(user.address, identity)
        self.ledger.saw(user.address, folder, validity, uid, identity)

    def during(self, begin, end, seconds, meanwhile=lambda: None):
        """Load before, while something is away, and after; the slowest delivery of each part."""
        with self.load.running():
            time.sleep(2)
            away = time.monotonic()
            begin()
            try:
                meanwhile()
                time.sleep(max(0.0, away + seconds - time.monotonic()))
            finally:
                back = time.monotonic()
                end()
            time.sleep(3)
        parts = {"before": (0, away), "while away": (away, back), "after": (back, time.monotonic())}
        return {
            name: [took for at, _, took in self.load.deliveries if since <= at <= until]
            for name, (since, until) in parts.items()
        }

    def nothing_was_lost(self):
        assert not self.load.failures, f"{len(self.load.failures)} commands failed twice: {self.load.failures[:6]}"
        for node in self.cluster.nodes:
            self.ledger.check(node, self.users)


def writes_are_refused(cluster, user):
    """Each kind of change, at some node: a temporary error in the protocol's own terms, in bounded time."""
    begun = time.monotonic()
    status, text = cluster.nodes[0].http("POST", "/v1/users", {"address": f"new-{begun}@example.org", "password": "long enough"})
    assert status == 503 and AWAY in text, (status, text)
    with clients.imap(cluster.nodes[1], user) as imap:
        kind, data = imap.create(f"made-at-{begun}")
        assert kind == "NO", (kind, data)
        # RFC 5530 3: UNAVAILABLE is temporary.
        assert b"UNAVAILABLE" in data[0] or b"try again" in data[0].lower() or AWAY.encode() in data[0], data
    with clients.smtp(cluster.nodes[2]) as smtp:
        smtp.ehlo()
        smtp.mail("a@example.net")
        code, text = smtp.rcpt(f"nobody-{begun}@example.org")
        assert 400 <= code < 500, f"whether there is such a user is not known: {code} {text}"
    return time.monotonic() - begun


def test_mail_goes_on_while_tikv_is_away_and_changes_get_a_temporary_error(three, server, report):
    scene = Scene(three, "away")
    took = []

    def meanwhile():
        time.sleep(2)
        took.append(writes_are_refused(three, scene.users[0]))

    parts = scene.during(server.kill, server.start, 8, meanwhile)
    slowest = {name: max(seconds, default=0) for name, seconds in parts.items()}
    report(
        "TiKV and PD killed for 8 s under load: "
        + ", ".join(f"{len(parts[name])} deliveries {name}, slowest {slowest[name]:.2f} s" for name in parts)
        + f"; three refusals took {took[0]:.2f} s; {len(scene.load.retries)} commands retried"
    )
    assert len(parts["while away"]) > 50, "delivery goes on"
    assert slowest["while away"] < PATIENCE
    assert sum(node.metric("prickle_user_database_stale_reads_total") for node in three.nodes) > 0
    eventually("changes are possible again", lambda: three.add_user(), 20)
    scene.nothing_was_lost()


FAULTS = {
    "PD refuses connections": ("stop pd", "start pd"),
    "TiKV refuses connections": ("stop kv", "start kv"),
    "PD is silent": ("freeze pd", "thaw pd"),
    "TiKV is silent": ("freeze kv", "thaw kv"),
    "TiKV is slow": ("delay KvGet 100000 300", "clear"),
    "TiKV loses answers after execution": ("drop KvCommit 6", "clear"),
}


def test_mail_goes_on_through_faults_of_tikv(three, server, report):
    """One after the other, with a pause between them, under one load."""
    scene = Scene(three, "faulty")
    times = {}
    with scene.load.running():
        for fault, (begin, end) in FAULTS.items():
            time.sleep(2)
            begun = time.monotonic()
            scene.ledger.phase(fault)
            server.tell(begin)
            time.sleep(4)
            server.tell(end)
            times[fault] = (begun, time.monotonic())
        time.sleep(2)
    for fault, (begun, ended) in times.items():
        took = [seconds for at, _, seconds in scene.load.deliveries if begun <= at <= ended + 1]
        report(f"{fault}: {len(took)} deliveries, slowest {max(took):.2f} s")
        assert len(took) > 30, f"{fault}: delivery goes on"
        assert max(took) < PATIENCE, fault
    eventually("changes are possible again", lambda: three.add_user(), 20)
    scene.nothing_was_lost()


def test_both_killed_for_four_seconds_leave_no_account_half_made_and_no_uid_twice(three, server, report):
    """Accounts are made and folders created by clients of every node while PD and TiKV die and come back."""
    scene = Scene(three, "kill")
    stop, made, refused, failures = threading.Event(), [], [], []

    def make_accounts(node, number):
        for count in range(1000):
            if stop.is_set():
                return
            user = clusters.User(f"made-{number}-{count}@example.org", "a long password")
            try:
                status, text = node.http("POST", "/v1/users", {"address": user.address, "password": user.password})
            except OSError as error:
                failures.append(repr(error))
                continue
            {201: made, 503: refused}.get(status, failures).append((user, node) if status in (201, 503) else text)
            with clients.imap(node, scene.users[number]) as imap:
                imap.create(f"folder-{count}")
                imap.append(f"folder-{count}", "", None, b"Subject: x\r\n\r\nx\r\n")

    def careful(node, number):
        try:
            make_accounts(node, number)
        except Exception as error:  # noqa: BLE001 - must fail the test
            failures.append(repr(error))

    workers = [threading.Thread(target=careful, args=(node, number), daemon=True) for number, node in enumerate(three.nodes)]
    for worker in workers:
        worker.start()
    try:
        scene.during(server.kill, server.start, 4)
        scene.during(server.kill, server.start, 4)
    finally:
        stop.set()
        for worker in workers:
            worker.join(60)
    assert not failures, failures[:5]
    assert made and refused, (len(made), len(refused))
    report(f"PD and TiKV killed twice for 4 s: {len(made)} accounts made, {len(refused)} refused for now")
    for user, node in made:
        assert node.http("GET", f"/v1/users/{user.address}")[0] == 200, f"{user.address} was made and is not there"
    # A refused one exists wholly or can be made; the repair pass may still be at what was left over.
    for user, node in refused:
        if node.http("GET", f"/v1/users/{user.address}")[0] != 200:
            status, text = node.http("POST", "/v1/users", {"address": user.address, "password": user.password})
            assert status == 201, text
        deliver(node, user, "it takes mail")
    scene.nothing_was_lost()
    # The repair pass takes what was left over away: it must look wrong twice.
    half_made = lambda: "half-made" in three.admin("directory", "check", check=False).stdout  # noqa: E731
    eventually("nothing is half-made", lambda: not half_made(), 60, every=2)


def test_regions_split_under_accounts_in_use(three, server):
    users = [three.add_user(name) for name in ("aaron", "mia", "zoe")]
    for name in ("aaron", "mia", "zoe"):
        server.tell("split " + f"prickle/\0a{name}@example.org".encode().hex())
    server.tell("split " + b"prickle/\0p\x80".hex())
    for node, user in zip(three.nodes, users):
        deliver(node, user, "after the split")
        assert "after the split" in subjects(node, user)
    for user in users:
        three.add_user(f"next-to-{user.address.split('@')[0]}")
    listed = three.admin("user", "list").split()
    assert listed == sorted(listed) and {user.address for user in users} <= set(listed)


def test_two_clusters_in_one_tikv_have_their_own_accounts(tmp_path, three, server):
    with nodes_on_tikv(tmp_path / "other", server, count=1, prefix="other/prickle") as other:
        here, there = three.add_user("twin"), other.add_user("twin")
        assert here.address == there.address and here.password != there.password
        deliver(three.nodes[0], here, "for the one")
        deliver(other.nodes[0], there, "for the other")
        assert subjects(three.nodes[1], here) == ["for the one"]
        assert subjects(other.nodes[0], there) == ["for the other"]
        with pytest.raises(imaplib.IMAP4.error):
            clients.imap(other.nodes[0], here)
        assert other.admin("user", "list").split() == [there.address]
        # A domain, an address, an account.
        assert other.admin("directory", "check").startswith("3 records looked at, 0 problems")
        other.admin("user", "remove", there.address)
        assert subjects(three.nodes[2], here) == ["for the one"]


def test_accounts_move_out_of_tikv_into_the_nodes_own_database(tmp_path, three, cluster):
    """`three` has its accounts in TiKV, `cluster` keeps them itself. (Only accounts: mail stays where it is.)"""
    mover = three.add_user("mover")
    three.admin("alias", "add", "movers@example.org", mover.address)
    with clients.imap(three.nodes[0], mover) as imap:
        clients.ok(imap.create("Work/2026"))
        clients.append(imap, "Work/2026", b"Subject: x\r\n\r\nx\r\n")
    out = tmp_path / "out.jsonl"
    three.admin("directory", "export", "--out", out)
    assert out.stat().st_mode & 0o777 == 0o600
    exported = out.read_text()
    assert mover.password not in exported and "$argon2id$" in exported

    first = cluster.admin("directory", "import", out)
    assert " 0 refused" in first, first
    again = cluster.admin("directory", "import", out)
    assert " 0 made" in again and " 0 refused" in again, again
    shown = three.admin("user", "show", mover.address)
    assert cluster.admin("user", "show", mover.address) == shown, "the same account: id, folders, quota"
    with clients.smtp(cluster.nodes[1]) as smtp:
        smtp.ehlo()
        clients.send(smtp, "a@example.net", ["movers@example.org"], b"Subject: by the alias\r\n\r\nx\r\n")
    assert subjects(cluster.nodes[2], mover) == ["by the alias"], "the password works as well"

    # A changed account is not overwritten by an older file, and half a file is refused.
    cluster.admin("user", "passwd", mover.address, input="another long password\n")
    refused = cluster.admin("directory", "import", out, check=False)
    assert refused.returncode == 1 and "credentials" in refused.stderr and "$argon2" not in refused.stderr
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(exported.splitlines(keepends=True)[:-1]))
    refused = cluster.admin("directory", "import", cut, check=False)
    assert refused.returncode == 1 and "cut off" in refused.stderr
