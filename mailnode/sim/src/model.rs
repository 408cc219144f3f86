//! What the clients know: which messages were acknowledged, what was tried, what sessions were shown. From it
//! follows what must be true; a violation found while the history runs is noted at once.

use cluster::mailbox::{Mark, Marks, Shown};
use cluster::{EntryId, Flag, FolderId, UserId};
use mailnode::wire::{FolderChanges, Message, Opened};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A broken promise, by the name of the invariant (DESIGN 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// A message by its number, for one recipient.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    pub acknowledged: bool,
    /// Somebody tried what may have removed it, or a copy of it.
    pub at_risk: bool,
    pub copies_tried: usize,
    /// A copy failed: it may have been shown for a while, and is taken back.
    pub copy_failed: bool,
}

/// Changes of one flag of one message.
#[derive(Clone, Debug, Default)]
pub struct FlagHistory {
    in_flight: usize,
    last: Option<bool>,
    /// Changes overlapped, or one may yet happen: nothing is known of the outcome.
    muddled: bool,
}

#[derive(Clone, Debug)]
pub struct Known {
    pub number: i64,
    pub expunge_acknowledged: bool,
    pub at_risk: bool,
    pub flags: BTreeMap<Flag, FlagHistory>,
}

#[derive(Clone, Debug, Default)]
pub struct Account {
    pub user: UserId,
    pub sent: BTreeMap<i64, Sent>,
    pub entries: BTreeMap<EntryId, Known>,
    /// Which message a UID of a folder and UIDVALIDITY names, whoever was shown it.
    uids: BTreeMap<(FolderId, u32, u32), EntryId>,
    /// Somebody tried to delete a folder, and what somebody tried to put into folders that may be deleted.
    deletes: bool,
    put: BTreeSet<i64>,
}

/// One session's view of one folder, kept by a client that stays offline for a while and syncs.
#[derive(Clone, Debug, Default)]
pub struct SeenFolder {
    pub uid_validity: u32,
    pub messages: BTreeMap<u32, Message>,
    ever: BTreeSet<u32>,
    pub highest_modseq: u64,
    pub mark: Mark,
}

impl SeenFolder {
    /// What the session says to a manager that does not know it.
    pub fn shown(&self) -> Shown {
        let highest = self.ever.last().copied().unwrap_or_default();
        Shown::new(self.messages.keys().copied(), highest, self.highest_modseq)
    }
}

#[derive(Default)]
pub struct Model {
    pub accounts: Vec<Account>,
    pub bodies: BTreeMap<i64, Vec<u8>>,
    pub violations: Vec<Violation>,
    pub acknowledged: usize,
    pub uncertain: usize,
}

impl Model {
    pub fn violate(&mut self, invariant: &'static str, what: String) {
        // One broken promise often breaks others; the first ones tell the story.
        if self.violations.len() < 20 {
            self.violations.push(Violation { invariant, what });
        }
    }

    /// A session was shown this message.
    pub fn shown(&mut self, account: usize, folder: FolderId, uid_validity: u32, message: &Message) {
        let Some(known) = self.accounts.get_mut(account) else { return };
        let number = message.internal_date;
        let user = known.user;
        if !known.sent.contains_key(&number) {
            self.violate("isolation", format!("{user} is shown message {number}, which was not sent to it"));
            return;
        }
        let first = known.uids.entry((folder, uid_validity, message.uid)).or_insert(message.entry);
        if *first != message.entry {
            let what = format!(
                "UID {} of folder {folder:?} of {user} names {} and {first}",
                message.uid, message.entry
            );
            self.violate("IMAP order", what);
            return;
        }
        known.entries.entry(message.entry).or_insert_with(|| Known {
            number,
            expunge_acknowledged: false,
            at_risk: false,
            flags: BTreeMap::new(),
        });
    }

    /// A session began, and opened a folder of which the client remembers something.
    pub fn reopened(&mut self, account: usize, folder: FolderId, seen: &mut SeenFolder, opened: &Opened) {
        // Only within a session does HIGHESTMODSEQ never go back; `missed_changes` is what clients rely on.
        seen.highest_modseq = 0;
        self.opened(account, folder, seen, opened);
    }

