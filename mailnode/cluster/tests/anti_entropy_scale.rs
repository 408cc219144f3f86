//! Anti-entropy between two nodes that hold a million entries (DESIGN 4): what agreement costs, and one difference.

use cluster::anti_entropy::{Comparison, DigestTree, Item, PAGE_ITEMS, Page, Question};
use cluster::{Bucket, EntryId, UserId};
use std::collections::BTreeMap;

const ENTRIES: u64 = 1_000_000;
const USERS: u128 = 20_000;
/// Later than all entries, milliseconds.
const NOW: u64 = 1_000_000;

/// A node's entries as the comparison sees them: by bucket, in order.
struct Side {
    buckets: BTreeMap<Bucket, BTreeMap<(UserId, EntryId), u64>>,
    tree: DigestTree,
}

impl Side {
    fn new() -> Self {
        let buckets: Vec<Bucket> = (0..USERS).map(|user| Bucket::of_user(UserId(user))).collect();
        let mut side = Self { buckets: BTreeMap::new(), tree: DigestTree::default() };
        for number in 0..ENTRIES {
            let user = UserId(u128::from(number) % USERS);
            let bucket = buckets[user.0 as usize];
            side.put(bucket, (user, EntryId(number.into())), digest(number));
        }
        side
    }

    fn put(&mut self, bucket: Bucket, key: (UserId, EntryId), digest: u64) {
        if let Some(old) = self.buckets.entry(bucket).or_default().insert(key, digest) {
            self.tree.toggle(bucket, old);
        }
        self.tree.toggle(bucket, digest);
    }

    fn page(&self, bucket: Bucket, after: Option<(UserId, EntryId)>) -> Page {
        let all = self.buckets.get(&bucket).into_iter().flatten();
        let rest = all.filter(|(key, _)| after.is_none_or(|after| **key > after));
        let item = |(key, digest): (&(UserId, EntryId), &u64)| Item {
            user: key.0,
            entry: key.1,
            digest: *digest,
            at: 1,
        };
        let mut items: Vec<Item> = rest.take(PAGE_ITEMS + 1).map(item).collect();
        let more = items.len() > PAGE_ITEMS;
        items.truncate(PAGE_ITEMS);
        Page { items, more }
    }
}

fn digest(number: u64) -> u64 {
    (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Cost {
    round_trips: usize,
    bytes: usize,
    differences: usize,
}

/// Asks until there is nothing to ask; messages are counted as they are coded on the wire.
fn compare(asking: &Side, answering: &Side) -> Cost {
    let mut cost = Cost::default();
    let mut comparison = Comparison::new(asking.tree.clone(), NOW);
    while let Some(question) = comparison.question() {
        cost.round_trips += 1;
        assert!(cost.round_trips < 100, "it does not end");
        cost.bytes += postcard::to_stdvec(&question).unwrap().len();
        match question {
            Question::Digests { level, parents } => {
                let answer = answering.tree.answer(level, &parents);
                cost.bytes += postcard::to_stdvec(&answer).unwrap().len();
                comparison.digests(&answer).unwrap();
            }
            Question::Items { bucket, after } => {
                let theirs = answering.page(bucket, after);
                cost.bytes += postcard::to_stdvec(&theirs).unwrap().len();
                cost.differences += comparison.items(&asking.page(bucket, after), &theirs).unwrap().len();
            }
        }
    }
    cost
}

#[test]
fn agreement_about_a_million_entries_costs_less_than_a_kilobyte_and_one_difference_a_round_trip_a_level() {
    let (here, mut there) = (Side::new(), Side::new());
    let agreed = compare(&here, &there);
    assert_eq!((agreed.round_trips, agreed.differences), (1, 0));
    assert!(agreed.bytes < 1_000, "{} bytes", agreed.bytes);
    let user = UserId(777);
    there.put(Bucket::of_user(user), (user, EntryId(777)), 1);
    let differing = compare(&here, &there);
    // Four levels of digests, then the list of the one bucket that differs.
    assert_eq!((differing.round_trips, differing.differences), (usize::from(DigestTree::LEAVES) + 2, 1));
    assert!(differing.bytes < 16_000, "{} bytes", differing.bytes);
    println!("agreement: {agreed:?}; one difference: {differing:?}");
}
