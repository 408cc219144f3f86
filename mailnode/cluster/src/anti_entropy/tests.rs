//! The laws: any two sides become equal; nothing live is lost; nothing expunged returns; bytes are bounded.

use super::*;
use crate::entry::tests::{entry, stamp};
use crate::entry::{Entry, Flag, Register};
use crate::ids::{Bucket, EntryId, NodeId, UserId};
use std::collections::BTreeMap;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const NOW: u64 = 1_700_000_000_000;
const SETTLED: u64 = NOW - crate::redelivery::GRACE.as_millis() as u64;

struct Random(u64);
impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A node as anti-entropy sees it. Entries that do not name it are remembered, and are no copies.
#[derive(Clone)]
struct Side {
    me: NodeId,
    entries: BTreeMap<(UserId, EntryId), Entry>,
}

impl Side {
    fn new(me: NodeId) -> Self {
        Self { me, entries: BTreeMap::new() }
    }

    fn put(&mut self, incoming: &Entry) -> Entry {
        let known = self.entries.entry((incoming.user, incoming.id)).or_insert_with(|| incoming.clone());
        known.merge(incoming);
        known.clone()
    }

    fn shared(&self, peer: NodeId) -> impl Iterator<Item = &Entry> {
        let names = move |entry: &Entry, node| entry.replicas.value.contains(&node);
        self.entries
            .values()
            .filter(move |entry| entry.is_live() && names(entry, self.me) && names(entry, peer))
    }

    fn tree(&self, peer: NodeId) -> DigestTree {
        let mut tree = DigestTree::default();
        for entry in self.shared(peer) {
            tree.toggle(Bucket::of_user(entry.user), entry.digest());
        }
        tree
    }

    fn page(&self, peer: NodeId, bucket: Bucket, after: Option<(UserId, EntryId)>) -> Page {
        let mut items: Vec<Item> = self.shared(peer).map(Item::from).collect();
        items.retain(|item| Bucket::of_user(item.user) == bucket);
        items.retain(|item| after.is_none_or(|after| (item.user, item.entry) > after));
        let more = items.len() > PAGE_ITEMS;
        items.truncate(PAGE_ITEMS);
        Page { items, more }
    }
}

#[derive(Default)]
struct Cost {
    questions: usize,
    bytes: usize,
    repaired: usize,
    largest: usize,
}

/// What the shell does, on two sides in memory.
fn compare(asking: &mut Side, answering: &mut Side) -> Cost {
    let mut cost = Cost::default();
    let mut comparison = Comparison::new(asking.tree(answering.me), SETTLED);
    while let Some(question) = comparison.question() {
        cost.questions += 1;
        assert!(cost.questions < 10_000, "it does not end");
        let mut bytes = postcard::to_stdvec(&question).unwrap().len();
        match question {
            Question::Digests { level, parents } => {
                let answer = answering.tree(asking.me).answer(level, &parents);
                bytes += postcard::to_stdvec(&answer).unwrap().len();
                comparison.digests(&answer).unwrap();
            }
            Question::Items { bucket, after } => {
                let theirs = answering.page(asking.me, bucket, after);
                bytes += postcard::to_stdvec(&theirs).unwrap().len();
                let mine = asking.page(answering.me, bucket, after);
                for difference in comparison.items(&mine, &theirs).unwrap() {
                    cost.repaired += 1;
                    let key = (difference.user, difference.entry);
                    // Whoever has any version sends it; the answer is the join.
                    match asking.entries.get(&key).cloned() {
                        Some(mine) => {
                            let joined = answering.put(&mine);
                            asking.put(&joined);
                        }
                        None => {
                            let theirs = answering.entries[&key].clone();
                            asking.put(&theirs);
                        }
                    }
                }
            }
        }
        cost.bytes += bytes;
        cost.largest = cost.largest.max(bytes);
    }
    cost
}

fn old_entry(user: u128, id: u128) -> Entry {
    let mut made = entry(id, stamp(1 << 16, 1));
    made.user = UserId(user);
    made
}

fn sides(count: u128) -> (Side, Side) {
    let (mut a, mut b) = (Side::new(A), Side::new(B));
    for id in 0..count {
        let entry = old_entry(id % 97, id);
        a.put(&entry);
        b.put(&entry);
    }
    (a, b)
}

#[test]
fn agreement_about_any_number_of_entries_costs_one_small_message() {
    let (mut a, mut b) = sides(5_000);
    let cost = compare(&mut a, &mut b);
    assert_eq!((cost.questions, cost.repaired), (1, 0));
    assert!(cost.bytes < 32, "{}", cost.bytes);
}

#[test]
fn one_difference_is_repaired_with_one_round_trip_a_level_and_few_bytes() {
    let (mut a, mut b) = sides(5_000);
    let mut changed = old_entry(7, 7);
    changed.set_flag(Flag::Seen, true, stamp(2 << 16, 1));
    b.put(&changed);
    let cost = compare(&mut a, &mut b);
    assert_eq!((cost.questions, cost.repaired), (5, 1));
    assert!(cost.bytes < 8_000, "{}", cost.bytes);
    assert_eq!(a.entries, b.entries);
}

#[test]
fn a_wiped_side_is_brought_level_from_either_end_in_bounded_messages() {
    for wiped in [A, B] {
        let (mut a, mut b) = sides(3_000);
        // One user with more messages than a page.
        for id in 10_000..12_500 {
            a.put(&old_entry(5, id));
            b.put(&old_entry(5, id));
        }
        let whole = a.entries.clone();
        if wiped == A {
            a = Side::new(A)
        } else {
            b = Side::new(B)
        }
        let cost = compare(&mut a, &mut b);
        assert_eq!((&a.entries, &b.entries), (&whole, &whole));
        assert!(cost.largest < 70_000, "{}", cost.largest);
        assert_eq!(compare(&mut a, &mut b).questions, 1);
    }
}

