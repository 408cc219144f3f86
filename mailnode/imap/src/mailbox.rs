//! The selected mailbox as this session has shown it to its client: the sequence numbers.
//!
//! Pure. Changes from the backend and from the session's own commands go in; [`Mailbox::untagged`] says which responses the client
//! must see. Invariants:
//! - sequence numbers change only when a response that says so comes out;
//! - EXPUNGE comes out only where RFC 9051 7.5.1 allows it; until then a message that is gone keeps its number;
//! - messages are ascending by UID, and none ever appears at or below a UID this session has known.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::backend::{Changes, Message, Shown, Snapshot, Token};
use crate::flags::Flags;
use crate::syntax::sequence::{Ranges, SequenceSet};

/// The most different keywords that FLAGS lists.
const MAX_LISTED_KEYWORDS: usize = 500;

#[derive(Debug)]
pub struct Mailbox<H> {
    pub folder: u32,
    pub name: String,
    pub read_only: bool,
    pub uid_validity: u32,
    pub uid_next: u32,
    pub highest_modseq: u64,
    pub token: Token,
    messages: Vec<Arc<Message<H>>>,
    /// The highest UID ever in `messages`.
    horizon: u32,
    /// Gone, but the client has not been told.
    vanished: BTreeSet<u32>,
    /// With flags the client has not been told.
    changed: BTreeSet<u32>,
    /// How many messages the client knows of.
    announced: usize,
    keywords: BTreeSet<String>,
    keywords_announced: bool,
    /// UIDs of the saved search result, `$` (RFC 5182), ascending.
    pub saved: Vec<u32>,
}

/// Something to tell the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untagged {
    Expunge(u32),
    /// Instead of EXPUNGE, with QRESYNC.
    Vanished(Vec<u32>),
    Exists(u32),
    /// The list of keywords grew.
    Flags,
    /// Flags of the message with that sequence number.
    Fetch(u32),
}

/// A sequence number beyond the last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchNumber;

/// The folder is not what it was: another UIDVALIDITY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidValidityChanged;

impl<H> Mailbox<H> {
    pub fn new(folder: u32, name: String, read_only: bool, snapshot: Snapshot<H>) -> Mailbox<H> {
        let mut messages = snapshot.messages;
        messages.sort_by_key(|message| message.uid);
        messages.dedup_by_key(|message| message.uid);
        let mut mailbox = Mailbox {
            folder,
            name,
            read_only,
            uid_validity: snapshot.uid_validity,
            uid_next: snapshot.uid_next,
            highest_modseq: snapshot.highest_modseq,
            token: snapshot.token,
            horizon: messages.last().map_or(0, |message| message.uid),
            vanished: BTreeSet::new(),
            changed: BTreeSet::new(),
            announced: messages.len(),
            keywords: BTreeSet::new(),
            keywords_announced: true,
            saved: Vec::new(),
            messages: Vec::new(),
        };
        for message in &messages {
            mailbox.learn_keywords(&message.flags);
        }
        mailbox.keywords_announced = true;
        mailbox.messages = messages;
        mailbox
    }

    /// The messages, by sequence number less one.
    pub fn messages(&self) -> &[Arc<Message<H>>] {
        &self.messages
    }

    /// The highest UID that the client was told of.
    pub fn highest_announced(&self) -> u32 {
        let last = self.announced.min(self.messages.len()).checked_sub(1);
        last.and_then(|last| self.messages.get(last)).map_or(0, |message| message.uid)
    }

    pub fn keywords(&self) -> impl Iterator<Item = &str> {
        self.keywords.iter().map(String::as_str)
    }

    fn position(&self, uid: u32) -> Option<usize> {
        self.messages.binary_search_by_key(&uid, |message| message.uid).ok()
    }

    /// The sequence number of a UID.
    pub fn sequence(&self, uid: u32) -> Option<u32> {
        self.position(uid).map(|position| position as u32 + 1)
    }

    pub fn message(&self, sequence: u32) -> Option<&Arc<Message<H>>> {
        self.messages.get((sequence as usize).checked_sub(1)?)
    }

    /// Whether the message is known to be gone, though the client was not told yet.
    pub fn is_vanished(&self, uid: u32) -> bool {
        self.vanished.contains(&uid)
    }

