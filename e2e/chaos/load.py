"""The clients: ordinary ones, each a thread with a connection to some node, and another node after each failure.

Failures are expected; they are counted, not judged. What was acknowledged is judged.
"""

import imaplib
import itertools
import poplib
import random
import re
import smtplib
import threading
import time

import clients
from chaos.promises import COPIES, FLAGS, INBOX, WORK, role_in
from ledger import Ledger, make

PATIENCE = 6
PAUSE = 0.06
imaplib.Commands.setdefault("MOVE", ("SELECTED",))
BROKEN = (OSError, EOFError, smtplib.SMTPException, imaplib.IMAP4.error, poplib.error_proto, clients.Refused, AssertionError)
_IDENTITY = "BODY.PEEK[HEADER.FIELDS (X-PRICKLE-ID)]"


class Load:
    def __init__(self, cluster, users, promises, seed, pause=PAUSE):
        self.nodes, self.users, self.promises, self.pause = cluster.nodes, users, promises, pause
        self.done, self.failed, self.bugs = {}, {}, []
        self._run, self._end = threading.Event(), threading.Event()
        self._idle = {}
        owners = iter(users)
        kinds = [Smtp] * 2 + [Lmtp] * 2 + [Changer] * 5 + [Pop] * 2 + [Watcher] * 3
        self.clients = []
        for number, kind in enumerate(kinds):
            user = next(owners) if kind.owns_user else None
            name = f"{kind.__name__[0].lower()}{number}"
            self.clients.append(kind(self, name, user, random.Random(f"{seed} client {number}")))
        self._threads = [threading.Thread(target=client.run, daemon=True) for client in self.clients]

    def begin(self):
        for thread in self._threads:
            thread.start()

    def go(self):
        self._run.set()

    def pause_all(self, seconds=60):
        """Returns when every command that was begun has ended."""
        self._run.clear()
        end = time.monotonic() + seconds
        for client in self.clients:
            assert client.idle.wait(max(0, end - time.monotonic())), f"{client.name} hangs"

    def end(self):
        self._end.set()
        self._run.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for_go(self, client):
        if not self._run.is_set():
            client.idle.set()
            self._run.wait()
            client.idle.clear()
        return not self._end.is_set()

    def count(self, counts, what):
        counts[what] = counts.get(what, 0) + 1


class Client:
    owns_user = False

    def __init__(self, load, name, user, random):
        self.load, self.name, self.user, self.random = load, name, user, random
        self.promises = load.promises
        self.node = self.connection = None
        self.serial = itertools.count(1)
        self.idle = threading.Event()
        self.what = "connect"

    def run(self):
        while self.load.wait_for_go(self):
            self.what = "connect"
            try:
                if self.connection is None:
                    self.node = self.random.choice(self.load.nodes)
                    self.connection = self.connect(self.node)
                self.step()
                self.load.count(self.load.done, self.what)
            except BROKEN as error:
                self.load.count(self.load.failed, self.what)
                self.failed(error)
            except Exception as error:  # noqa: BLE001 - a bug here must fail the test, not end a thread silently
                self.load.bugs.append(f"{self.name}, {self.what}: {error!r}")
                self.disconnect()
            if self.connection is not None and self.random.random() < 0.02:
                self.disconnect()
            time.sleep(self.load.pause * self.random.uniform(0.5, 1.5))
        self.disconnect()
        self.idle.set()

    def failed(self, _error):
        self.disconnect()

    def disconnect(self):
        connection, self.connection = self.connection, None
        if connection is not None:
            try:
                self.hang_up(connection)
            except Exception:  # noqa: BLE001, S110 - it is broken already
                pass

    def hang_up(self, connection):
        connection.close()

    def new_identity(self):
        return f"{self.name}-{next(self.serial)}"

    def where(self):
        return f"by {self.name} at {self.node}"


class Smtp(Client):
    """Deliveries to one to three users."""

    open = staticmethod(clients.smtp)

    def connect(self, node):
        connection = self.open(node, timeout=PATIENCE)
        connection.ehlo()
        return connection

    def step(self):
        self.what = f"delivery by {type(self).__name__}"
        addresses = [user.address for user in self.random.sample(self.load.users, self.random.choice((1, 1, 1, 2, 3)))]
        identity = self.new_identity()
        for address in addresses:
            self.promises.try_new((address, identity, "original"), INBOX, (), f"{self.what} {self.where()}")
        for address in clients.send(self.connection, "load@example.net", addresses, make(identity)):
            self.promises.made((address, identity, "original"), f"250 {self.where()}")


class Lmtp(Smtp):
    open = staticmethod(clients.lmtp)


