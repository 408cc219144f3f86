"""Load through all nodes of a cluster, as ordinary clients make it, which note in a ledger what they were promised.

A client whose command fails tries it once more, as the design allows ("its users never notice more than one retried
command"): on its connection if that lives, else through the next node that accepts connections, as behind a load balancer.
A second failure is a failure of the cluster and is kept in `failures`.
"""

import contextlib
import imaplib
import itertools
import random
import smtplib
import threading
import time

import clients
from ledger import make

PAUSE = 0.02
PATIENCE = 10
BROKEN = (OSError, EOFError, smtplib.SMTPServerDisconnected, smtplib.SMTPConnectError, imaplib.IMAP4.abort)
ANSWERED = (clients.Refused, smtplib.SMTPException, imaplib.IMAP4.error, AssertionError)


class Load:
    def __init__(self, cluster, users, ledger, seed):
        self.nodes, self.users, self.ledger = cluster.nodes, users, ledger
        self.failures, self.retries = [], []
        #: (time, node's name, seconds) of each acknowledged delivery.
        self.deliveries = []
        self._stop = threading.Event()
        self._clients = []
        for number, home in enumerate(self.nodes):
            for kind in (SmtpClient, LmtpClient, ImapClient):
                identity = f"{kind.__name__[0].lower()}{number}"
                self._clients.append(kind(self, identity, home, random.Random(f"{seed} {identity}"), number))

    @contextlib.contextmanager
    def running(self):
        """Load while the block runs; afterwards every started command has ended."""
        self._stop.clear()
        threads = [threading.Thread(target=client.run, args=(self._stop,), daemon=True) for client in self._clients]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive(), "a client hangs"

    def longest_gap(self, node, begin, end):
        """The longest time between two deliveries that this node acknowledged."""
        times = sorted(at for at, name, _ in list(self.deliveries) if name == node.name and begin <= at <= end)
        times = [begin, *times, end]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


class Client:
    """One thread, one connection; each run begins at the home node."""

    def __init__(self, load, name, home, random, number):
        self.load, self.ledger, self.name, self.random = load, load.ledger, name, random
        self.home = self.node = home
        self.number = number
        self.connection = None
        self.serial = itertools.count(1)

    def run(self, stop):
        self.node, self.connection = self.home, None
        try:
            while not stop.is_set():
                self.step()
                time.sleep(PAUSE)
        except Exception as error:  # noqa: BLE001 - a bug here must fail the test, not end a thread silently
            self.load.failures.append(f"{self.name}: {error!r}")
        finally:
            self.disconnect()

    def connected(self):
        if self.connection is None:
            start = self.load.nodes.index(self.node)
            order = self.load.nodes[start:] + self.load.nodes[:start]
            for node in order:
                try:
                    self.connection, self.node = self.connect(node), node
                    break
                except BROKEN as error:
                    reason = error
            else:
                raise OSError(f"no node accepts connections: {reason!r}")
        return self.connection

    def disconnect(self):
        if self.connection is not None:
            with contextlib.suppress(Exception):
                self.hang_up()
            self.connection = None

    def persist(self, what, action):
        """`action()` once, and once more if it fails; whether it succeeded."""
        for attempt in (1, 2):
            begun = time.monotonic()
            try:
                action()
                return True
            except BROKEN as error:
                self.disconnect()
                failure = error
            except ANSWERED as error:
                failure = error
                self.recover()
            note = f"{begun - self.ledger.begun:.2f} {self.name} at {self.node}: {what}, attempt {attempt}, after {time.monotonic() - begun:.2f} s: {failure!r:.300}"
            (self.load.retries if attempt == 1 else self.load.failures).append(note)
        return False

    def recover(self):
        """After an answer that was not good."""

    def new_identity(self):
        return f"{self.name}-{next(self.serial)}"


class SmtpClient(Client):
    def connect(self, node):
        connection = clients.smtp(node, timeout=PATIENCE)
        connection.ehlo()
        return connection

    def hang_up(self):
        self.connection.close()

    def recover(self):
        with contextlib.suppress(*BROKEN, *ANSWERED):
            self.connection.rset()
            return
        self.disconnect()

    def step(self):
        wanting = {user.address for user in self.random.sample(self.load.users, self.random.choice((1, 1, 1, 2, 3)))}

        def transaction():
            connection, identity = self.connected(), self.new_identity()
            for address in wanting:
                self.ledger.attempt(address, identity)
            begun = time.monotonic()
            for address in clients.send(connection, "load@example.net", sorted(wanting), make(identity)):
                self.ledger.acknowledge(address, identity)
                wanting.discard(address)
            now = time.monotonic()
            self.load.deliveries.append((now, self.node.name, now - begun))
            if wanting:
                raise clients.Refused(450, f"not taken for {sorted(wanting)}")
        self.persist("delivery", transaction)


class LmtpClient(SmtpClient):
    def connect(self, node):
        return clients.lmtp(node, timeout=PATIENCE)


class ImapClient(Client):
    """APPENDs to a user of its own, changes flags and expunges there; others deliver to that user all the time."""

    FLAGS = ("\\Seen", "\\Flagged", "\\Answered", "$Later")

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.user = self.load.users[self.number]
        self.mine = []  # (UID, id) in INBOX

    def connect(self, node):
        connection = clients.imap(node, self.user, timeout=PATIENCE)
        clients.ok(connection.select("INBOX"))
        return connection

    def hang_up(self):
        self.connection.shutdown()

    def recover(self):
        self.disconnect()

    def step(self):
        chance = self.random.random()
        if chance < 0.4 or not self.mine:
            self.append()
        elif chance < 0.93:
            self.change_flag()
        else:
            self.expunge()

    def append(self):
        flags = frozenset(self.random.sample(self.FLAGS, self.random.choice((0, 1, 2))))
        folder = self.random.choice(("INBOX", "INBOX", "Work"))

        def command():
            connection, identity = self.connected(), self.new_identity()
            self.ledger.attempt(self.user.address, identity)
            validity, uid = clients.append(connection, folder, make(identity), " ".join(flags))
            self.ledger.acknowledge(self.user.address, identity, flags)
            self.ledger.saw(self.user.address, folder, validity, uid, identity)
            if folder == "INBOX":
                self.mine.append((uid, identity))
        self.persist(f"APPEND to {folder}", command)

    def change_flag(self):
        uid, identity = self.random.choice(self.mine[-50:])
        flag = self.random.choice(self.FLAGS)
        before = self.ledger.acknowledged[self.user.address, identity]
        sign, after = ("-", before - {flag}) if flag in before else ("+", before | {flag})

        def command():
            clients.ok(self.connected().uid("STORE", str(uid), f"{sign}FLAGS", f"({flag})"))
            self.ledger.acknowledge(self.user.address, identity, after)
        self.persist(f"STORE {uid} {sign}{flag}", command)

    def expunge(self):
        uid, identity = self.mine.pop(self.random.randrange(len(self.mine)))

        def command():
            connection = self.connected()
            clients.ok(connection.uid("STORE", str(uid), "+FLAGS", "(\\Deleted)"))
            clients.ok(connection.uid("EXPUNGE", str(uid)))
            self.ledger.expunge(self.user.address, identity)
        if not self.persist(f"EXPUNGE {uid}", command):
            self.ledger.expunge(self.user.address, identity)  # a failure already; do not report it again as a difference
