//! One folder's part of the mailbox index: UID order, reserved blocks, and what left the folder lately.

use crate::clock::Timestamp;
use crate::entry::Uid;
use crate::ids::EntryId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// UIDs `first..=last` of one folder, reserved for one manager with compare-and-set in the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UidBlock {
    pub first: u32,
    pub last: u32,
    pub reserved: Timestamp,
}

/// How many departures are remembered; a session further behind compares with everything.
const DEPARTURES: usize = 4096;

#[derive(Clone, Debug, Default)]
pub(super) struct FolderIndex {
    pub(super) by_uid: BTreeMap<u32, EntryId>,
    pub(super) highest_modseq: u64,
    /// True once a session was shown this folder; from then on nothing may appear below `shown`.
    pub(super) opened: bool,
    shown: u32,
    /// First number that nobody reserved yet, as far as we know.
    first_free: u32,
    /// What is left of our own block.
    ours: Option<UidBlock>,
    reservations: Vec<UidBlock>,
    departures: VecDeque<(u32, u64)>,
    /// Departures up to this MODSEQ may be missing from `departures`.
    departures_from: u64,
}

impl FolderIndex {
    pub(super) fn beginning_at(modseq: u64) -> Self {
        Self { highest_modseq: modseq, departures_from: modseq, ..Self::default() }
    }

    pub(super) fn note_modseq(&mut self, modseq: u64) {
        self.highest_modseq = self.highest_modseq.max(modseq);
        if !self.opened {
            self.departures_from = self.highest_modseq;
        }
    }

    pub(super) fn open(&mut self) {
        if !self.opened {
            self.opened = true;
            self.departures_from = self.highest_modseq;
            self.shown = self.highest_uid();
        }
    }

    fn highest_uid(&self) -> u32 {
        self.by_uid.last_key_value().map_or(0, |(&number, _)| number)
    }

    pub(super) fn show(&mut self, number: u32, id: EntryId) {
        self.by_uid.insert(number, id);
        if self.opened {
            self.shown = self.shown.max(number);
        }
    }

    pub(super) fn hide(&mut self, number: u32, id: EntryId) {
        if self.by_uid.get(&number) == Some(&id) {
            self.by_uid.remove(&number);
        }
    }

    /// Sessions that show `number` must be told that it is gone.
    pub(super) fn departed(&mut self, number: u32) {
        self.highest_modseq += 1;
        self.departures.push_back((number, self.highest_modseq));
        if self.departures.len() > DEPARTURES
            && let Some((_, modseq)) = self.departures.pop_front()
        {
            self.departures_from = modseq;
        }
    }

    /// UIDs gone since a MODSEQ; None if that is further back than we know.
    pub(super) fn departures_since(&self, modseq: u64) -> Option<Vec<u32>> {
        (modseq >= self.departures_from).then(|| {
            self.departures.iter().filter(|(_, at)| *at > modseq).map(|(number, _)| *number).collect()
        })
    }

    /// True if a message that turns up with this UID must get a new one: sessions were shown a higher one, or
    /// the number comes from a lower block although a higher one had been reserved by then.
    pub(super) fn rejects(&self, uid: Uid) -> bool {
        (self.opened && uid.number <= self.shown) || self.is_from_stale_block(uid)
    }

    pub(super) fn is_from_stale_block(&self, uid: Uid) -> bool {
        self.reservations.iter().any(|block| block.first > uid.number && block.reserved < uid.assigned)
    }

    pub(super) fn set_reservations(&mut self, blocks: &[UidBlock], first_free: u32) {
        self.reservations = blocks.to_vec();
        self.first_free = self.first_free.max(first_free);
        if self.ours.is_some_and(|ours| blocks.iter().any(|block| block.first > ours.last)) {
            self.ours = None;
        }
    }

    /// The rest of an older block is given up: were it used on, its numbers would look stale to others.
    pub(super) fn add_block(&mut self, block: UidBlock) {
        self.ours = Some(block);
        self.reservations.push(block);
        self.first_free = self.first_free.max(block.last.saturating_add(1));
    }

    fn next_own(&self) -> Option<u32> {
        let ours = self.ours?;
        let next = ours.first.max(self.shown.max(self.highest_uid()).saturating_add(1));
        (next <= ours.last).then_some(next)
    }

    pub(super) fn available(&self) -> u32 {
        match (self.next_own(), self.ours) {
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
