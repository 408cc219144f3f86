//! What sessions read from the index.

use super::MailboxIndex;
use super::folder::FolderIndex;
use super::ranges::UidRanges;
use crate::entry::Entry;
use crate::ids::FolderId;
use serde::{Deserialize, Serialize};

/// Up to where a session knows a folder: the index that told it, and how many changes it told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub index: u64,
    pub sequence: u64,
}

/// What a session shows of a folder, for an index that did not tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// UIDs of the messages it shows.
    pub uids: UidRanges,
    /// The highest UID it ever showed.
    pub highest_uid: u32,
    /// The highest MODSEQ it was told.
    pub modseq: u64,
}

impl Shown {
    /// `uids` ascending.
    pub fn new(uids: impl Iterator<Item = u32>, highest_uid: u32, modseq: u64) -> Self {
        Self { uids: uids.collect(), highest_uid, modseq }
    }
}

/// Numbers of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    pub uid_next: u32,
    /// RFC 7162; at least 1.
    pub highest_modseq: u64,
    pub mark: Mark,
}

/// A folder as it stands (RFC 9051 6.3.2).
#[derive(Clone, Debug)]
pub struct FolderView<'a> {
    pub marks: Marks,
    /// Ascending by UID.
    pub messages: Vec<&'a Entry>,
}

/// What changed in a folder since a MODSEQ, for a session that shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Changes<'a> {
    Delta {
        upserts: Vec<&'a Entry>,
        vanished: Vec<u32>,
    },
    /// The index does not reach back that far: compare with everything.
    Everything {
        messages: Vec<&'a Entry>,
    },
    /// Another index told the session what it knows: say what it shows ([`MailboxIndex::reconcile`]).
    Unknown,
}

impl MailboxIndex {
    /// Looks at a folder without promising anything to anybody (STATUS).
    pub fn view(&self, folder: FolderId) -> FolderView<'_> {
        let marks = self.marks(folder);
        let ids = self.folders.get(&folder).into_iter().flat_map(|index| index.by_uid.values());
        let messages = ids.filter_map(|id| self.entries.get(id)).collect();
        FolderView { marks, messages }
    }

    pub fn marks(&self, folder: FolderId) -> Marks {
        let index = self.folders.get(&folder);
        Marks {
            uid_next: index.map_or(1, FolderIndex::uid_next),
            highest_modseq: self.modseq.max(1),
            mark: Mark { index: self.serial, sequence: index.map_or(0, FolderIndex::sequence) },
        }
    }

    /// Shows a folder to a session: from now on no message may appear below its highest UID.
    pub fn open(&mut self, folder: FolderId) -> FolderView<'_> {
        self.folder(folder).open();
        self.view(folder)
    }

    /// What a session that knows the folder up to a mark must still be told.
    pub fn changes_since(&mut self, folder: FolderId, mark: Mark) -> Changes<'_> {
        if mark.index != self.serial {
            return Changes::Unknown;
        }
        self.folder(folder).open();
        let Some(index) = self.folders.get(&folder) else {
            return Changes::Everything { messages: Vec::new() };
        };
        let Some(changed) = index.changes_after(mark.sequence) else {
            let messages = index.by_uid.values().filter_map(|id| self.entries.get(id));
            return Changes::Everything { messages: messages.collect() };
        };
        let (mut upserts, mut vanished) = (Vec::new(), Vec::new());
        for number in changed {
            match index.by_uid.get(&number).and_then(|id| self.entries.get(id)) {
                Some(entry) => upserts.push(entry),
                None => vanished.push(number),
            }
        }
        Changes::Delta { upserts, vanished }
    }

    /// The live messages of a folder with these UIDs; unknown UIDs are left out (RFC 9051 6.4.9).
    pub fn messages(&self, folder: FolderId, uids: &[u32]) -> Vec<&Entry> {
        let Some(index) = self.folders.get(&folder) else { return Vec::new() };
        uids.iter().filter_map(|uid| index.by_uid.get(uid)).filter_map(|id| self.entries.get(id)).collect()
    }

    /// Bytes of all live messages, for the quota.
    pub fn live_bytes(&self) -> u64 {
        self.entries.values().filter(|entry| entry.is_live()).map(|entry| entry.blob.size).sum()
    }
}
