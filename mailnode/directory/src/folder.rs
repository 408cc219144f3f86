//! A folder of a user, its name, and the numbers that belong to it.

use cluster::mailbox::{DIVISION_MEMORY, Reservation};
use cluster::{FolderId, Timestamp, UidBlock};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Separates the levels of a folder's name.
pub const SEPARATOR: char = '/';
pub const INBOX: &str = "INBOX";
const NAME_BYTES: usize = 512;
const LEVELS: usize = 32;
/// UID blocks remembered per folder; see [`Folder::reserve`].
const BLOCKS: usize = 64;
const RECENT_BLOCKS: usize = 8;
const BLOCK_MEMORY: Duration = Duration::from_secs(24 * 3600);

/// What a folder is for (RFC 6154 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SpecialUse {
    Sent,
    Drafts,
    Trash,
    Junk,
    Archive,
}

impl SpecialUse {
    pub const ALL: [Self; 5] = [Self::Sent, Self::Drafts, Self::Trash, Self::Junk, Self::Archive];

    /// The name of the folder that an account gets for it.
    pub const fn folder_name(self) -> &'static str {
        match self {
            Self::Sent => "Sent",
            Self::Drafts => "Drafts",
            Self::Trash => "Trash",
            Self::Junk => "Junk",
            Self::Archive => "Archive",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    pub id: FolderId,
    pub name: String,
    pub special_use: Option<SpecialUse>,
    /// Never 0; no two folders of a user ever had the same (RFC 9051 2.3.1.1).
    pub uid_validity: u32,
    /// Blocks of UIDs that were reserved, lowest first, as far as they are remembered.
    pub uid_blocks: Vec<UidBlock>,
    /// The first UID that nobody reserved.
    pub next_uid: u32,
}

/// The folder has no UIDs left: 4 billion were used (RFC 9051 2.3.1.1: then UIDVALIDITY would have to change).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the folder has no UIDs left")]
pub struct UidsUsedUp;

impl Folder {
    pub(crate) fn new(id: FolderId, name: &str, special_use: Option<SpecialUse>, uid_validity: u32) -> Self {
        let name = name.to_owned();
        Self { id, name, special_use, uid_validity, uid_blocks: Vec::new(), next_uid: 1 }
    }

    /// Reserves UIDs above all earlier ones.
    ///
    /// Blocks are remembered so that a number from a lower block that the holder of a higher one had not seen is
    /// known to be stale (`cluster::mailbox`). What two managers numbered at once turns up when they meet
    /// again; after a day it has, and only the newest few blocks are kept. Those of a division tell for thirty days what
    /// clients may have missed in it (`cluster::mailbox::certainly_told`); who was away for longer is told everything.
    ///
    /// None, and nothing is reserved, if somebody reserved some of which the asker did not know.
    ///
    /// # Errors
    /// [`UidsUsedUp`].
    pub fn reserve(&mut self, asked: &Reservation) -> Result<Option<UidBlock>, UidsUsedUp> {
        let Reservation { count, at, after, .. } = *asked;
        let free = self.next_uid.max(1);
        if after.is_some_and(|after| free > after) {
            return Ok(None);
        }
        let first = free.max(after.unwrap_or(free));
        let last = first.checked_add(count.max(1) - 1).filter(|last| *last < u32::MAX).ok_or(UidsUsedUp)?;
        let block = UidBlock { first, last, reserved: at, known: asked.known.clone() };
        self.uid_blocks.push(block.clone());
        self.next_uid = last + 1;
        while self.uid_blocks.len() > RECENT_BLOCKS && self.forget_block(at) {}
        Ok(Some(block))
    }

    /// Forgets the oldest block that is old enough, or one too many.
    fn forget_block(&mut self, now: Timestamp) -> bool {
        let blocks = &self.uid_blocks;
        let is_divided = |at: usize| blocks.get(at).is_some_and(|block| !block.known.unread.is_empty());
        let of_division = |at: &usize| is_divided(*at) || is_divided(at + 1) || *at > 0 && is_divided(at - 1);
        let older = |at: &usize, memory: Duration| {
            let age = now.unix_millis().saturating_sub(blocks[*at].reserved.unix_millis());
            u128::from(age) > memory.as_millis()
        };
        let mut old = (0..blocks.len() - RECENT_BLOCKS)
            .filter(|at| older(at, if of_division(at) { DIVISION_MEMORY } else { BLOCK_MEMORY }));
        let forgotten = old.next().or_else(|| {
            let too_many = blocks.len() > BLOCKS;
            too_many.then(|| (0..blocks.len() - RECENT_BLOCKS).find(|at| !of_division(at)).unwrap_or(0))
        });
        forgotten.map(|at| self.uid_blocks.remove(at)).is_some()
    }
}

/// Why a name is no folder's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a folder's name has 1 to 512 bytes")]
    Length,
    #[error("a folder's name has no empty level")]
    EmptyLevel,
    #[error("a folder's name has at most 32 levels")]
    TooDeep,
    #[error("a folder's name has no control characters, '*' or '%'")]
    Characters,
}