    fn opened(&mut self, account: usize, folder: FolderId, seen: &mut SeenFolder, opened: &Opened) {
        if seen.uid_validity != opened.uid_validity {
            *seen = SeenFolder { uid_validity: opened.uid_validity, ..SeenFolder::default() };
        }
        seen.messages.clear();
        self.news(account, folder, seen, &opened.messages, opened.marks);
    }

    pub fn synced(
        &mut self,
        account: usize,
        folder: FolderId,
        seen: &mut SeenFolder,
        changes: &FolderChanges,
    ) {
        match changes {
            FolderChanges::Everything(all) => self.opened(account, folder, seen, all),
            FolderChanges::Unknown => {}
            FolderChanges::Delta { marks, upserts, vanished } => {
                for uid in vanished {
                    seen.messages.remove(uid);
                }
                self.news(account, folder, seen, upserts, *marks);
            }
        }
    }

    fn news(
        &mut self,
        account: usize,
        folder: FolderId,
        seen: &mut SeenFolder,
        messages: &[Message],
        Marks { highest_modseq, mark, .. }: Marks,
    ) {
        if highest_modseq < seen.highest_modseq {
            let what =
                format!("MODSEQ of folder {folder:?} went from {} to {highest_modseq}", seen.highest_modseq);
            self.violate("IMAP order", what);
        }
        seen.highest_modseq = seen.highest_modseq.max(highest_modseq);
        seen.mark = mark;
        let before = seen.ever.last().copied().unwrap_or_default();
        for message in messages {
            if message.uid <= before && !seen.ever.contains(&message.uid) {
                let what = format!(
                    "UID {} of folder {folder:?} (message {}) appeared below UID {before}",
                    message.uid, message.internal_date
                );
                self.violate("IMAP order", what);
            }
            self.shown(account, folder, seen.uid_validity, message);
            seen.messages.insert(message.uid, message.clone());
        }
        seen.ever.extend(messages.iter().map(|message| message.uid));
    }

    /// Somebody tries what may remove this message.
    pub fn expunge_begins(&mut self, account: usize, entry: EntryId) {
        let Some(known) = self.accounts.get_mut(account) else { return };
        let Some(message) = known.entries.get_mut(&entry) else { return };
        message.at_risk = true;
        let number = message.number;
        if let Some(sent) = known.sent.get_mut(&number) {
            sent.at_risk = true;
        }
    }

    pub fn expunge_acknowledged(&mut self, account: usize, entry: EntryId) {
        let known = self.accounts.get_mut(account).and_then(|account| account.entries.get_mut(&entry));
        if let Some(message) = known {
            message.expunge_acknowledged = true;
        }
    }

    /// Somebody tries to put a message, a copy of one or a moved one into a folder that may be deleted.
    pub fn put_begins(&mut self, account: usize, number: i64) {
        let Some(known) = self.accounts.get_mut(account) else { return };
        known.put.insert(number);
        if known.deletes {
            known.endanger(&BTreeSet::from([number]));
        }
    }

    pub fn deletion_begins(&mut self, account: usize) {
        let Some(known) = self.accounts.get_mut(account) else { return };
        known.deletes = true;
        let numbers = known.put.clone();
        known.endanger(&numbers);
    }

    pub fn flags_begin(&mut self, account: usize, entry: EntryId, flags: &[Flag]) {
        let Some(message) = self.message(account, entry) else { return };
        for flag in flags {
            let history = message.flags.entry(flag.clone()).or_default();
            history.muddled |= history.in_flight > 0;
            history.in_flight += 1;
        }
    }

    /// `value`: what was acknowledged; None if the change may or may not have happened.
    pub fn flags_end(&mut self, account: usize, entry: EntryId, flags: &[Flag], value: Option<bool>) {
        let Some(message) = self.message(account, entry) else { return };
        for flag in flags {
            let history = message.flags.entry(flag.clone()).or_default();
            history.in_flight = history.in_flight.saturating_sub(1);
            history.muddled |= value.is_none();
            history.last = value;
        }
    }

    fn message(&mut self, account: usize, entry: EntryId) -> Option<&mut Known> {
        self.accounts.get_mut(account)?.entries.get_mut(&entry)
    }

