//! The mailbox index: the merged, IMAP-ordered view of one active mailbox, held by its manager (DESIGN 1, 4).
//!
//! Soft state, built from the fragments. It decides UIDs and MODSEQs; everything it decides is made durable as
//! updates of entries *before* any client sees it. So each change has three steps:
//!
//! 1. a plan (`number`, `store`, `expunge`, `copy`, `relocate`, ...) computes the new versions of entries and
//!    changes nothing;
//! 2. the manager writes them to their replicas;
//! 3. [`MailboxIndex::commit`] makes them visible and says which folders changed.
//!
//! Invariant 6: in one folder a UID never names two messages; a message never appears below a UID that was
//! shown; MODSEQ never goes back. MODSEQs are ticks of the hybrid clock, so those of a new manager are above
//! those of the one before without any agreement. An index is one manager's for as long as it manages the user; a
//! session that comes from another index says what it shows ([`MailboxIndex::reconcile`]).

mod change;
mod folder;
mod ranges;
mod view;

pub use change::{Copied, FlagChange, StorePlan, UidsExhausted};
pub use folder::{DIVISION_MEMORY, Known, Reservation, UidBlock, certainly_told};
pub use ranges::UidRanges;
pub use view::{Changes, FolderView, Mark, Marks, Shown};

use crate::clock::Timestamp;
use crate::entry::{Entry, Location, Uid};
use crate::ids::{EntryId, FolderId, NodeId, UserId};
use folder::FolderIndex;
use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Entries of folders that are gone (DESIGN 4): expunged if older than the deletion, to INBOX if newer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderTable {
    pub live: BTreeSet<FolderId>,
    pub deleted: BTreeMap<FolderId, Timestamp>,
}

/// The index of one user's mailbox. Memory: about 300 bytes and its entry per message.
#[derive(Clone, Debug)]
pub struct MailboxIndex {
    user: UserId,
    /// Tells this index from all others.
    serial: u64,
    entries: HashMap<EntryId, Entry>,
    folders: BTreeMap<FolderId, FolderIndex>,
    /// Entries that have no (valid) UID yet; ordered by id, that is by time.
    unnumbered: BTreeSet<EntryId>,
    /// Those among them that nobody need wait for: their bodies cannot be found.
    aside: BTreeSet<EntryId>,
    /// Visible entries that a merge changed without giving them a MODSEQ above what sessions know.
    unstamped: BTreeSet<EntryId>,
    /// Tombstones that may be on too few disks: their messages may be back.
    doubted: BTreeSet<EntryId>,
    /// The newest stamp in the mailbox: HIGHESTMODSEQ of all its folders. One for all, because of a change that took a
    /// message out of a folder only the message tells, wherever it is, and every index has to come to the same.
    modseq: u64,
}

impl MailboxIndex {
    /// `serial`: a random number.
    pub fn new(user: UserId, serial: u64) -> Self {
        Self {
            user,
            serial,
            entries: HashMap::new(),
            folders: BTreeMap::new(),
            unnumbered: BTreeSet::new(),
            aside: BTreeSet::new(),
            unstamped: BTreeSet::new(),
            doubted: BTreeSet::new(),
            modseq: 0,
        }
    }

    fn raise(&mut self, modseq: u64) {
        self.modseq = self.modseq.max(modseq);
    }

    /// The highest MODSEQ of all folders.
    pub const fn highest_modseq(&self) -> u64 {
        self.modseq
    }

    pub const fn user(&self) -> UserId {
        self.user
    }

