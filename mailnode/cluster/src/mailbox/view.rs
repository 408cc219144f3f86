//! What sessions read from the index.

use super::MailboxIndex;
use crate::entry::Entry;
use crate::ids::FolderId;

/// A folder as it stands (RFC 9051 6.3.2).
#[derive(Clone, Debug)]
pub struct FolderView<'a> {
    pub uid_next: u32,
    pub highest_modseq: u64,
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
    /// The index does not reach back that far (it was rebuilt): compare with everything.
    Everything {
        messages: Vec<&'a Entry>,
    },
}

impl MailboxIndex {
    /// Looks at a folder without promising anything to anybody (STATUS).
    pub fn view(&self, folder: FolderId) -> FolderView<'_> {
        let (uid_next, highest_modseq) = self.marks(folder);
        let ids = self.folders.get(&folder).into_iter().flat_map(|index| index.by_uid.values());
        let messages = ids.filter_map(|id| self.entries.get(id)).collect();
        FolderView { uid_next, highest_modseq, messages }
    }

    /// UIDNEXT and HIGHESTMODSEQ of a folder.
    pub fn marks(&self, folder: FolderId) -> (u32, u64) {
        self.folders
            .get(&folder)
            .map_or((1, self.floor.max(1)), |index| (index.uid_next(), index.highest_modseq.max(1)))
    }

    /// Shows a folder to a session: from now on no message may appear below its highest UID.
    pub fn open(&mut self, folder: FolderId) -> FolderView<'_> {
        self.folder(folder).open();
        self.view(folder)
    }

    /// What a session that knows the folder up to a MODSEQ must still be told.
    pub fn changes_since(&mut self, folder: FolderId, modseq: u64) -> Changes<'_> {
        self.folder(folder).open();
        let Some(index) = self.folders.get(&folder) else {
            return Changes::Everything { messages: Vec::new() };
        };
        let messages = index.by_uid.values().filter_map(|id| self.entries.get(id));
        match index.departures_since(modseq) {
            Some(vanished) => {
                // A number may have left and, by another manager's merge, be back with the same message.
                let vanished = vanished.into_iter().filter(|number| !index.by_uid.contains_key(number));
                Changes::Delta {
                    vanished: vanished.collect(),
                    upserts: messages.filter(|entry| entry.modseq > modseq).collect(),
                }
            }
            None => Changes::Everything { messages: messages.collect() },
        }
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
