//! One folder's part of the mailbox index: UID order, reserved blocks, and what changed lately.

use super::ranges::UidRanges;
use crate::clock::Timestamp;
use crate::entry::{Entry, Uid};
use crate::ids::{EntryId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// UIDs `first..=last` of one folder, reserved for one manager with compare-and-set in the profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UidBlock {
    pub first: u32,
    pub last: u32,
    pub reserved: Timestamp,
    pub known: Known,
}

/// Ranges of seen numbers that a block remembers. What managers disagree about are the newest numbers.
const SEEN: usize = 32;

/// What the manager who reserves a block knew of the numbers below. A message that turns up with one it did not know
/// was not shown below the numbers of this block, and gets a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The numbers, from `from` on, of its messages and tombstones, but for those in doubt.
    pub seen: UidRanges,
    pub from: u32,
    /// Below `from`: nodes whose fragments it could not read, if they are so many that they may have all copies of a
    /// message.
    pub unread: Vec<NodeId>,
}

/// Blocks of a division, and those before and after it, are remembered for so long.
pub const DIVISION_MEMORY: Duration = Duration::from_secs(30 * 24 * 3600);
/// Around a reservation two managers may be at work for so long, and one not hear of what the other changes.
const OVERLAP: Duration = Duration::from_secs(30);

/// What a client that was told this MODSEQ has certainly been told: all changes up to the one returned. That is lower only if
/// the client heard of it
///
/// - around a reservation, while another manager may still have been at work;
/// - in a division: while managers could not read all that others were changing. That lasts from the last block before
///   it, whose manager had read everything, to the first such block after it;
/// - longer ago than divisions are remembered.
///
/// `blocks` are the folder's, oldest first.
pub fn certainly_told(blocks: &[UidBlock], modseq: u64) -> u64 {
    let ticks = |time: Duration| (time.as_millis() as u64) << 16;
    let newest = blocks.last().map_or(0, |block| block.reserved.ticks);
    let forgets = blocks.first().is_some_and(|oldest| oldest.first > 1);
    if forgets && newest.saturating_sub(modseq) > ticks(DIVISION_MEMORY) {
        return 0;
    }
    let mut told = modseq;
    let mut whole_again = u64::MAX;
    for (at, block) in blocks.iter().enumerate().rev() {
        let reserved = block.reserved.ticks;
        if block.known.unread.is_empty() {
            whole_again = reserved;
        } else {
            let mut before = blocks.iter().take(at).rev().filter(|block| block.known.unread.is_empty());
            let whole = before.next().map_or(0, |block| block.reserved.ticks);
            if (whole..whole_again).contains(&told) {
                told = whole;
            }
        }
        let (from, to) = (reserved.saturating_sub(ticks(OVERLAP)), reserved.saturating_add(ticks(OVERLAP)));
        if (from..to).contains(&told) {
            told = from;
        }
    }
    told
}

/// What is asked of the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub count: u32,
    pub at: Timestamp,
    pub known: Known,
    /// The first number that nobody had reserved, as far as the manager knows. If somebody has since, nothing is
    /// reserved, because that one's numbers are not among those seen. None: whoever has.
    pub after: Option<u32>,
}

impl Reservation {
    pub fn new(count: u32, at: Timestamp) -> Self {
        Self { count, at, known: Known::default(), after: None }
    }
}

/// How many changes are remembered; a session further behind compares with everything.
const CHANGES: usize = 4096;

#[derive(Clone, Debug, Default)]
pub(super) struct FolderIndex {
    pub(super) by_uid: BTreeMap<u32, EntryId>,
    /// True once a session was shown this folder; from then on nothing may appear below `shown`.
    pub(super) opened: bool,
    shown: u32,
    /// First number that nobody reserved yet, as far as we know.
    first_free: u32,
    /// The highest number that any version of a message had.
    met: u32,
    /// What is left of our own block.
    ours: Option<UidBlock>,
    reservations: Vec<UidBlock>,
    /// Numbers, from..=to, that we gave and that may be on a disk although the write failed: not shown.
    void: Option<(u32, u32)>,
    /// UIDs that came, changed or went, oldest first.
    changes: VecDeque<u32>,
    /// How many changes there were before those.
    forgotten: u64,
}

impl FolderIndex {
    /// A session was shown UIDs up to here, by another index.
    pub(super) fn shown_up_to(&mut self, number: u32) {
        self.open();
        self.shown = self.shown.max(number);
    }

    pub(super) fn open(&mut self) {
        if !self.opened {
            self.opened = true;
            self.shown = self.highest_uid();
        }
    }

    fn highest_uid(&self) -> u32 {
        self.by_uid.last_key_value().map_or(0, |(&number, _)| number)
    }

    pub(super) fn show(&mut self, number: u32, id: EntryId) {
        self.by_uid.insert(number, id);
        self.changed(number);
        if self.opened {
            self.shown = self.shown.max(number);
        }
    }

    pub(super) fn hide(&mut self, number: u32, id: EntryId) {
        if self.by_uid.get(&number) == Some(&id) {
            self.by_uid.remove(&number);
            self.changed(number);
        }
    }

    /// Sessions must be told what became of `number`.
    pub(super) fn changed(&mut self, number: u32) {
        self.changes.push_back(number);
        if self.changes.len() > CHANGES {
            self.changes.pop_front();
            self.forgotten += 1;
        }
    }