    /// What must be true of an account, whose folders are these, when all is over. `number`: which account.
    pub fn check(&mut self, number: usize, folders: &BTreeMap<FolderId, Opened>) {
        let Some(account) = self.accounts.get(number) else { return };
        let mut broken: Vec<(&'static str, String)> = Vec::new();
        let user = account.user;
        let mut by_number: BTreeMap<i64, usize> = BTreeMap::new();
        let mut by_entry: BTreeMap<EntryId, &Message> = BTreeMap::new();
        for (folder, opened) in folders {
            for message in &opened.messages {
                *by_number.entry(message.internal_date).or_default() += 1;
                if by_entry.insert(message.entry, message).is_some() {
                    broken.push((
                        "no false duplicates",
                        format!("{} is in two folders, {folder:?} one", message.entry),
                    ));
                }
            }
        }
        for (number, sent) in &account.sent {
            let count = by_number.get(number).copied().unwrap_or_default();
            if sent.acknowledged && !sent.at_risk && count == 0 {
                broken.push(("durable", format!("message {number} to {user} is lost")));
            }
            if count > 1 + sent.copies_tried {
                broken.push(("no false duplicates", format!("message {number} is {count} times at {user}")));
            }
        }
        for (id, known) in &account.entries {
            let there = by_entry.get(id);
            let sent = account.sent.get(&known.number);
            let endangered = known.at_risk
                || sent.is_none_or(|sent| sent.at_risk || sent.copy_failed || !sent.acknowledged);
            if there.is_none() && !endangered {
                broken.push((
                    "durable",
                    format!("{id} (message {}) of {user} was shown and is lost", known.number),
                ));
            }
            let Some(there) = there else { continue };
            if known.expunge_acknowledged {
                broken.push((
                    "no resurrection",
                    format!("{id} (message {}) of {user} was expunged", known.number),
                ));
            }
            for (flag, history) in &known.flags {
                let FlagHistory { in_flight: 0, last: Some(value), muddled: false } = history else {
                    continue;
                };
                if there.flags.contains(flag) != *value {
                    let what =
                        format!("{flag:?} of {id} (message {}) of {user} is not {value}", known.number);
                    broken.push(("flags merge", what));
                }
            }
        }
        for (invariant, what) in broken {
            self.violate(invariant, what);
        }
    }
}

impl Account {
    pub fn new(user: UserId) -> Self {
        Self { user, ..Self::default() }
    }