    /// The positions of a set, ascending. UIDs that are not there are left out (RFC 9051 6.4.9); a sequence number that is
    /// not there is an error, except that `1:*` is harmless in an empty mailbox.
    pub fn resolve(&self, set: &SequenceSet, uid: bool) -> Result<Vec<usize>, NoSuchNumber> {
        let Some(ranges) = self.ranges(set, uid) else {
            return Ok(self.saved.iter().filter_map(|uid| self.position(*uid)).collect());
        };
        let mut positions = Vec::new();
        for (first, last) in ranges.iter() {
            if uid {
                let start = self.messages.partition_point(|message| message.uid < first);
                let end = self.messages.partition_point(|message| message.uid <= last);
                positions.extend(start..end);
            } else if self.messages.is_empty() && set.has_star() {
                return Ok(positions);
            } else if last as usize > self.messages.len() {
                return Err(NoSuchNumber);
            } else {
                positions.extend(first.saturating_sub(1) as usize..last as usize);
            }
        }
        Ok(positions)
    }

    /// The ranges of a set with `*` put in; `None` for `$`.
    pub fn ranges(&self, set: &SequenceSet, uid: bool) -> Option<Ranges> {
        let largest = match uid {
            true => self.messages.last().map_or(0, |message| message.uid),
            false => self.messages.len() as u32,
        };
        set.resolve(largest)
    }

    fn learn_keywords(&mut self, flags: &Flags) {
        for keyword in flags.keywords() {
            if self.keywords.len() < MAX_LISTED_KEYWORDS && !self.keywords.contains(keyword) {
                self.keywords.insert(keyword.to_owned());
                self.keywords_announced = false;
            }
        }
    }

    /// What this session shows, but for what it knows to be gone.
    pub fn shown(&self) -> Shown {
        let uids = self.messages.iter().map(|message| message.uid);
        Shown {
            uids: uids.filter(|uid| !self.vanished.contains(uid)).collect(),
            highest_uid: self.horizon,
            highest_modseq: self.highest_modseq,
        }
    }

    /// Takes in what the backend says happened.
    pub fn apply(&mut self, changes: Changes<H>) -> Result<(), UidValidityChanged> {
        match changes {
            Changes::Delta(delta) => {
                let mut messages = delta.messages;
                messages.sort_by_key(|message| message.uid);
                messages.into_iter().for_each(|message| self.upsert(message));
                self.vanish(&delta.vanished);
                self.uid_next = self.uid_next.max(delta.uid_next);
                self.highest_modseq = self.highest_modseq.max(delta.highest_modseq);
                self.token = delta.token;
            }
            Changes::Fresh(snapshot) => {
                if snapshot.uid_validity != self.uid_validity {
                    return Err(UidValidityChanged);
                }
                let present: BTreeSet<u32> = snapshot.messages.iter().map(|message| message.uid).collect();
                let known = self.messages.iter().map(|message| message.uid);
                let gone: Vec<u32> = known.filter(|uid| !present.contains(uid)).collect();
                self.vanish(&gone);
                let mut messages = snapshot.messages;
                messages.sort_by_key(|message| message.uid);
                messages.into_iter().for_each(|message| self.upsert(message));
                self.uid_next = self.uid_next.max(snapshot.uid_next);
                self.highest_modseq = self.highest_modseq.max(snapshot.highest_modseq);
                self.token = snapshot.token;
            }
        }
        Ok(())
    }

    fn upsert(&mut self, message: Arc<Message<H>>) {
        self.learn_keywords(&message.flags);
        match self.position(message.uid) {
            Some(position) => {
                let Some(known) = self.messages.get_mut(position) else { return };
                if message.modseq < known.modseq {
                    return; // Older than what a command of ours has already shown.
                }
                if message.modseq != known.modseq || message.flags != known.flags {
                    self.changed.insert(message.uid);
                }
                *known = message;
            }
            None if message.uid > self.horizon => {
                self.horizon = message.uid;
                self.messages.push(message);
            }
            None if self.vanished.contains(&message.uid) => {}
            None => tracing::warn!(uid = message.uid, "message below a known UID is not shown"),
        }
    }

    /// Notes that messages are gone.
    pub fn vanish(&mut self, uids: &[u32]) {
        for uid in uids {
            if self.position(*uid).is_some() {
                self.vanished.insert(*uid);
            }
        }
    }

    /// Takes in the result of a STORE of this session. Returns the sequence number and the flags before.
    pub fn stored(&mut self, uid: u32, flags: Flags, modseq: u64) -> Option<(u32, Flags)>
    where
        H: Clone,
    {
        self.learn_keywords(&flags);
        self.highest_modseq = self.highest_modseq.max(modseq);
        let position = self.position(uid)?;
        let message = self.messages.get_mut(position)?;
        if modseq < message.modseq {
            return None;
        }
        let message = Arc::make_mut(message);
        let before = std::mem::replace(&mut message.flags, flags);
        message.modseq = modseq;
        Some((position as u32 + 1, before))
    }

