//! A mailbox fragment: the messages of one user that one node stores (Porcupine's term; PAPERS A2).
//! A mailbox is the union of its fragments, merged entry by entry.

use crate::entry::Entry;
use crate::ids::{EntryId, UserId};
use std::collections::BTreeMap;

/// All entries, tombstones included, of one user on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub user: UserId,
    entries: BTreeMap<EntryId, Entry>,
}

impl Fragment {
    pub const fn new(user: UserId) -> Self {
        Self { user, entries: BTreeMap::new() }
    }

    /// Joins a version of an entry. Entries of other users are ignored (invariant 8). True if it was news.
    pub fn absorb(&mut self, entry: Entry) -> bool {
        if entry.user != self.user {
            return false;
        }
        match self.entries.get_mut(&entry.id) {
            Some(mine) => mine.merge(&entry),
            None => {
                self.entries.insert(entry.id, entry);
                true
            }
        }
    }

    pub fn entry(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Flag;
    use crate::entry::tests::{entry, stamp};

    #[test]
    fn the_union_of_fragments_has_each_message_once_with_all_its_flags() {
        let (mut here, mut there) = (Fragment::new(UserId(7)), Fragment::new(UserId(7)));
        let mut message = entry(1, stamp(1, 1));
        here.absorb(message.clone());
        message.set_flag(Flag::Seen, true, stamp(2, 1));
        there.absorb(message);
        there.absorb(entry(2, stamp(1, 1)));
        for entry in there.entries() {
            here.absorb(entry.clone());
        }
        assert_eq!(here.len(), 2);
        assert!(here.entry(EntryId(1)).unwrap().has_flag(&Flag::Seen));
    }

    #[test]
    fn another_users_entry_is_not_taken() {
        let mut fragment = Fragment::new(UserId(8));
        assert!(!fragment.absorb(entry(1, stamp(1, 1))));
        assert!(fragment.is_empty());
    }
}
