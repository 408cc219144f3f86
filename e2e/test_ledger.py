"""The judge itself: each way to break a promise is noticed."""

import pytest

from ledger import Ledger, make

A = "a@example.org"
NONE = frozenset()


def differences(ledger, found):
    return list(ledger._differences(A, found))


@pytest.fixture
def ledger():
    made = Ledger()
    made.acknowledge(A, "kept", frozenset({"\\Seen"}))
    made.attempt(A, "unknown")
    made.acknowledge(A, "gone")
    made.expunge(A, "gone")
    made.saw(A, "INBOX", 1, 7, "kept")
    return made


KEPT = {"kept": [("INBOX", 7, frozenset({"\\Seen"}))]}


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"kept": [("INBOX", 7, NONE)]},
        {"kept": KEPT["kept"] + [("Work", 8, frozenset({"\\Seen"}))]},
        {"kept": [("INBOX", 9, frozenset({"\\Seen"}))]},
        KEPT | {"gone": [("INBOX", 3, NONE)]},
        KEPT | {"unknown": [("INBOX", 3, NONE), ("INBOX", 4, NONE)]},
        KEPT | {"not sent": [("INBOX", 3, NONE)]},
    ],
    ids=["lost", "flag lost", "duplicated", "other UID", "resurrected", "unknown twice", "stranger"],
)
def test_a_broken_promise_is_noticed(ledger, found):
    assert len(differences(ledger, found)) == 1


def test_kept_promises_are_fine_whether_or_not_the_unknown_attempt_succeeded(ledger):
    assert differences(ledger, KEPT) == []
    assert differences(ledger, KEPT | {"unknown": [("INBOX", 8, NONE)]}) == []


def test_a_reused_uid_and_a_new_uidvalidity_are_noticed(ledger):
    ledger.saw(A, "INBOX", 1, 7, "another")
    ledger.saw(A, "INBOX", 2, 8, "third")
    assert len(ledger.problems) == 2


def test_damage_is_told_from_a_good_body():
    body = make("s0-1")
    assert Ledger._identify(b"Return-Path: <>\r\nReceived: x\r\n" + body) == "s0-1"
    assert Ledger._identify(body.replace(b"end of", b"end_of")) is None
    assert Ledger._identify(body[:-1]) is None
    assert Ledger._identify(make("s0-1").replace(b"X-Prickle-Id: s0-1", b"X-Prickle-Id: s0-2")) is None
