"""What a cluster has promised its clients, and whether it keeps it.

Every attempt to hand over a message has an id of its own, from which headers, body and size follow, so that loss, duplication
and corruption are told apart: an acknowledged id must be there exactly once and unchanged; an attempt whose outcome the
client does not know (the node died in it) may be there once or not at all; nothing else may be there.
"""

import hashlib
import re
import threading
import time

import clients

FOLDERS = ("INBOX", "Work")


def make(identity):
    """The message of that id: 300 bytes to 12 KB, most of them small."""
    digest = hashlib.sha256(identity.encode()).hexdigest()
    lines = 3 + int(digest[:2], 16) % 20 + (160 if digest[2] == "0" else 0)
    body = "".join(f"{identity} {hashlib.sha256(f'{identity} {line}'.encode()).hexdigest()}\r\n" for line in range(lines))
    return (
        f"From: load@example.net\r\nTo: all@example.org\r\nMessage-ID: <{identity}@example.net>\r\n"
        f"Subject: {digest[:20]}\r\nX-Prickle-Id: {identity}\r\n\r\n{body}end of {identity}\r\n"
    ).encode()


class Ledger:
    def __init__(self):
        self._lock = threading.Lock()
        #: (address, id) -> flags, of messages that were acknowledged.
        self.acknowledged = {}
        #: (address, id) of attempts with an unknown outcome.
        self.uncertain = set()
        #: (address, id) of messages whose expunge was acknowledged.
        self.expunged = set()
        #: (address, folder) -> UIDVALIDITY; and (address, folder, UID) -> id, all that were ever seen.
        self.validity = {}
        self.uids = {}
        self.problems = []
        #: What happened when, in seconds since the start: phases of a test, and when each id was acknowledged or numbered.
        self.begun = time.monotonic()
        self.phases = []
        self.history = {}

    def phase(self, name):
        self.phases.append(f"{time.monotonic() - self.begun:.2f} {name}")

    def _note(self, address, identity, what):
        notes = self.history.setdefault((address, identity), [])
        if len(notes) < 12:
            notes.append(f"{time.monotonic() - self.begun:.2f} {what}")

    def attempt(self, address, identity):
        with self._lock:
            self.uncertain.add((address, identity))

    def acknowledge(self, address, identity, flags=frozenset()):
        with self._lock:
            self.uncertain.discard((address, identity))
            self.acknowledged[address, identity] = flags
            self._note(address, identity, f"acknowledged {sorted(flags)}")

    def expunge(self, address, identity):
        with self._lock:
            self.acknowledged.pop((address, identity), None)
            self.expunged.add((address, identity))

    def saw(self, address, folder, validity, uid, identity):
        """A client was shown a message under this UID."""
        with self._lock:
            if self.validity.setdefault((address, folder), validity) != validity:
                self.problems.append(f"UIDVALIDITY of {folder} of {address} changed to {validity}")
            if (address, folder, uid) not in self.uids:
                self._note(address, identity, f"seen as UID {uid} in {folder}")
            before = self.uids.setdefault((address, folder, uid), identity)
            if before != identity:
                self.problems.append(f"UID {uid} in {folder} of {address} was {before} and is {identity}")

    def check(self, node, users):
        """Reads everything through a node; the number of messages read."""
        return self.compare(node, lambda user: clients.imap(node, user), users)

    def compare(self, place, connect, users, folders=FOLDERS):
        """Reads these folders of everybody over connections made by `connect`; the number of messages read."""
        problems, count = [], 0
        for user in users:
            found = {}
            imap = connect(user)
            for folder in folders:
                clients.ok(imap.select(folder, readonly=True))
                validity = clients.uid_validity(imap)
                for uid, (flags, body) in clients.fetch(imap).items():
                    identity = self._identify(body)
                    if identity is None:
                        problems.append(f"UID {uid} in {folder} of {user.address} is damaged: {body[:300]!r}")
                        continue
                    found.setdefault(identity, []).append((folder, uid, flags))
                    self.saw(user.address, folder, validity, uid, identity)
                    count += 1
            imap.logout()
            problems += self._differences(user.address, found)
        problems += self.problems
        assert not problems, f"through {place}: {len(problems)} problems: {problems[:12]}; phases: {self.phases}"
        return count

    @staticmethod
    def _identify(body):
        named = re.search(rb"\r\nX-Prickle-Id: (\S+)\r\n", body)
        if named is None:
            return None
        identity = named[1].decode()
        return identity if body.endswith(make(identity)) else None

    def _differences(self, address, found):
        known = {folder_uid: identity for folder_uid, identity in self.uids.items() if folder_uid[0] == address}
        for (owner, identity), flags in self.acknowledged.items():
            if owner != address:
                continue
            places = found.get(identity, [])
            if len(places) != 1:
                yield f"{identity} of {address} is there {len(places)} times: {places}; {self.history[owner, identity]}"
            elif places[0][2] != flags:
                yield f"{identity} of {address} has flags {set(places[0][2])}, not {set(flags)}; {self.history[owner, identity]}"
        for identity, places in found.items():
            if (address, identity) in self.expunged:
                yield f"{identity} of {address} was expunged and is back: {places}"
            elif (address, identity) in self.uncertain:
                if len(places) > 1:
                    yield f"{identity} of {address}, never acknowledged, is there {len(places)} times"
            elif (address, identity) not in self.acknowledged:
                yield f"{identity} of {address} was never sent to that user"
        for (_, folder, uid), identity in known.items():
            places = found.get(identity)
            if places and (folder, uid) not in [place[:2] for place in places]:
                yield f"{identity} of {address} was UID {uid} in {folder} and is now {places}; {self.history[address, identity]}"
