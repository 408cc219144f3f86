"""Load through the Service, as ordinary clients make it, and a recorder that knows what they were promised.

A client whose command fails tries again with a new message on a new connection, as long as it takes; the attempt that
failed may be there once or not at all. How long nothing was acknowledged is what the clients noticed of a fault.
"""

import contextlib
import imaplib
import itertools
import random
import smtplib
import threading
import time

import clients
import namespaces
from ledger import Ledger, make
from wait import eventually

#: Seconds between two commands of a client. Lanes share the computer: all together they load it as one would.
PAUSE = 0.1 * namespaces.LANES
TIMEOUT = 8
FAILURES = (OSError, EOFError, smtplib.SMTPException, imaplib.IMAP4.error, clients.Refused, AssertionError)
#: How long a node may ask for patience after a change of the membership.
READ_SECONDS = 30
#: Messages that one connection sends; the next goes to any node.
PER_CONNECTION = 10


class Recorder(Ledger):
    """A ledger that is compared with what every pod shows."""

    def check_everywhere(self, mail, users):
        """Reads everything through the Service and at each pod; the number of messages."""
        places = {"the Service": None}
        places |= {name: pod["status"]["podIP"] for name, pod in mail.ready_pods().items()}
        for place, address in places.items():
            count = self.check_at(place, mail, address, users)
        return count

    def check_at(self, place, mail, address, users):
        """Reads everything at one place. What a node tells a client to try again later is tried again, within reason."""
        def opened(user):
            client = mail.imap(user, address)
            try:
                clients.ok(client.select("INBOX", readonly=True))
            except BaseException:
                client.shutdown()
                raise
            return client
        connect = lambda user: eventually(f"{user.address} reads at {place}", lambda: opened(user), READ_SECONDS, every=0.5)  # noqa: E731
        return self.compare(place, connect, users, ["INBOX"])


class Traffic:
    """Two SMTP clients, and one that APPENDs by IMAP."""

    def __init__(self, mail, count=4):
        self.mail = mail
        #: Seconds that a client waits between two commands: how much load there is.
        self.pause = PAUSE
        self.recorder = Recorder()
        self.users = [mail.add_user() for _ in range(count)]
        #: When something was acknowledged, by the client's name.
        self.times = {}
        self.failures = []
        self._serial = itertools.count(1)
        self._stop = threading.Event()

    @contextlib.contextmanager
    def running(self):
        """Load while the block runs; afterwards every started command has ended."""
        self._stop.clear()
        jobs = {"smtp-1": self._send, "smtp-2": self._send, "imap": self._append}
        threads = [threading.Thread(target=self._work, args=(name, job), daemon=True) for name, job in jobs.items()]
        for thread in threads:
            thread.start()
        try:
            self.flows()
            yield
            self.flows()
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive(), "a client hangs"

    def flows(self, seconds=90):
        """Waits until every client has something acknowledged from now on."""
        now = time.monotonic()

        def acknowledged():
            late = [name for name in ("smtp-1", "smtp-2", "imap") if not any(at > now for at in self.times.get(name, [])[-3:])]
            assert not late, f"nothing for {late}: {self.failures[-3:]}"
            return True
        eventually("mail flows", acknowledged, seconds, every=0.1)

    def _work(self, name, job):
        choice = random.Random(name)
        connection, left = None, 0
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection, left = job(None, choice), PER_CONNECTION
                job(connection, choice)
                self.times.setdefault(name, []).append(time.monotonic())
                left -= 1
                if left == 0:
                    connection = self._hang_up(connection)
            except FAILURES as error:
                self.failures.append(f"{time.monotonic() - self.recorder.begun:.2f} {name}: {error!r:.200}")
                connection = self._hang_up(connection)
                time.sleep(PAUSE)
            self._stop.wait(self.pause)
        self._hang_up(connection)

    @staticmethod
    def _hang_up(connection):
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close() if isinstance(connection, smtplib.SMTP) else connection.shutdown()

    def _send(self, connection, choice):
        if connection is None:
            connection = self.mail.smtp(timeout=TIMEOUT)
            connection.ehlo()
            return connection
        identity = f"s{next(self._serial)}"
        wanted = sorted({user.address for user in choice.sample(self.users, choice.choice((1, 1, 2)))})
        for address in wanted:
            self.recorder.attempt(address, identity)
        for address in clients.send(connection, "load@example.net", wanted, make(identity)):
            self.recorder.acknowledge(address, identity)

    def _append(self, connection, choice):
        if connection is None:
            connection = self.mail.imap(self.users[0], timeout=TIMEOUT)
            clients.ok(connection.select("INBOX"))
            return connection
        identity = f"a{next(self._serial)}"
        address = self.users[0].address
        self.recorder.attempt(address, identity)
        validity, uid = clients.append(connection, "INBOX", make(identity))
        self.recorder.acknowledge(address, identity)
        self.recorder.saw(address, "INBOX", validity, uid, identity)

    def longest_gap(self, begin):
        """The longest time since then in which one client had nothing acknowledged."""
        end = time.monotonic()
        gaps = {}
        for name, times in self.times.items():
            marks = [begin, *[at for at in list(times) if begin <= at <= end], end]
            gaps[name] = max(later - earlier for earlier, later in itertools.pairwise(marks))
        return max(gaps.values())

    def check(self):
        """Everything acknowledged is there exactly once, everywhere; a line for the figures."""
        self.wait_quiet()
        count = self.recorder.check_everywhere(self.mail, self.users)
        promised = len(self.recorder.acknowledged)
        return f"{promised} acknowledged, {count} there, 0 lost, 0 duplicated, {len(self.failures)} commands failed and tried again"

    def wait_quiet(self):
        eventually("all updates have reached all replicas", self._quiet, 120, every=0.5)

    def _quiet(self):
        status = self.mail.status()
        pending = (status["pendingUpdates"], status["underReplicatedEntries"])
        assert pending == (0, 0), f"pending updates, under-replicated entries: {pending}"
        return True