#[test]
fn nothing_expunged_returns_and_a_missed_tombstone_travels() {
    for (tombstone_at, other) in [(A, B), (B, A)] {
        let (mut a, mut b) = sides(50);
        let mut gone = old_entry(3, 3);
        gone.expunged = Some(stamp(9 << 16, 1));
        if tombstone_at == A {
            a.put(&gone)
        } else {
            b.put(&gone)
        };
        compare(&mut a, &mut b);
        let side = if other == A { &a } else { &b };
        assert!(!side.entries[&(UserId(3), EntryId(3))].is_live());
        // The tombstone's lifetime ends on one side before the other: no reason to repair.
        a.entries.remove(&(UserId(3), EntryId(3)));
        assert_eq!(compare(&mut a, &mut b).questions, 1);
        assert!(!a.entries.contains_key(&(UserId(3), EntryId(3))));
    }
}

#[test]
fn a_side_that_a_newer_replica_set_does_not_name_learns_of_it() {
    let (mut a, mut b) = sides(50);
    let mut moved = old_entry(3, 3);
    moved.replicas = Register::new(vec![B, NodeId(9)], stamp(9 << 16, 1));
    b.put(&moved);
    compare(&mut a, &mut b);
    assert_eq!(a.entries[&(UserId(3), EntryId(3))].replicas, moved.replicas);
    // And when neither of the two is a replica any more, but one remembers where it went.
    let mut moved = old_entry(4, 4);
    moved.replicas = Register::new(vec![NodeId(8), NodeId(9)], stamp(9 << 16, 1));
    b.put(&moved);
    compare(&mut a, &mut b);
    assert_eq!(a.entries[&(UserId(4), EntryId(4))].replicas, moved.replicas);
    assert_eq!(compare(&mut a, &mut b).questions, 1);
}

#[test]
fn what_is_younger_than_redeliverys_grace_is_left_to_it() {
    let (mut a, mut b) = sides(50);
    let mut young = old_entry(3, 3);
    young.set_flag(Flag::Seen, true, stamp((NOW - 500) << 16, 1));
    b.put(&young);
    assert_eq!(compare(&mut a, &mut b).repaired, 0);
}

#[test]
fn any_two_sides_become_equal_and_keep_what_either_knew() {
    let mut random = Random(11);
    for _ in 0..60 {
        let (mut a, mut b) = (Side::new(A), Side::new(B));
        for _ in 0..random.below(400) {
            let id = u128::from(random.below(300));
            let mut version = old_entry(id % 7, id);
            for _ in 0..random.below(4) {
                let ticks = (2 + random.below(50)) << 16;
                match random.below(4) {
                    0 => version.set_flag(Flag::Seen, ticks & (1 << 16) == 0, stamp(ticks, 1)),
                    1 => version.modseq = version.modseq.max(ticks),
                    2 => {
                        let third = NodeId(3 + (ticks >> 16) % 3);
                        let value = if ticks & (1 << 16) == 0 { vec![B, third] } else { vec![A, B, third] };
                        version.replicas = Register::new(value, stamp(ticks, ticks >> 16));
                    }
                    _ => version.expunged = version.expunged.or(Some(stamp(ticks, 2))),
                }
            }
            if random.below(3) > 0 {
                a.put(&version);
            }
            if random.below(3) > 0 {
                b.put(&version);
            }
        }
        let (a_before, b_before) = (a.clone(), b.clone());
        compare(&mut a, &mut b);
        assert_eq!(a.tree(B), b.tree(A));
        assert_eq!(compare(&mut a, &mut b).questions, 1);
        for (before, after) in [(&a_before, &a), (&b_before, &b)] {
            for (key, old) in &before.entries {
                let mut joined = after.entries[key].clone();
                assert!(!joined.merge(old), "something known was lost");
            }
        }
        let gone = |side: &Side, key: &(UserId, EntryId)| side.entries.get(key).is_some_and(|e| !e.is_live());
        for key in a.entries.keys().chain(b.entries.keys()) {
            let was_gone = gone(&a_before, key) || gone(&b_before, key);
            let live_in_both =
                |side: &Side| side.shared(if side.me == A { B } else { A }).any(|e| (e.user, e.id) == *key);
            assert!(!(was_gone && (live_in_both(&a) || live_in_both(&b))), "an expunged entry returned");
        }
    }
}

#[test]
fn answers_that_do_not_fit_end_the_comparison() {
    let (a, b) = sides(50);
    let mut comparison = Comparison::new(a.tree(B), SETTLED);
    assert_eq!(comparison.digests(&[1, 2]), Err(BadAnswer));
    assert_eq!(comparison.items(&Page::default(), &Page::default()), Err(BadAnswer));
    comparison.digests(&[a.tree(B).root() ^ 1]).unwrap();
    comparison.digests(&[7; 16]).unwrap();
    comparison.digests(&vec![7; 256]).unwrap();
    comparison.digests(&vec![7; 4096]).unwrap();
    let Some(Question::Items { bucket: Bucket(0), after: None }) = comparison.question() else { panic!() };
    let foreign: Vec<Item> = b.shared(A).map(Item::from).collect();
    let nothing = Page::default();
    assert_eq!(comparison.items(&nothing, &Page { items: foreign, more: false }), Err(BadAnswer));
    assert_eq!(comparison.items(&nothing, &Page { items: Vec::new(), more: true }), Err(BadAnswer));
}