    /// Whether there are keywords that FLAGS has not listed yet. It counts as listed from here on.
    pub fn take_new_keywords(&mut self) -> bool {
        !std::mem::replace(&mut self.keywords_announced, true)
    }

    /// The client has just been told this message's flags.
    pub fn told(&mut self, uid: u32) {
        self.changed.remove(&uid);
    }

    /// What the client must be told now. `expunge`: whether EXPUNGE may be sent here; `vanished`: send VANISHED instead of it.
    pub fn untagged(&mut self, expunge: bool, vanished: bool) -> Vec<Untagged> {
        let mut untagged = Vec::new();
        // New messages that were gone before the client heard of them never get a number.
        if !self.vanished.is_empty() && (expunge || self.announced < self.messages.len()) {
            let unknown = self.messages.split_off(self.announced.min(self.messages.len()));
            for message in unknown {
                if !self.vanished.remove(&message.uid) {
                    self.messages.push(message);
                }
            }
        }
        if expunge && !self.vanished.is_empty() {
            let gone = std::mem::take(&mut self.vanished);
            if vanished {
                untagged.push(Untagged::Vanished(gone.iter().copied().collect()));
            } else {
                // From the last one down, so that each number is right when it is sent.
                let numbers = gone.iter().rev().filter_map(|uid| self.sequence(*uid));
                untagged.extend(numbers.map(Untagged::Expunge));
            }
            self.announced = self.announced.saturating_sub(gone.len());
            self.messages.retain(|message| !gone.contains(&message.uid));
            self.saved.retain(|uid| !gone.contains(uid));
            self.changed.retain(|uid| !gone.contains(uid));
        }
        if self.announced != self.messages.len() {
            self.announced = self.messages.len();
            untagged.push(Untagged::Exists(self.announced as u32));
        }
        if self.take_new_keywords() {
            untagged.push(Untagged::Flags);
        }
        let changed = std::mem::take(&mut self.changed);
        let told = changed.iter().filter(|uid| !self.vanished.contains(uid));
        untagged.extend(told.filter_map(|uid| self.sequence(*uid)).map(Untagged::Fetch));
        untagged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Delta;
    use crate::flags::SystemFlag;

    fn message(uid: u32, modseq: u64, flags: Flags) -> Arc<Message<()>> {
        Arc::new(Message { uid, flags, modseq, size: 1, internal_date: 0, handle: () })
    }

    fn snapshot(uids: &[u32]) -> Snapshot<()> {
        let messages = uids.iter().map(|uid| message(*uid, 1, Flags::new())).collect();
        Snapshot { uid_validity: 7, uid_next: 100, highest_modseq: 1, token: Token(0, 1), messages }
    }

    fn mailbox(uids: &[u32]) -> Mailbox<()> {
        Mailbox::new(1, "INBOX".into(), false, snapshot(uids))
    }

    fn delta(messages: Vec<Arc<Message<()>>>, vanished: &[u32]) -> Changes<()> {
        let vanished = vanished.to_vec();
        Changes::Delta(Delta { uid_next: 100, highest_modseq: 9, token: Token(0, 2), messages, vanished })
    }

    fn seen() -> Flags {
        Flags::new().with(SystemFlag::Seen)
    }

    #[test]
    fn a_message_that_is_gone_keeps_its_number_until_expunge_is_allowed() {
        let mut mailbox = mailbox(&[10, 20, 30]);
        mailbox.apply(delta(vec![], &[10, 30, 99])).unwrap();
        assert_eq!(mailbox.untagged(false, false), []);
        assert_eq!(mailbox.sequence(20), Some(2));
        assert_eq!(mailbox.untagged(true, false), [Untagged::Expunge(3), Untagged::Expunge(1)]);
        assert_eq!(mailbox.sequence(20), Some(1));
        assert_eq!(mailbox.untagged(true, false), []);
    }

    #[test]
    fn new_messages_count_those_whose_expunge_is_held_back() {
        let mut mailbox = mailbox(&[10, 20]);
        mailbox.apply(delta(vec![message(40, 2, Flags::new())], &[10])).unwrap();
        assert_eq!(mailbox.untagged(false, false), [Untagged::Exists(3)]);
        assert_eq!(mailbox.untagged(true, false), [Untagged::Expunge(1)]);
        assert_eq!(mailbox.messages().len(), 2);
    }

    #[test]
    fn a_message_that_came_and_went_unseen_is_never_mentioned() {
        let mut mailbox = mailbox(&[10]);
        mailbox.apply(delta(vec![message(40, 2, Flags::new())], &[])).unwrap();
        mailbox.apply(delta(vec![], &[40])).unwrap();
        assert_eq!(mailbox.untagged(false, false), []);
        mailbox.apply(delta(vec![message(40, 2, Flags::new())], &[])).unwrap();
        assert_eq!(mailbox.untagged(true, false), [], "its UID is not used again");
    }

    #[test]
    fn flags_are_told_once() {
        let mut mailbox = mailbox(&[10, 20]);
        mailbox.apply(delta(vec![message(20, 5, seen())], &[])).unwrap();
        assert_eq!(mailbox.untagged(false, false), [Untagged::Fetch(2)]);
        mailbox.apply(delta(vec![message(20, 5, seen())], &[])).unwrap();
        assert_eq!(mailbox.untagged(false, false), []);
        mailbox.apply(delta(vec![message(20, 4, Flags::new())], &[])).unwrap();
        assert!(mailbox.message(2).unwrap().flags.contains(SystemFlag::Seen), "older news is ignored");
    }

    #[test]
    fn what_an_own_store_showed_is_not_told_again() {
        let mut mailbox = mailbox(&[10, 20]);
        assert_eq!(mailbox.stored(10, seen(), 5).unwrap(), (1, Flags::new()));
        mailbox.apply(delta(vec![message(10, 5, seen())], &[])).unwrap();
        assert_eq!(mailbox.untagged(true, false), []);
    }

    #[test]
    fn a_fresh_snapshot_is_compared_with_what_was_shown() {
        let mut mailbox = mailbox(&[10, 20, 30]);
        let mut fresh = snapshot(&[15, 20, 40]);
        fresh.messages[1] = message(20, 6, seen());
        mailbox.apply(Changes::Fresh(fresh)).unwrap();
        assert_eq!(
            mailbox.untagged(true, false),
            [Untagged::Expunge(3), Untagged::Expunge(1), Untagged::Exists(2), Untagged::Fetch(1)]
        );
        let uids: Vec<u32> = mailbox.messages().iter().map(|message| message.uid).collect();
        assert_eq!(uids, [20, 40], "15 is below a UID that was shown");
        let mut other = snapshot(&[1]);
        other.uid_validity = 8;
        assert_eq!(mailbox.apply(Changes::Fresh(other)), Err(UidValidityChanged));
    }

    #[test]
    fn qresync_clients_get_vanished() {
        let mut mailbox = mailbox(&[10, 20, 30]);
        mailbox.vanish(&[10, 20]);
        assert_eq!(mailbox.untagged(true, true), [Untagged::Vanished(vec![10, 20])]);
    }

    #[test]
    fn new_keywords_are_announced_once() {
        let mut mailbox = mailbox(&[10]);
        let mut flags = Flags::new();
        flags.insert_keyword("$Work").unwrap();
        mailbox.apply(delta(vec![message(10, 3, flags)], &[])).unwrap();
        assert_eq!(mailbox.untagged(false, false), [Untagged::Flags, Untagged::Fetch(1)]);
    }

    #[test]
    fn sets_are_resolved_against_what_was_shown() {
        let mailbox = mailbox(&[10, 20, 30]);
        let set = |ranges: &[(u32, u32)]| SequenceSet::Ranges(ranges.to_vec());
        assert_eq!(mailbox.resolve(&set(&[(1, 0)]), false), Ok(vec![0, 1, 2]));
        assert_eq!(mailbox.resolve(&set(&[(4, 4)]), false), Err(NoSuchNumber));
        assert_eq!(mailbox.resolve(&set(&[(11, 25)]), true), Ok(vec![1]));
        assert_eq!(mailbox.resolve(&set(&[(500, 0)]), true), Ok(vec![2]), "n:* has the last message");
        assert_eq!(mailbox.resolve(&set(&[(1, u32::MAX)]), true), Ok(vec![0, 1, 2]));
        let empty = self::mailbox(&[]);
        assert_eq!(empty.resolve(&set(&[(1, 1)]), false), Err(NoSuchNumber));
        assert_eq!(empty.resolve(&set(&[(1, 0)]), false), Ok(vec![]));
        assert_eq!(empty.resolve(&set(&[(1, 0)]), true), Ok(vec![]));
    }
}