    pub fn entry(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// All entries, tombstones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a version of an entry from a fragment or a delivery notice. What has no valid UID waits for
    /// [`MailboxIndex::number`]; what changed under the eyes of sessions waits for a new MODSEQ there.
    /// False if it was no news.
    pub fn learn(&mut self, incoming: Entry) -> bool {
        if incoming.user != self.user {
            return false;
        }
        let id = incoming.id;
        if !incoming.is_live() {
            self.doubted.remove(&id);
        }
        let before = self.entries.get(&id).cloned();
        let after = match self.entries.entry(id) {
            Slot::Vacant(slot) => slot.insert(incoming).clone(),
            Slot::Occupied(slot) => {
                let known = slot.into_mut();
                if !known.merge(&incoming) {
                    return false;
                }
                known.clone()
            }
        };
        match before.filter(|before| self.is_visible(before)) {
            Some(before) if after.is_live() && same_place(&before, &after) => {
                if let Some(uid) = after.location.uid {
                    self.folder(after.location.folder).changed(uid.number);
                }
                self.stamp_if_shown(&after);
            }
            was_visible => {
                if let Some(before) = was_visible {
                    self.take_away(&before);
                    if self.folder(before.location.folder).opened {
                        self.unstamped.insert(id);
                    }
                }
                self.settle(&after);
            }
        }
        self.raise(after.latest().ticks);
        true
    }

    /// Splits what nodes told, each of a message once, into what can be learned and tombstones that are in doubt, joined: fewer than
    /// `proof` of them told that the message is gone, it was expunged after `lately` (Unix milliseconds), and is not gone here.
    pub fn split_doubtful(&self, told: Vec<Entry>, proof: usize, lately: u64) -> (Vec<Entry>, Vec<Entry>) {
        let mut doubtful: BTreeMap<EntryId, (usize, Entry)> = BTreeMap::new();
        for entry in told.iter().filter(|entry| self.may_be_in_doubt(entry, lately)) {
            let (count, joined) = doubtful.entry(entry.id).or_insert_with(|| (0, entry.clone()));
            *count += 1;
            joined.merge(entry);
        }
        doubtful.retain(|_, (count, _)| *count < proof);
        let certain = told.into_iter().filter(|entry| entry.is_live() || !doubtful.contains_key(&entry.id));
        (certain.collect(), doubtful.into_values().map(|(_, entry)| entry).collect())
    }

    fn may_be_in_doubt(&self, entry: &Entry, lately: u64) -> bool {
        entry.expunged.is_some_and(|at| at.unix_millis() > lately)
            && (self.entry(entry.id).is_none_or(Entry::is_live) || self.doubted.contains(&entry.id))
    }

    /// Takes tombstones that may be on too few disks. Were those lost, the messages would be back: their numbers do not count as seen,
    /// so they would get new ones, above what was shown without them.
    pub fn doubt(&mut self, tombstones: Vec<Entry>) {
        for entry in tombstones {
            let id = entry.id;
            self.learn(entry);
            self.doubted.insert(id);
        }
    }

    fn is_visible(&self, entry: &Entry) -> bool {
        entry.is_live()
            && entry.location.uid.is_some_and(|uid| {
                let folder = self.folders.get(&entry.location.folder);
                folder.is_some_and(|folder| folder.by_uid.get(&uid.number) == Some(&entry.id))
            })
    }

    fn take_away(&mut self, entry: &Entry) {
        if let Some(uid) = entry.location.uid {
            self.folder(entry.location.folder).hide(uid.number, entry.id);
        }
    }

    /// Sessions notice a change by its MODSEQ: one that came without a higher one waits for it.
    fn stamp_if_shown(&mut self, entry: &Entry) {
        if self.folder(entry.location.folder).opened && entry.modseq <= self.modseq {
            self.unstamped.insert(entry.id);
        }
    }

    /// Puts an entry that turned up into its folder's UID order, or among the unnumbered.
    fn settle(&mut self, entry: &Entry) {
        let id = entry.id;
        self.unnumbered.remove(&id);
        if !entry.is_live() {
            return;
        }
        let Some(uid) = entry.location.uid else {
            self.unnumbered.insert(id);
            return;
        };
        let folder = self.folder(entry.location.folder);
        folder.meet(uid.number);
        if folder.rejects(entry, uid) {
            self.unnumbered.insert(id);
            return;
        }
        // Two messages with one UID: the one that got it first keeps it, ids break ties.
        if let Some(&other) = folder.by_uid.get(&uid.number).filter(|&&other| other != id) {
            let theirs = self.entries.get(&other).and_then(|entry| entry.location.uid);
            if theirs.map(|theirs| theirs.assigned) <= Some(uid.assigned) {
                self.unnumbered.insert(id);
                return;
            }
            self.unnumbered.insert(other);
        }
        self.folder(entry.location.folder).show(uid.number, id);
        self.stamp_if_shown(entry);
    }

    fn folder(&mut self, id: FolderId) -> &mut FolderIndex {
        self.folders.entry(id).or_default()
    }

    /// The reserved blocks of a folder that the profile remembers, and the first number never reserved.
    /// UIDs from a lower block that the holder of a higher block did not know are given up: a session of the other
    /// manager may have seen the higher ones first.
    /// True if there is a block that we did not know: its holder may have numbered what we have not read.
    pub fn set_reservations(&mut self, folder: FolderId, blocks: &[UidBlock], first_free: u32) -> bool {
        let news = self.folder(folder).set_reservations(blocks, first_free);
        let stale: Vec<EntryId> = self.folder(folder).by_uid.values().copied().collect();
        for id in stale {
            let stale = |index: &FolderIndex, entry: &Entry, uid| index.is_stale(entry, uid);
            self.give_up_uid(folder, id, stale);
        }
        news
    }

    /// Takes a message's UID away, for a new one, if `is_wrong`.
    fn give_up_uid(
        &mut self,
        folder: FolderId,
        id: EntryId,
        is_wrong: impl Fn(&FolderIndex, &Entry, Uid) -> bool,
    ) {
        let (Some(entry), Some(index)) = (self.entries.get(&id), self.folders.get_mut(&folder)) else {
            return;
        };
        let Some(uid) = entry.location.uid else { return };
        if is_wrong(index, entry, uid) {
            index.hide(uid.number, id);
            self.unnumbered.insert(id);
        }
    }

    /// Takes over a session that another index served: whatever it may not be shown gets a new UID, and MODSEQ goes
    /// on from where it is. Afterwards it compares with everything.
    pub fn reconcile(&mut self, folder: FolderId, shown: &Shown) {
        self.raise(shown.modseq);
        let index = self.folder(folder);
        index.shown_up_to(shown.highest_uid);
        let below: Vec<EntryId> = index.by_uid.range(..=shown.highest_uid).map(|(_, &id)| id).collect();
        for id in below {
            self.give_up_uid(folder, id, |_, _, uid| !shown.uids.has(uid.number));
        }
    }

    /// True if whoever comes after us knows that we could not read the fragments of these nodes, and which messages may not be gone, so
    /// that the folder can be shown without them.
    pub fn admits(&mut self, folder: FolderId, unread: &[NodeId]) -> bool {
        if unread.is_empty() {
            return true;
        }
        let doubted = self.doubted.iter().filter_map(|id| number_in(self.entries.get(id)?, folder));
        let doubted: Vec<u32> = doubted.collect();
        self.folder(folder).admits(unread, &doubted)
    }

    /// True if somebody has reserved UIDs of which [`MailboxIndex::set_reservations`] was not told: nothing can be
    /// shown, because we may have numbered messages from a block that is stale.
    pub fn is_behind(&self) -> bool {
        self.folders.values().any(FolderIndex::is_behind)
    }

    /// The folders for which that is so. A reservation in each of them begins above all numbers in use.
    pub fn folders_behind(&self) -> Vec<FolderId> {
        let behind = self.folders.iter().filter(|(_, index)| index.is_behind());
        behind.map(|(&folder, _)| folder).collect()
    }

    /// Hands over a block that was just reserved for this manager.
    pub fn add_block(&mut self, folder: FolderId, block: UidBlock) {
        self.folder(folder).add_block(block);
    }

    /// How many UIDs to reserve in each folder before [`MailboxIndex::number`] can serve everything.
    pub fn uids_wanted(&mut self, folders: &FolderTable) -> BTreeMap<FolderId, u32> {
        self.unsettle_deleted(folders);
        let mut wanted: BTreeMap<FolderId, u32> = BTreeMap::new();
        for id in &self.unnumbered {
            let Some(entry) = self.entries.get(id) else { continue };
            match destination(entry, folders) {
                Destination::Folder(folder) => *wanted.entry(folder).or_default() += 1,
                Destination::Gone => {}
            }
        }
        wanted.retain(|folder, count| *count > self.folders.get(folder).map_or(0, FolderIndex::available));
        wanted
    }

    /// True if a message waits for a UID in a folder that the table does not know at all: it may be newer than
    /// the table, so get a fresh one before [`MailboxIndex::number`] sends the message to INBOX.
    pub fn names_unknown_folder(&self, folders: &FolderTable) -> bool {
        let waiting = self.unnumbered.iter().filter_map(|id| self.entries.get(id));
        waiting
            .map(|entry| entry.location.folder)
            .any(|folder| !folders.live.contains(&folder) && !folders.deleted.contains_key(&folder))
    }

    /// True if messages that sessions may know wait for another UID: without them the folder must not be shown, or
    /// clients would take them for expunged. With `new_too` also if messages without any UID wait for their first: who stands in for a
    /// manager must not show the folder without those either, as the manager may be giving them one, below what is shown.
    pub fn is_incomplete(&self, folder: FolderId, new_too: bool) -> bool {
        let mut waiting = self.unnumbered.difference(&self.aside).filter_map(|id| self.entries.get(id));
        waiting.any(|entry| entry.location.folder == folder && (new_too || entry.location.uid.is_some()))
    }

    /// Messages that wait for a UID: the one they had, and whether the folder is shown without them. For logs.
    pub fn waiting(&self, folder: FolderId) -> Vec<(EntryId, Option<u32>, bool)> {
        let waiting = self.unnumbered.iter().filter_map(|id| self.entries.get(id));
        let here = waiting.filter(|entry| entry.location.folder == folder);
        here.map(|entry| (entry.id, entry.location.uid.map(|uid| uid.number), self.aside.contains(&entry.id)))
            .collect()
    }

    /// True if [`MailboxIndex::number`] would have something to do.
    pub fn has_unsettled(&self, folders: &FolderTable) -> bool {
        let in_deleted = |folder| self.folders.get(folder).is_some_and(|index| !index.by_uid.is_empty());
        !self.unnumbered.is_empty() || !self.unstamped.is_empty() || folders.deleted.keys().any(in_deleted)
    }

    /// Plan: UIDs and MODSEQs for everything that waits for them, as far as the reserved blocks reach; messages
    /// of deleted folders are expunged or moved to INBOX.
    pub fn number(&mut self, at: Timestamp, folders: &FolderTable) -> Vec<Entry> {
        let mut plan = Vec::new();
        self.unsettle_deleted(folders);
        for id in std::mem::take(&mut self.unstamped) {
            if self.unnumbered.contains(&id) {
                continue;
            }
            if let Some(entry) = self.entries.get(&id) {
                let mut entry = entry.clone();
                entry.modseq = at.ticks;
                plan.push(entry);
            }
        }
        for id in self.unnumbered.clone() {
            let Some(mut entry) = self.entries.get(&id).cloned() else { continue };
            match destination(&entry, folders) {
                Destination::Gone => entry.expunged = Some(at),
                Destination::Folder(folder) => {
                    let Some(number) = self.folder(folder).take_uid() else { continue };
                    // A number given up and a number given again belong to different writes of the folder
                    // register only if the folder changed; else the higher number wins the merge, and it is
                    // higher, because numbers only rise.
                    if folder != entry.location.folder {
                        entry.location = Location { folder, at, uid: None };
                    }
                    entry.location.uid = Some(Uid { number, assigned: at });
                }
            }
            entry.modseq = at.ticks;
            plan.push(entry);
        }
        plan
    }

    fn unsettle_deleted(&mut self, folders: &FolderTable) {
        for folder in folders.deleted.keys() {
            if let Some(index) = self.folders.get_mut(folder) {
                for (number, id) in index.by_uid.clone() {
                    index.hide(number, id);
                    self.unnumbered.insert(id);
                }
            }
        }
    }

    /// Makes planned entries visible once they are durable. Returns the folders that changed.
    pub fn commit(&mut self, plan: Vec<Entry>) -> BTreeSet<FolderId> {
        let mut changed = BTreeSet::new();
        for mut after in plan {
            if let Some(before) = self.entries.get(&after.id).cloned() {
                after.merge(&before);
                if self.is_visible(&before) {
                    changed.insert(before.location.folder);
                    if !(after.is_live() && same_place(&before, &after)) {
                        self.take_away(&before);
                    }
                }
            }
            let id = after.id;
            self.unnumbered.remove(&id);
            self.aside.remove(&id);
            self.raise(after.latest().ticks);
            let folder = self.folder(after.location.folder);
            match after.location.uid.filter(|_| after.is_live()) {
                Some(uid) => folder.show(uid.number, id),
                None if after.is_live() => {
                    self.unnumbered.insert(id);
                }
                None => {}
            }
            changed.insert(after.location.folder);
            self.entries.insert(id, after);
        }
        changed
    }

    /// Asks for UIDs of a folder, by a manager that could not read the fragments of `unread`. Takes the time of a look
    /// at all entries.
    pub fn reservation(&self, folder: FolderId, count: u32, at: Timestamp, unread: &[NodeId]) -> Reservation {
        let gone =
            self.entries.values().filter(|entry| !entry.is_live() && !self.doubted.contains(&entry.id));
        let gone = gone.filter_map(|entry| number_in(entry, folder));
        match self.folders.get(&folder) {
            Some(index) => index.reservation(count, at, unread, gone),
            None => FolderIndex::default().reservation(count, at, unread, gone),
        }
    }

    /// New versions that are on too few disks, or on none as far as we know. A UID that was given with one may turn up
    /// later, so nothing may be shown above it: the rest of the block is given up, and with it what was numbered after.
    pub fn give_up(&mut self, uncertain: &[Entry]) {
        for entry in uncertain {
            if let Some(number) = self.new_number(entry) {
                self.folder(entry.location.folder).give_up_from(number);
            }
        }
    }

    /// Planned versions that no replica could take, because none has the body: the folder is shown without them.
    pub fn set_aside(&mut self, plan: &[Entry]) {
        self.aside.extend(plan.iter().map(|entry| entry.id));
        self.abandon(plan);
    }

    /// True if the UID of a planned version was given up.
    pub fn is_given_up(&mut self, planned: &Entry) -> bool {
        let number = self.new_number(planned);
        number.is_some_and(|number| self.folder(planned.location.folder).is_void(number))
    }

    /// The UID that a planned version got by the plan.
    fn new_number(&self, planned: &Entry) -> Option<u32> {
        let before = self.entries.get(&planned.id).map(|entry| &entry.location);
        let uid = planned.location.uid.filter(|_| planned.is_live())?;
        let same = |before: &Location| before.folder == planned.location.folder && before.uid == Some(uid);
        (!before.is_some_and(same)).then_some(uid.number)
    }

    /// Puts back in line what a plan took from the line and could not make durable.
    pub fn abandon(&mut self, plan: &[Entry]) {
        for id in plan.iter().map(|entry| entry.id) {
            if self.entries.contains_key(&id) && !self.unnumbered.contains(&id) {
                self.unstamped.insert(id);
            }
        }
    }
}

fn number_in(entry: &Entry, folder: FolderId) -> Option<u32> {
    entry.location.uid.filter(|_| entry.location.folder == folder).map(|uid| uid.number)
}

fn same_place(before: &Entry, after: &Entry) -> bool {
    before.location.folder == after.location.folder
        && before.location.uid.map(|uid| uid.number) == after.location.uid.map(|uid| uid.number)
}

enum Destination {
    Folder(FolderId),
    Gone,
}

/// Where an entry without a UID belongs (DESIGN 4, on deleted folders).
fn destination(entry: &Entry, folders: &FolderTable) -> Destination {
    let folder = entry.location.folder;
    if folders.live.contains(&folder) {
        return Destination::Folder(folder);
    }
    match folders.deleted.get(&folder) {
        Some(deleted) if entry.location.at < *deleted => Destination::Gone,
        _ => Destination::Folder(FolderId::INBOX),
    }
}

#[cfg(test)]
mod tests;