class Listing:
    """What a session was shown of the folder that it has open."""

    def __init__(self, client, folder):
        imap, promises = client.connection, client.promises
        clients.ok(imap.select(folder))
        self.client, self.folder, self.messages = client, folder, {}
        self.highest = 0
        modseq = imap.response("HIGHESTMODSEQ")[1]
        where = client.where()
        promises.selected(client.address, folder, clients.uid_validity(imap), int(modseq[-1]) if modseq[-1] else 0, where)
        self.look(everything=True)

    def look(self, everything=False):
        """Lists all UIDs, and asks what the new ones name."""
        client, promises = self.client, self.client.promises
        text = clients.ok(client.connection.uid("SEARCH", "ALL"))[0] or b""
        uids = {int(uid) for uid in text.split()}
        new = uids - self.messages.keys()
        if not everything:
            for uid in sorted(uid for uid in new if uid < self.highest):
                promises.violation("below", f"UID {uid} appears in {self.folder} of {client.address} {client.where()}, where {self.highest} was shown")
        names = promises.names(client.address, self.folder)
        asked = {uid for uid in new if uid not in names or client.random.random() < 0.02}
        found = identities(client.connection, asked)
        for uid, identity in found.items():
            promises.shown(client.address, self.folder, uid, identity, client.where())
        names.update(found)
        # One that went away in between is not known; nobody has been told what it was.
        self.messages = {uid: names[uid] for uid in uids if uid in names}
        promises.listed(client.address, self.folder, uids)
        self.highest = max([self.highest, *uids])


def identities(imap, uids):
    """{UID: id} of those that are there."""
    uids, found = sorted(uids), {}
    for at in range(0, len(uids), 200):
        chosen = ",".join(map(str, uids[at : at + 200]))
        for uid, (_, text) in clients.fetch(imap, chosen, f"UID {_IDENTITY}").items():
            named = re.search(rb"(?i)X-Prickle-Id: (\S+)", text or b"")
            if named:
                found[uid] = named[1].decode()
    return found


class Watcher(Client):
    """Lists folders of any user, and reads a message now and then, which must be whole."""

    def connect(self, node):
        self.user = self.random.choice(self.load.users)
        self.address = self.user.address
        self.listing = None
        return clients.imap(node, self.user, timeout=PATIENCE)

    def hang_up(self, connection):
        connection.shutdown()

    def step(self):
        self.what = "IMAP look"
        if self.listing is None or self.random.random() < 0.1:
            self.listing = Listing(self, self.random.choice((INBOX, INBOX, WORK, COPIES)))
        else:
            self.listing.look()
        if self.listing.messages and self.random.random() < 0.5:
            self.what = "IMAP read"
            uid = self.random.choice(list(self.listing.messages))
            for _, body in clients.fetch(self.connection, str(uid)).values():
                if body is not None and Ledger._identify(body) != self.listing.messages[uid]:
                    text = f"UID {uid} in {self.listing.folder} of {self.address} {self.where()}: {body[:300]!r}"
                    self.promises.violation("damaged", text, (self.address, self.listing.messages[uid], role_in(self.listing.folder)))


