"""What clients were promised and what they were shown; every broken promise is noted with the history of its message.

A message is known by (address, id, role). Its id follows from who sent it (ledger.make: the whole text follows from the id). Role
`original` is delivered or appended, once; it lives in INBOX or Work. Role `copy` is what COPY made of it, in Copies, once.
Whoever changes a message says so before it tries (`try_...`), and again when the cluster has answered that it is done; in
between, and for ever after if there was no answer, either outcome is right: a command may lie in the socket of a frozen node
and be done much later. Such a message is left alone from then on (`busy`).
"""

import threading
import time
from dataclasses import dataclass, field

INBOX, WORK, COPIES = FOLDERS = ("INBOX", "Work", "Copies")
FLAGS = ("\\Seen", "\\Flagged", "\\Answered", "$Later")
_HISTORY = 24


@dataclass
class Mail:
    folders: set
    #: True, False or None: either.
    flags: dict
    acknowledged: bool = False
    #: No, maybe, yes; and by what, if yes.
    removed: str = "no"
    removed_by: str = ""
    busy: bool = False
    history: list = field(default_factory=list)


@dataclass
class Folder:
    """Of a user, as far as anybody was shown it."""

    validity: int | None = None
    #: UID -> id.
    uids: dict = field(default_factory=dict)
    #: The highest UID that was in a listing, and so the line below which no message may appear. A UID that only APPEND or COPY
    #: told is not: those before it may not have been listed by anybody yet.
    highest: int = 0
    modseq: int = 0


class Promises:
    def __init__(self, begun):
        self.begun = begun
        self.lock = threading.RLock()
        self.mails = {}
        self.folders = {}
        #: (kind, text); a message breaks a promise of a kind once, however often that is seen.
        self.violations = []
        self._told = set()
        #: Messages that were shown with another, higher UID later: allowed after a partition, and rare.
        self.renumbered = 0

    def now(self):
        return f"{time.monotonic() - self.begun:.2f}"

    def violation(self, kind, text, key=None):
        with self.lock:
            mail = self.mails.get(key)
            if mail and (kind, key) in self._told:
                return
            self._told.add((kind, key))
            history = f"; history: {mail.history}" if mail else ""
            self.violations.append((kind, f"{self.now()} {kind}: {text}{history}"))

    def _note(self, mail, what):
        if len(mail.history) == _HISTORY:
            mail.history.pop(_HISTORY // 2)
        mail.history.append(f"{self.now()} {what}")

    def tell(self, key, what):
        with self.lock:
            if key in self.mails:
                self._note(self.mails[key], what)

    # Deliveries, APPEND and COPY: a new message.

    def try_new(self, key, folder, flags, how):
        with self.lock:
            mail = Mail({folder}, {flag: flag in flags for flag in FLAGS})
            self.mails[key] = mail
            self._note(mail, f"tried: {how}")

    def made(self, key, how):
        with self.lock:
            mail = self.mails[key]
            mail.acknowledged = True
            self._note(mail, f"acknowledged: {how}")

    # Changes of a message that is there.

    def take(self, key, how, removed=False, folder=None, flags=()):
        """Before a change is tried: from now on both outcomes are right. False if the message is not to be touched."""
        with self.lock:
            mail = self.mails.get(key)
            if mail is None or mail.busy or mail.removed != "no":
                return False
            mail.busy = True
            if removed:
                mail.removed = "maybe"
            if folder:
                mail.folders.add(folder)
            for flag in flags:
                mail.flags[flag] = None
            self._note(mail, f"tried: {how}")
            return True

    def settle(self, key, how, removed=False, folder=None, flags=None):
        """The cluster said that it is done."""
        with self.lock:
            mail = self.mails[key]
            mail.busy = False
            if removed:
                mail.removed, mail.removed_by = "yes", how
            if folder:
                mail.folders = {folder}
            mail.flags.update(flags or {})
            self._note(mail, f"done: {how}")

    def free(self, address, folder, listing):
        """UIDs of that listing whose message may be changed now."""
        with self.lock:
            found = []
            for uid, identity in listing.items():
                mail = self.mails.get((address, identity, role_in(folder)))
                if mail is not None and not mail.busy and mail.removed == "no" and mail.folders == {folder}:
                    found.append(uid)
            return found

    # What clients are shown.

    def folder(self, address, folder):
        return self.folders.setdefault((address, folder), Folder())

    def selected(self, address, folder, validity, modseq, where):
        with self.lock:
            known = self.folder(address, folder)
            if known.validity is None:
                known.validity = validity
            if known.validity != validity:
                self.violation("validity", f"UIDVALIDITY of {folder} of {address} was {known.validity}, is {validity} {where}")
            known.modseq = max(known.modseq, modseq)

    def unknown(self, address, folder, uids):
        """Those of which nobody was told what they name."""
        with self.lock:
            known = self.folder(address, folder)
            return [uid for uid in uids if uid not in known.uids]

    def names(self, address, folder):
        with self.lock:
            return dict(self.folder(address, folder).uids)

    def listed(self, address, folder, uids):
        with self.lock:
            known = self.folder(address, folder)
            known.highest = max([known.highest, *uids])

    def shown(self, address, folder, uid, identity, where):
        """A client was shown that message under that UID."""
        with self.lock:
            known = self.folder(address, folder)
            key = (address, identity, role_in(folder))
            before = known.uids.get(uid)
            if before is None:
                known.uids[uid] = identity
                if key in self.mails:
                    self._note(self.mails[key], f"shown as UID {uid} in {folder} {where}")
            elif before != identity:
                text = f"UID {uid} in {folder} of {address} was {before} and is {identity} {where}"
                self.violation("reused", text, key)
                known.uids[uid] = identity


def role_in(folder):
    return "copy" if folder == COPIES else "original"