/// The one spelling of a folder's name: a first level `inbox` in any case is INBOX (RFC 9051 5.1), and the
/// separator at the end by which a client says that it will make inferior folders (6.3.4) is gone.
///
/// # Errors
/// Says what is wrong with it.
pub fn normal_name(name: &str) -> Result<String, NameError> {
    let name = name.strip_suffix(SEPARATOR).unwrap_or(name);
    if !(1..=NAME_BYTES).contains(&name.len()) {
        return Err(NameError::Length);
    }
    if name.chars().any(|c| c.is_control() || matches!(c, '*' | '%' | '\u{2028}' | '\u{2029}')) {
        return Err(NameError::Characters);
    }
    if name.split(SEPARATOR).any(|level| level.trim().is_empty()) {
        return Err(NameError::EmptyLevel);
    }
    if name.split(SEPARATOR).count() > LEVELS {
        return Err(NameError::TooDeep);
    }
    let (first, rest) = name.split_once(SEPARATOR).map_or((name, None), |(first, rest)| (first, Some(rest)));
    if !first.eq_ignore_ascii_case(INBOX) {
        return Ok(name.to_owned());
    }
    Ok(rest.map_or(INBOX.to_owned(), |rest| format!("{INBOX}{SEPARATOR}{rest}")))
}

/// The names of the folders above, outermost first.
pub fn superiors(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices(SEPARATOR).filter_map(|(at, _)| name.get(..at))
}

/// True if `name` is below `above`.
pub fn is_inferior(name: &str, above: &str) -> bool {
    name.strip_prefix(above).is_some_and(|rest| rest.starts_with(SEPARATOR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::NodeId;
    use cluster::mailbox::certainly_told;

    const DAY: u64 = 24 * 3600 * 1000;

    fn at(millis: u64) -> Timestamp {
        Timestamp { ticks: millis << 16, node: NodeId(1) }
    }

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(normal_name("inBox").unwrap(), "INBOX");
        assert_eq!(normal_name("inbox/Lists").unwrap(), "INBOX/Lists");
        assert_eq!(normal_name("Lists/").unwrap(), "Lists");
        assert_eq!(normal_name("Inboxes").unwrap(), "Inboxes");
        assert_eq!(normal_name("Büro/été").unwrap(), "Büro/été");
        for bad in
            ["", "/", "/a", "a//b", "a/ /b", "a\u{0}b", "a*", "50%", &"x".repeat(513), &"a/".repeat(33)]
        {
            assert!(normal_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reserved_uids_never_overlap_and_old_blocks_are_forgotten() {
        let mut folder = Folder::new(FolderId(2), "x", None, 7);
        let mut last = 0;
        for n in 0..200 {
            let block = folder.reserve(&Reservation::new(1_000, at(n * 1_000))).unwrap().unwrap();
            assert_eq!(block.first, last + 1);
            last = block.last;
            assert_eq!(folder.next_uid, last + 1);
        }
        assert_eq!(folder.uid_blocks.len(), BLOCKS);
        folder.reserve(&Reservation::new(1, at(10 * DAY))).unwrap();
        assert_eq!(folder.uid_blocks.len(), RECENT_BLOCKS);
        assert_eq!(folder.reserve(&Reservation::new(u32::MAX, at(0))), Err(UidsUsedUp));
    }

    #[test]
    fn a_division_is_remembered_for_longer() {
        let mut folder = Folder::new(FolderId(2), "x", None, 7);
        let mut divided = Reservation::new(1, at(200_000));
        divided.known.unread = vec![NodeId(4)];
        folder.reserve(&Reservation::new(1, at(100_000))).unwrap();
        folder.reserve(&divided).unwrap();
        for n in 1..2_900 {
            folder.reserve(&Reservation::new(1, at(n * DAY / 100))).unwrap();
        }
        let told = |folder: &Folder| certainly_told(&folder.uid_blocks, at(500_000).ticks);
        assert_eq!((folder.uid_blocks.len(), told(&folder)), (BLOCKS, at(70_000).ticks));
        folder.reserve(&Reservation::new(1, at(31 * DAY))).unwrap();
        assert_eq!((folder.uid_blocks.len(), told(&folder)), (RECENT_BLOCKS, 0));
    }
}
