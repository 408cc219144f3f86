"""The judge of the chaos test: each way to break a promise is noticed, and what is allowed is not; the plan keeps to its limits."""

import itertools
import random

import pytest

from chaos import judge, plan
from chaos.promises import COPIES, FLAGS, INBOX, WORK, Promises

A = "a@example.org"
KEPT = (A, "kept", "original")
NONE = frozenset()
SEEN = frozenset({"\\Seen"})


@pytest.fixture
def promises():
    """`kept` is in INBOX as UID 7 with \\Seen; UID 9 was shown and is expunged; nobody knows about `unknown`."""
    made = Promises(0)
    made.try_new(KEPT, INBOX, SEEN, "")
    made.made(KEPT, "")
    made.try_new((A, "gone", "original"), INBOX, (), "")
    made.made((A, "gone", "original"), "")
    made.take((A, "gone", "original"), "", removed=True, flags=FLAGS)
    made.settle((A, "gone", "original"), "", removed=True)
    made.try_new((A, "unknown", "original"), INBOX, (), "")
    made.selected(A, INBOX, 1, 50, "")
    made.shown(A, INBOX, 7, "kept", "")
    made.shown(A, INBOX, 9, "gone", "")
    made.listed(A, INBOX, [7, 9])
    return made


def kinds(promises, inbox, work=(), validity=1, modseq=50):
    seen = {(A, INBOX): (validity, modseq, dict(inbox)), (A, WORK): (2, 1, dict(work)), (A, COPIES): (3, 1, {})}
    judge.judge(promises, seen, "here")
    return [kind for kind, _ in promises.violations]


@pytest.mark.parametrize(
    ("kind", "inbox", "others"),
    [
        ("lost", {}, {}),
        ("flag", {7: ("kept", NONE)}, {}),
        ("flag", {7: ("kept", frozenset({"\\Seen", "$Later"}))}, {}),
        ("duplicated", {7: ("kept", SEEN), 11: ("kept", SEEN)}, {}),
        ("folder", {}, {"work": {3: ("kept", SEEN)}}),
        ("resurrected", {7: ("kept", SEEN), 12: ("gone", NONE)}, {}),
        ("stranger", {7: ("kept", SEEN), 12: ("never sent", NONE)}, {}),
        ("below", {7: ("kept", SEEN), 8: ("unknown", NONE)}, {}),
        ("lower UID", {6: ("kept", SEEN)}, {}),
        ("reused", {7: ("kept", SEEN), 9: ("unknown", NONE)}, {}),
        ("damaged", {7: ("kept", SEEN), 12: (None, NONE)}, {}),
        ("validity", {7: ("kept", SEEN)}, {"validity": 4}),
        ("modseq", {7: ("kept", SEEN)}, {"modseq": 49}),
    ],
)
def test_a_broken_promise_is_noticed(promises, kind, inbox, others):
    assert kind in kinds(promises, inbox, **others)


def test_kept_promises_are_fine_whether_or_not_the_unknown_attempt_succeeded(promises):
    assert kinds(promises, {7: ("kept", SEEN)}) == []
    assert kinds(promises, {7: ("kept", SEEN), 10: ("unknown", NONE)}) == []


def test_a_change_without_an_answer_may_have_happened_or_not(promises):
    assert promises.take(KEPT, "MOVE", folder=WORK)
    assert not promises.take(KEPT, "STORE"), "it is left alone from then on"
    assert kinds(promises, {7: ("kept", SEEN)}) == []
    assert kinds(promises, {}, work={3: ("kept", SEEN)}) == []


def test_a_message_that_is_announced_again_under_a_higher_uid_is_counted(promises):
    assert kinds(promises, {15: ("kept", SEEN)}) == []
    assert promises.renumbered == 1


def test_nodes_that_show_different_things_are_told_apart():
    one = {(A, INBOX): (1, 5, {1: ("kept", NONE)})}
    assert list(judge.differences(one, {(A, INBOX): (1, 9, {1: ("kept", NONE)})})) == []
    assert len(list(judge.differences(one, {(A, INBOX): (1, 5, {1: ("kept", SEEN)})}))) == 1
    assert len(list(judge.differences(one, {(A, INBOX): (2, 5, {})}))) == 2


def test_a_plan_asks_for_no_more_than_a_cluster_survives_and_a_seed_names_it():
    seen = set()
    for seed in range(300):
        faults = plan.make_round(random.Random(seed), 5)
        assert faults == plan.make_round(random.Random(seed), 5)
        assert all(fault.end <= plan.ROUND_SECONDS for fault in faults)
        seen |= {fault.kind for fault in faults}
        processes = [fault for fault in faults if fault.kind in plan.PROCESS]
        assert sum(fault.kind in plan._LOSSES for fault in faults) <= 1
        for at in (step / 10 for step in range(int(plan.ROUND_SECONDS * 10))):
            away = [fault.node for fault in processes if fault.begin <= at < fault.end]
            assert len(away) <= 2 and len(set(away)) == len(away)
        cuts = [fault for fault in faults if fault.pairs]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(cuts, 2))
    assert seen == {*plan._KINDS, *plan._LOSSES}