    fn endanger(&mut self, numbers: &BTreeSet<i64>) {
        for number in numbers {
            if let Some(sent) = self.sent.get_mut(number) {
                sent.at_risk = true;
            }
        }
    }
}

/// A change that a client which comes back would miss, since it asks for what has a higher MODSEQ than it
/// remembers (RFC 7162 3.1.4.1), and is given what has a higher one than it was certainly `told`.
pub fn missed_change(seen: &SeenFolder, opened: &Opened, told: u64) -> Option<String> {
    let missed = opened.messages.iter().find(|message| {
        let known = seen.messages.get(&message.uid);
        known.is_some_and(|known| known.flags != message.flags) && message.modseq <= told
    })?;
    let (uid, modseq, highest) = (missed.uid, missed.modseq, seen.highest_modseq);
    Some(format!(
        "UID {uid} changed with MODSEQ {modseq}, and the client, which knows {highest}, is told of changes after {told}"
    ))
}

/// Whether a client that only ever synced sees what a new one is shown.
pub fn same_view(seen: &SeenFolder, opened: &Opened) -> Result<(), String> {
    let shown: BTreeMap<u32, &Message> =
        opened.messages.iter().map(|message| (message.uid, message)).collect();
    for (uid, message) in &shown {
        match seen.messages.get(uid) {
            None => return Err(format!("UID {uid} was not announced")),
            Some(known) if known.flags != message.flags => {
                return Err(format!(
                    "flags of UID {uid}: {:?} announced, {:?} true",
                    known.flags, message.flags
                ));
            }
            Some(_) => {}
        }
    }
    match seen.messages.keys().find(|uid| !shown.contains_key(uid)) {
        Some(uid) => Err(format!("UID {uid} was not reported gone")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{BlobId, BlobRef, Register, Timestamp, WrappedKey};

    const INBOX: FolderId = FolderId::INBOX;

    fn message(number: i64, uid: u32) -> Message {
        Message {
            uid,
            entry: EntryId::new(number as u64, u128::from(uid)),
            flags: Vec::new(),
            modseq: 1,
            internal_date: number,
            blob: BlobRef {
                id: BlobId::of(b""),
                size: 0,
                key: Register::new(WrappedKey(Vec::new()), Timestamp::ZERO),
            },
            replicas: Vec::new(),
        }
    }

    fn opened(messages: Vec<Message>) -> Opened {
        let marks = Marks { uid_next: 100, highest_modseq: 1, mark: Mark { index: 1, sequence: 1 } };
        Opened { uid_validity: 1, marks, messages, complete: true }
    }

    /// One account that was sent messages 1 and 2, both acknowledged and shown.
    fn model() -> Model {
        let mut model = Model { accounts: vec![Account::new(UserId(1))], ..Model::default() };
        for number in [1, 2] {
            let sent = Sent { acknowledged: true, ..Sent::default() };
            model.accounts[0].sent.insert(number, sent);
        }
        let mut seen = SeenFolder::default();
        model.reopened(0, INBOX, &mut seen, &opened(vec![message(1, 1), message(2, 2)]));
        model
    }

    fn found(mut model: Model, messages: Vec<Message>) -> Vec<&'static str> {
        model.check(0, &BTreeMap::from([(INBOX, opened(messages))]));
        model.violations.iter().map(|violation| violation.invariant).collect()
    }

    #[test]
    fn all_that_was_sent_breaks_no_promise() {
        assert_eq!(found(model(), vec![message(1, 1), message(2, 2)]), [""; 0]);
    }

    #[test]
    fn a_lost_message_is_found_unless_somebody_tried_to_expunge_it() {
        assert_eq!(found(model(), vec![message(1, 1)]), ["durable", "durable"]);
        let mut tried = model();
        tried.expunge_begins(0, message(2, 2).entry);
        assert_eq!(found(tried, vec![message(1, 1)]), [""; 0]);
    }

    #[test]
    fn a_message_that_is_back_is_found() {
        let mut expunged = model();
        expunged.expunge_begins(0, message(2, 2).entry);
        expunged.expunge_acknowledged(0, message(2, 2).entry);
        assert_eq!(found(expunged, vec![message(1, 1), message(2, 2)]), ["no resurrection"]);
    }

    #[test]
    fn a_message_that_came_twice_is_found() {
        let twice = vec![message(1, 1), message(2, 2), message(2, 3)];
        assert_eq!(found(model(), twice), ["no false duplicates"]);
    }

    #[test]
    fn a_lost_flag_is_found_unless_its_changes_overlapped() {
        let entry = message(2, 2).entry;
        let mut model_of_one = model();
        model_of_one.flags_begin(0, entry, &[Flag::Seen]);
        model_of_one.flags_end(0, entry, &[Flag::Seen], Some(true));
        assert_eq!(found(model_of_one, vec![message(1, 1), message(2, 2)]), ["flags merge"]);

        let mut overlapping = model();
        overlapping.flags_begin(0, entry, &[Flag::Seen]);
        overlapping.flags_begin(0, entry, &[Flag::Seen]);
        overlapping.flags_end(0, entry, &[Flag::Seen], Some(false));
        overlapping.flags_end(0, entry, &[Flag::Seen], Some(true));
        assert_eq!(found(overlapping, vec![message(1, 1), message(2, 2)]), [""; 0]);
    }

    #[test]
    fn somebody_elses_message_a_reused_uid_and_one_below_those_shown_are_found() {
        let mut model = model();
        let mut seen = SeenFolder::default();
        model.reopened(0, INBOX, &mut seen, &opened(vec![message(3, 3)]));
        model.reopened(0, INBOX, &mut seen, &opened(vec![message(1, 2)]));
        let invariants: Vec<_> = model.violations.iter().map(|violation| violation.invariant).collect();
        assert_eq!(invariants, ["isolation", "IMAP order", "IMAP order"]);
    }
}
