//! One comparison with one peer, from the side that asks: what to ask next, and what differs.

use super::{DigestTree, PAGE_ITEMS};
use crate::entry::Entry;
use crate::ids::{Bucket, EntryId, UserId};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::VecDeque;

/// What one side says of an entry that is live there and names both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub user: UserId,
    pub entry: EntryId,
    pub digest: u64,
    /// Newest stamp in it, Unix milliseconds.
    pub at: u64,
}

impl Item {
    const fn key(&self) -> (UserId, EntryId) {
        (self.user, self.entry)
    }
}

impl From<&Entry> for Item {
    fn from(entry: &Entry) -> Self {
        let (digest, at) = (entry.digest(), entry.latest().unix_millis());
        Self { user: entry.user, entry: entry.id, digest, at }
    }
}

/// A bucket's items after some key, in order of user and id, at most [`PAGE_ITEMS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub items: Vec<Item>,
    /// There are others after these.
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Your digests of the nodes of this level below these of the level above ([`DigestTree::answer`]).
    Digests { level: u8, parents: Vec<u16> },
    /// Your items of this bucket after this one.
    Items { bucket: Bucket, after: Option<(UserId, EntryId)> },
}

/// An entry that is not the same on both sides. Which is newer is for the merge to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    pub user: UserId,
    pub entry: EntryId,
    /// Live here, and names both.
    pub here: bool,
    /// The same there.
    pub there: bool,
}

/// The peer's answer does not answer the question; the comparison ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer's answer does not fit the question")]
pub struct BadAnswer;

#[derive(Clone, Debug)]
enum State {
    Digests { level: u8, parents: Vec<u16> },
    Items { after: Option<(UserId, EntryId)> },
}

/// What is asked is decided by a snapshot of our digests: what changes meanwhile shows as a difference that is
/// none, or is found the next time.
#[derive(Clone, Debug)]
pub struct Comparison {
    mine: DigestTree,
    /// Entries that changed later are on their way in the update log. Unix milliseconds.
    settled_before: u64,
    state: State,
    /// Buckets that differ and have not been listed to their end; the first is being listed.
    buckets: VecDeque<Bucket>,
}

impl Comparison {
    /// `settled_before`, in Unix milliseconds: entries that changed later are not looked at. Usually [`crate::redelivery::GRACE`] ago.
    pub fn new(mine: DigestTree, settled_before: u64) -> Self {
        Self {
            mine,
            settled_before,
            state: State::Digests { level: 0, parents: Vec::new() },
            buckets: VecDeque::new(),
        }
    }

    /// What to ask the peer now; None when all that differed was listed.
    pub fn question(&self) -> Option<Question> {
        match &self.state {
            State::Digests { level, parents } => (*level == 0 || !parents.is_empty())
                .then(|| Question::Digests { level: *level, parents: parents.clone() }),
            State::Items { after } => {
                self.buckets.front().map(|&bucket| Question::Items { bucket, after: *after })
            }
        }
    }

    /// The answer to a question for digests.
    ///
    /// # Errors
    /// [`BadAnswer`] if it is none.
    pub fn digests(&mut self, theirs: &[u64]) -> Result<(), BadAnswer> {
        let State::Digests { level, parents } = &self.state else { return Err(BadAnswer) };
        let level = *level;
        let nodes = DigestTree::below(level, parents);
        if nodes.len() != theirs.len() {
            return Err(BadAnswer);
        }
        let differing = nodes.into_iter().zip(theirs);
        let differing = differing.filter(|(index, theirs)| self.mine.node(level, *index) != **theirs);
        let differing: Vec<u16> = differing.map(|(index, _)| index).collect();
        if level == DigestTree::LEAVES {
            self.buckets = differing.into_iter().map(Bucket).collect();
            self.state = State::Items { after: None };
        } else {
            self.state = State::Digests { level: level + 1, parents: differing };
        }
        Ok(())
    }

    /// The answer to a question for items, and our own answer to it. Returns what is to be repaired before the
    /// next question.
    ///
    /// # Errors
    /// [`BadAnswer`] if either is none.
    pub fn items(&mut self, mine: &Page, theirs: &Page) -> Result<Vec<Difference>, BadAnswer> {
        let State::Items { after } = self.state else { return Err(BadAnswer) };
        let bucket = *self.buckets.front().ok_or(BadAnswer)?;
        check(mine, bucket, after)?;
        check(theirs, bucket, after)?;
        // Beyond the end of an unfinished page we know one side only.
        let end = [mine, theirs].into_iter().filter(|page| page.more).filter_map(|page| page.items.last());
        let end = end.map(Item::key).min();
        let differences = self.differences(&mine.items, &theirs.items, end);
        match end {
            Some(end) => self.state = State::Items { after: Some(end) },
            None => {
                self.buckets.pop_front();
                self.state = State::Items { after: None };
            }
        }
        Ok(differences)
    }

    fn differences(&self, mine: &[Item], theirs: &[Item], end: Option<(UserId, EntryId)>) -> Vec<Difference> {
        let within = |item: &&Item| end.is_none_or(|end| item.key() <= end);
        let (mut mine, mut theirs) =
            (mine.iter().take_while(within).peekable(), theirs.iter().take_while(within).peekable());
        let mut differences = Vec::new();
        loop {
            let order = match (mine.peek(), theirs.peek()) {
                (Some(mine), Some(theirs)) => mine.key().cmp(&theirs.key()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return differences,
            };
            let here = if order.is_le() { mine.next() } else { None };
            let there = if order.is_ge() { theirs.next() } else { None };
            let same = here.map(|item| item.digest) == there.map(|item| item.digest);
            let settled = [here, there].into_iter().flatten().all(|item| item.at <= self.settled_before);
            if let Some(item) = here.or(there).filter(|_| !same && settled) {
                let (here, there) = (here.is_some(), there.is_some());
                differences.push(Difference { user: item.user, entry: item.entry, here, there });
            }
        }
    }
}

/// In order, of this bucket, after what was asked for, and of some use.
fn check(page: &Page, bucket: Bucket, after: Option<(UserId, EntryId)>) -> Result<(), BadAnswer> {
    let mut last = after;
    for item in &page.items {
        if last.is_some_and(|last| item.key() <= last) || Bucket::of_user(item.user) != bucket {
            return Err(BadAnswer);
        }
        last = Some(item.key());
    }
    if page.items.len() > PAGE_ITEMS || (page.more && page.items.is_empty()) {
        Err(BadAnswer)
    } else {
        Ok(())
    }
}
