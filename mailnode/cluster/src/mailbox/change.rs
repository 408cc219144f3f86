//! Plans for what clients ask: new versions of entries, computed without changing the index.

use super::MailboxIndex;
use crate::clock::Timestamp;
use crate::entry::{Entry, Flag, Location, Register, Uid};
use crate::ids::{EntryId, FolderId};
use serde::{Deserialize, Serialize};

/// STORE's change of flags (RFC 9051 6.4.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlagChange {
    Add(Vec<Flag>),
    Remove(Vec<Flag>),
    Replace(Vec<Flag>),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct StorePlan {
    pub entries: Vec<Entry>,
    /// UIDs that were not changed because they were modified since (RFC 7162 3.1.3).
    pub modified: Vec<u32>,
}

/// COPY and MOVE: new versions, and the UIDs before and after (RFC 4315 COPYUID).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Copied {
    pub entries: Vec<Entry>,
    pub from: Vec<u32>,
    pub to: Vec<u32>,
}

/// The block of the target folder is used up; reserve more and plan again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidsExhausted {
    pub folder: FolderId,
    pub wanted: u32,
}

impl MailboxIndex {
    /// With `complete` false, newer versions than those of the index may exist on nodes that could not be read: then
    /// what seems to change nothing is written all the same, so that it wins over what it undoes.
    pub fn plan_store(
        &self,
        folder: FolderId,
        uids: &[u32],
        change: &FlagChange,
        unchanged_since: Option<u64>,
        at: Timestamp,
        complete: bool,
    ) -> StorePlan {
        let mut plan = StorePlan::default();
        let set = |entry: &mut Entry, flags: &[Flag], value: bool, at: Timestamp| {
            for flag in flags {
                if !complete || entry.has_flag(flag) != value {
                    entry.set_flag(flag.clone(), value, at);
                }
            }
        };
        for entry in self.messages(folder, uids) {
            if unchanged_since.is_some_and(|limit| entry.modseq > limit) {
                plan.modified.extend(entry.location.uid.map(|uid| uid.number));
                continue;
            }
            let mut changed = entry.clone();
            match change {
                FlagChange::Add(flags) => set(&mut changed, flags, true, at),
                FlagChange::Remove(flags) => set(&mut changed, flags, false, at),
                FlagChange::Replace(flags) => {
                    let gone: Vec<Flag> =
                        entry.flags_set().filter(|flag| !flags.contains(flag)).cloned().collect();
                    set(&mut changed, &gone, false, at);
                    set(&mut changed, flags, true, at);
                }
            }
            if changed != *entry {
                changed.modseq = at.ticks;
                plan.entries.push(changed);
            }
        }
        plan
    }

    pub fn plan_expunge(&self, folder: FolderId, uids: &[u32], at: Timestamp) -> Vec<Entry> {
        self.messages(folder, uids)
            .into_iter()
            .cloned()
            .map(|mut entry| {
                entry.expunged = Some(at);
                entry.modseq = at.ticks;
                entry
            })
            .collect()
    }

    /// A copy is a new entry for the same blob on the same nodes.
    ///
    /// # Errors
    /// [`UidsExhausted`] if the target folder's block is too small.
    pub fn plan_copy(
        &mut self,
        folder: FolderId,
        uids: &[u32],
        target: FolderId,
        at: Timestamp,
        mut new_id: impl FnMut() -> EntryId,
    ) -> Result<Copied, UidsExhausted> {
        self.plan_transfer(folder, uids, target, at, |original, numbered| {
            let flags = original.flags_set().map(|flag| (flag.clone(), Register::new(true, at)));
            Entry {
                id: new_id(),
                location: numbered,
                flags: flags.collect(),
                modseq: at.ticks,
                ..original.clone()
            }
        })
    }

    /// A move is a write of the folder register (RFC 6851): the message keeps its id.
    ///
    /// # Errors
    /// [`UidsExhausted`] if the target folder's block is too small.
    pub fn plan_move(
        &mut self,
        folder: FolderId,
        uids: &[u32],
        target: FolderId,
        at: Timestamp,
    ) -> Result<Copied, UidsExhausted> {
        self.plan_transfer(folder, uids, target, at, |original, numbered| Entry {
            location: numbered,
            modseq: at.ticks,
            ..original.clone()
        })
    }

    fn plan_transfer(
        &mut self,
        folder: FolderId,
        uids: &[u32],
        target: FolderId,
        at: Timestamp,
        mut make: impl FnMut(&Entry, Location) -> Entry,
    ) -> Result<Copied, UidsExhausted> {
        let originals: Vec<Entry> = self.messages(folder, uids).into_iter().cloned().collect();
        let wanted = u32::try_from(originals.len()).unwrap_or(u32::MAX);
        if self.folder(target).available() < wanted {
            return Err(UidsExhausted { folder: target, wanted });
        }
        let mut copied = Copied::default();
        for original in originals {
            let (Some(from), Some(number)) = (original.location.uid, self.folder(target).take_uid()) else {
                continue;
            };
            let uid = Some(Uid { number, assigned: at });
            copied.entries.push(make(&original, Location { folder: target, at, uid }));
            copied.from.push(from.number);
            copied.to.push(number);
        }
        Ok(copied)
    }
}
