//! Entries whose envelope is not read yet, in the order in which they are to be read.

use cluster::{Entry, EntryId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Default)]
pub struct Unread {
    entries: BTreeMap<EntryId, (Duration, Entry)>,
    order: BTreeSet<(Duration, EntryId)>,
    /// Being read.
    reading: BTreeMap<EntryId, Entry>,
}

impl Unread {
    /// Those being read included.
    pub fn len(&self) -> usize {
        self.entries.len() + self.reading.len()
    }

    /// What is known of the entry, if it is here.
    pub fn entry_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.entries.get_mut(&id).map(|(_, entry)| entry).or_else(|| self.reading.get_mut(&id))
    }

    pub fn insert(&mut self, entry: Entry, due: Duration) {
        self.forget(entry.id);
        self.order.insert((due, entry.id));
        self.entries.insert(entry.id, (due, entry));
    }

    pub fn forget(&mut self, id: EntryId) {
        if let Some((due, _)) = self.entries.remove(&id) {
            self.order.remove(&(due, id));
        }
        self.reading.remove(&id);
    }

    /// The next to read, or when there will be one.
    pub fn next(&mut self, now: Duration) -> Result<Entry, Option<Duration>> {
        let Some(&(due, id)) = self.order.first() else { return Err(None) };
        if due > now {
            return Err(Some(due));
        }
        self.order.remove(&(due, id));
        let Some((_, entry)) = self.entries.remove(&id) else { return Err(Some(now)) };
        self.reading.insert(id, entry.clone());
        Ok(entry)
    }

    /// It was read: the entry as it is known by now. None if it was forgotten meanwhile.
    pub fn was_read(&mut self, id: EntryId) -> Option<Entry> {
        self.reading.remove(&id)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(|(_, entry)| entry).chain(self.reading.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::entry;

    #[test]
    fn the_earliest_is_read_first_and_once() {
        let mut unread = Unread::default();
        unread.insert(entry(1), Duration::from_secs(9));
        unread.insert(entry(2), Duration::from_secs(3));
        assert_eq!(unread.next(Duration::ZERO), Err(Some(Duration::from_secs(3))));
        assert_eq!(unread.next(Duration::from_secs(5)).unwrap().id, EntryId(2));
        assert_eq!(unread.next(Duration::from_secs(5)), Err(Some(Duration::from_secs(9))));
        assert_eq!(unread.was_read(EntryId(2)).unwrap().id, EntryId(2));
        assert_eq!(unread.len(), 1);
    }

    #[test]
    fn what_is_forgotten_while_it_is_read_stays_forgotten() {
        let mut unread = Unread::default();
        unread.insert(entry(1), Duration::ZERO);
        unread.next(Duration::ZERO).unwrap();
        assert!(unread.entry_mut(EntryId(1)).is_some());
        unread.forget(EntryId(1));
        assert!(unread.was_read(EntryId(1)).is_none() && unread.len() == 0);
    }
}