    /// How many changes there were.
    pub(super) fn sequence(&self) -> u64 {
        self.forgotten + self.changes.len() as u64
    }

    /// UIDs that came, changed or went after so many changes; None if that is further back than we know.
    pub(super) fn changes_after(&self, sequence: u64) -> Option<BTreeSet<u32>> {
        let known = usize::try_from(sequence.checked_sub(self.forgotten)?).ok()?;
        (known <= self.changes.len()).then(|| self.changes.iter().skip(known).copied().collect())
    }

    /// True if a message that turns up with this UID must get a new one: sessions were shown a higher one, or
    /// may have been by another manager.
    pub(super) fn rejects(&self, entry: &Entry, uid: Uid) -> bool {
        (self.opened && uid.number <= self.shown) || self.is_stale(entry, uid)
    }

    /// True if the holder of a higher block did not know the message by this UID: it had not seen the number, or all
    /// copies were on nodes that it could not read. (Copies that moved since then may have been.)
    pub(super) fn is_stale(&self, entry: &Entry, uid: Uid) -> bool {
        let unread = |block: &UidBlock| {
            let (replicas, unread) = (&entry.replicas, &block.known.unread);
            !unread.is_empty()
                && (replicas.at > block.reserved || replicas.value.iter().all(|node| unread.contains(node)))
        };
        let unseen = |block: &UidBlock| {
            if uid.number < block.known.from { unread(block) } else { !block.known.seen.has(uid.number) }
        };
        let mut higher = self.reservations.iter().filter(|block| block.first > uid.number);
        self.is_void(uid.number) || higher.any(unseen)
    }

    /// Gives up our block from here on: what was written with these numbers may be on a disk or not.
    pub(super) fn give_up_from(&mut self, number: u32) {
        let last = self.ours.take().map_or(number, |ours| ours.last);
        let (from, to) = self.void.unwrap_or((number, last));
        self.void = Some((from.min(number), to.max(last)));
    }

    pub(super) fn is_void(&self, number: u32) -> bool {
        self.void.is_some_and(|(from, to)| (from..=to).contains(&number))
    }

    /// A version of a message has this number.
    pub(super) fn meet(&mut self, number: u32) {
        self.met = self.met.max(number);
    }

    /// True if a number is in use that nobody had reserved when we last heard.
    pub(super) fn is_behind(&self) -> bool {
        self.first_free > 0 && self.met >= self.first_free
    }

    /// Asks for numbers, as a manager that could not read `unread` and knows tombstones with the numbers `gone`.
    pub(super) fn reservation(
        &self,
        count: u32,
        at: Timestamp,
        unread: &[NodeId],
        gone: impl Iterator<Item = u32>,
    ) -> Reservation {
        let mut numbers: BTreeSet<u32> = gone.filter(|&number| !self.is_void(number)).collect();
        numbers.extend(self.by_uid.keys());
        let mut seen: UidRanges = numbers.into_iter().collect();
        let from = seen.keep_highest(SEEN);
        let known = Known { seen, from, unread: unread.to_vec() };
        let after = self.first_free.max(self.met.saturating_add(1));
        Reservation { count, at, known, after: Some(after) }
    }

    /// True if whoever comes after us knows which nodes we could not read, and that we showed nothing with the numbers `doubted`.
    pub(super) fn admits(&self, unread: &[NodeId], doubted: &[u32]) -> bool {
        self.ours.as_ref().is_some_and(|ours| {
            let counts_as_seen = |number: &u32| ours.known.seen.has(*number);
            ours.known.unread == unread && !doubted.iter().any(counts_as_seen)
        })
    }

    /// True if there is a block that we did not know.
    pub(super) fn set_reservations(&mut self, blocks: &[UidBlock], first_free: u32) -> bool {
        let news = blocks.iter().any(|block| !self.reservations.contains(block));
        self.reservations = blocks.to_vec();
        self.first_free = self.first_free.max(first_free);
        if self.ours.as_ref().is_some_and(|ours| blocks.iter().any(|block| block.first > ours.last)) {
            self.ours = None;
        }
        news
    }

    /// The rest of an older block is given up: were it used on, its numbers would look stale to others.
    pub(super) fn add_block(&mut self, block: UidBlock) {
        self.first_free = self.first_free.max(block.last.saturating_add(1));
        self.void = None;
        self.reservations.push(block.clone());
        self.ours = Some(block);
    }

    fn next_own(&self) -> Option<u32> {
        let ours = self.ours.as_ref()?;
        let next = ours.first.max(self.shown.max(self.highest_uid()).saturating_add(1));
        (next <= ours.last).then_some(next)
    }

    pub(super) fn available(&self) -> u32 {
        match (self.next_own(), &self.ours) {
            (Some(next), Some(ours)) => ours.last - next + 1,
            _ => 0,
        }
    }

    pub(super) fn take_uid(&mut self) -> Option<u32> {
        let next = self.next_own()?;
        if let Some(ours) = &mut self.ours {
            ours.first = next.checked_add(1)?;
        }
        Some(next)
    }

    /// RFC 9051 2.3.1.1: no message that comes later gets a UID below this.
    pub(super) fn uid_next(&self) -> u32 {
        let free = self.next_own().unwrap_or(self.first_free.max(1));
        free.max(self.shown.max(self.highest_uid()).saturating_add(1))
    }
}