class Changer(Watcher):
    """The only one that changes the messages of its user: APPEND, STORE, COPY, MOVE, EXPUNGE."""

    owns_user = True

    def connect(self, node):
        self.address = self.user.address
        self.listing = None
        return clients.imap(node, self.user, timeout=PATIENCE)

    def step(self):
        if self.listing is None or self.random.random() < 0.05:
            self.what = "IMAP select"
            self.listing = Listing(self, self.random.choice((INBOX, INBOX, WORK)))
            return
        actions = {self.append: 4, self.store: 5, self.expunge: 2, self.copy: 1, self.move: 1, self.look: 3}
        self.random.choices([*actions], [*actions.values()])[0]()

    def look(self):
        self.what = "IMAP look"
        self.listing.look()

    def key(self, uid):
        return self.address, self.listing.messages[uid], role_in(self.listing.folder)

    def choose(self, how, **change):
        """A message that may be changed, taken for that change; None if there is none."""
        free = self.promises.free(self.address, self.listing.folder, self.listing.messages)
        if not free:
            return None
        uid = self.random.choice(free[-60:])
        taken = self.promises.take(self.key(uid), f"{how} UID {uid} in {self.listing.folder} {self.where()}", **change)
        return uid if taken else None

    def append(self):
        self.what = "APPEND"
        folder = self.random.choice((INBOX, INBOX, WORK))
        flags = frozenset(self.random.sample(FLAGS, self.random.choice((0, 1, 2))))
        identity = self.new_identity()
        key = (self.address, identity, "original")
        self.promises.try_new(key, folder, flags, f"APPEND {sorted(flags)} to {folder} {self.where()}")
        _, uid = clients.append(self.connection, folder, make(identity), " ".join(flags))
        self.promises.made(key, f"APPEND UID {uid}")
        self.promises.shown(self.address, folder, uid, identity, self.where())

    def store(self):
        self.what = "STORE"
        flag, sign = self.random.choice(FLAGS), self.random.choice("++-")
        uid = self.choose(f"STORE {sign}{flag}", flags=[flag])
        if uid is None:
            return
        data = clients.ok(self.connection.uid("STORE", str(uid), f"{sign}FLAGS", f"({flag})"))
        # The server tells the new flags of what it changed; of a UID that is gone it tells nothing.
        told = [text for text in _texts(data) if re.search(rb"\bUID %d\b" % uid, text)]
        if told:
            self.promises.settle(self.key(uid), f"STORE {sign}{flag}: {told[-1]!r}", flags={flag: sign == "+"})

    def expunge(self):
        self.what = "EXPUNGE"
        uid = self.choose("EXPUNGE", removed=True, flags=FLAGS)
        if uid is None:
            return
        stored = clients.ok(self.connection.uid("STORE", str(uid), "+FLAGS", "(\\Deleted)"))
        if not any(re.search(rb"\bUID %d\b" % uid, text) for text in _texts(stored)):
            return
        clients.ok(self.connection.uid("EXPUNGE", str(uid)))
        key, identity = self.key(uid), self.listing.messages[uid]
        self.listing.look()
        if uid not in self.listing.messages and identity not in self.listing.messages.values():
            self.promises.settle(key, "EXPUNGE", removed=True)

    def copy(self):
        self.what = "COPY"
        free = self.promises.free(self.address, self.listing.folder, self.listing.messages)
        free = [uid for uid in free if (self.address, self.listing.messages[uid], "copy") not in self.promises.mails]
        if not free:
            return
        uid = self.random.choice(free[-60:])
        identity = self.listing.messages[uid]
        original = self.promises.mails[self.key(uid)]
        flags = [flag for flag, value in original.flags.items() if value]
        key = (self.address, identity, "copy")
        self.promises.try_new(key, COPIES, flags, f"COPY of UID {uid} with {flags} {self.where()}; the original: {original.history[-4:]}")
        copied = self.copied(self.connection.uid("COPY", str(uid), COPIES))
        if copied:
            self.promises.made(key, f"COPY UID {copied}")
            self.promises.shown(self.address, COPIES, copied, identity, self.where())

    def move(self):
        self.what = "MOVE"
        target = WORK if self.listing.folder == INBOX else INBOX
        uid = self.choose(f"MOVE to {target}", folder=target)
        if uid is None:
            return
        key, identity = self.key(uid), self.listing.messages[uid]
        moved = self.copied(self.connection.uid("MOVE", str(uid), target))
        if moved:
            self.promises.settle(key, f"MOVE: UID {moved}", folder=target)
            self.promises.shown(self.address, target, moved, identity, self.where())
            self.listing.messages.pop(uid, None)

    def copied(self, answer):
        """The new UID of the one message; None if the server says nothing of it, because it was not there."""
        data = clients.ok(answer)
        told = [text for text in [*(self.connection.response("COPYUID")[1] or []), *data] if text]
        found = [re.search(rb"(?:COPYUID )?\b\d+ [\d:,]+ (\d+)", text) for text in told]
        return next((int(match[1]) for match in found if match), None)


def _texts(data):
    return [part if isinstance(part, bytes) else part[0] for part in data if part]


class Pop(Client):
    """Fetches and deletes a few messages of its user in each session."""

    owns_user = True

    def connect(self, node):
        return clients.pop3(node, self.user, timeout=PATIENCE)

    def step(self):
        self.what = "POP3 session"
        count, _ = self.connection.stat()
        taken = []
        for number in self.random.sample(range(1, count + 1), min(count, 4)):
            text = clients.retrieve(self.connection, number)
            identity = Ledger._identify(text)
            if identity is None:
                self.promises.violation("damaged", f"POP3 message {number} of {self.user.address} {self.where()}: {text[:300]!r}")
                continue
            key = (self.user.address, identity, "original")
            self.promises.tell(key, f"read {self.where()}")
            if self.promises.take(key, f"DELE {self.where()}", removed=True, flags=FLAGS):
                self.connection.dele(number)
                taken.append(key)
        connection, self.connection = self.connection, None
        try:
            connection.quit()
        finally:
            connection.close()
        for key in taken:
            self.promises.settle(key, "QUIT", removed=True)
