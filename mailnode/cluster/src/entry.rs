//! An entry: one message's record in a fragment, made of last-writer-wins registers so that concurrent
//! changes merge instead of overwriting each other (DESIGN 4).
//!
//! [`Entry::merge`] is commutative, associative and idempotent: replicas that saw the same updates in any
//! order, any number of times, are equal (invariant 3). A tombstone beats everything, for ever (invariant 4).

use crate::clock::Timestamp;
use crate::ids::{BlobId, EntryId, FolderId, NodeId, UserId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A value and the stamp of its last write; the later write wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register<T> {
    pub value: T,
    pub at: Timestamp,
}

impl<T: Clone> Register<T> {
    pub const fn new(value: T, at: Timestamp) -> Self {
        Self { value, at }
    }

    fn merge(&mut self, other: &Self) {
        if other.at > self.at {
            self.clone_from(other);
        }
    }
}

/// A system flag or keyword (RFC 9051 2.3.2), each a register of its own (invariant 7).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Flag {
    Seen,
    Answered,
    Flagged,
    Deleted,
    Draft,
    Keyword(String),
}

impl fmt::Debug for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seen => f.write_str("\\Seen"),
            Self::Answered => f.write_str("\\Answered"),
            Self::Flagged => f.write_str("\\Flagged"),
            Self::Deleted => f.write_str("\\Deleted"),
            Self::Draft => f.write_str("\\Draft"),
            Self::Keyword(word) => f.write_str(word),
        }
    }
}

/// The key of a blob, encrypted for those who may read it. Opaque here; the node's `crypto` module makes it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey(pub Vec<u8>);

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKey({} bytes)", self.0.len())
    }
}

/// Where the body is and how to read it. Body and size never change; the key may be wrapped anew, for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    pub id: BlobId,
    /// Size of the message as the client sees it (RFC822.SIZE), in bytes.
    pub size: u64,
    pub key: Register<WrappedKey>,
}

impl BlobRef {
    /// The later wrapping wins. Should two ever have one stamp, the greater bytes do, so that all agree.
    fn merge(&mut self, other: &Self) {
        if (other.key.at, &other.key.value.0) > (self.key.at, &self.key.value.0) {
            self.key.clone_from(&other.key);
        }
    }
}

/// The folder a message is in, and its UID there. The UID belongs to the write of the folder register it was
/// given for: a move drops it, and of two UIDs given for the same write (two managers had each indexed the
/// message) the higher wins and the lower is reported as gone (invariant 6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    pub folder: FolderId,
    pub at: Timestamp,
    pub uid: Option<Uid>,
}

/// A UID (1..2^32) and when a manager gave it; ordered by the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Uid {
    pub number: u32,
    pub assigned: Timestamp,
}

impl Location {
    fn merge(&mut self, other: &Self) {
        match other.at.cmp(&self.at) {
            std::cmp::Ordering::Greater => self.clone_from(other),
            std::cmp::Ordering::Equal => self.uid = self.uid.max(other.uid),
            std::cmp::Ordering::Less => {}
        }
    }
}

/// One message of one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub id: EntryId,
    pub user: UserId,
    pub blob: BlobRef,
    /// RFC 9051 2.3.3; Unix seconds.
    pub internal_date: i64,
    pub location: Location,
    pub flags: BTreeMap<Flag, Register<bool>>,
    /// IMAP MODSEQ (RFC 7162); 0 until a manager has indexed the entry. Never goes back.
    pub modseq: u64,
    /// The nodes that store this entry and its blob, sorted.
    pub replicas: Register<Vec<NodeId>>,
    /// The tombstone: since when the message is gone. Kept for one and a half times `tombstoneLifetimeSeconds`.
    pub expunged: Option<Timestamp>,
}

impl Entry {
    /// Joins what another replica knows. Both must be versions of the same entry.
    /// Returns true if this version changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        debug_assert_eq!((self.id, self.user), (other.id, other.user));
        let before = self.clone();
        self.blob.merge(&other.blob);
        self.location.merge(&other.location);
        for (flag, register) in &other.flags {
            match self.flags.get_mut(flag) {
                Some(mine) => mine.merge(register),
                None => {
                    self.flags.insert(flag.clone(), register.clone());
                }
            }
        }
        self.modseq = self.modseq.max(other.modseq);
        self.replicas.merge(&other.replicas);
        self.expunged = match (self.expunged, other.expunged) {
            (Some(mine), Some(theirs)) => Some(mine.min(theirs)),
            (mine, theirs) => mine.or(theirs),
        };
        *self != before
    }

    pub fn has_flag(&self, flag: &Flag) -> bool {
        self.flags.get(flag).is_some_and(|register| register.value)
    }

    pub fn set_flag(&mut self, flag: Flag, value: bool, at: Timestamp) {
        let register = Register::new(value, at);
        self.flags.entry(flag).and_modify(|mine| mine.merge(&register)).or_insert(register);
    }

    /// The flags that are set, in order.
    pub fn flags_set(&self) -> impl Iterator<Item = &Flag> {
        self.flags.iter().filter(|(_, register)| register.value).map(|(flag, _)| flag)
    }

    /// The replicas but this one.
    pub fn other_replicas(&self, node: NodeId) -> Vec<NodeId> {
        self.replicas.value.iter().copied().filter(|&replica| replica != node).collect()
    }

    pub const fn is_live(&self) -> bool {
        self.expunged.is_none()
    }

    /// The newest stamp in the entry, for [`crate::HybridClock::observe`].
    pub fn latest(&self) -> Timestamp {
        let uid = self.location.uid.map(|uid| uid.assigned);
        let modseq = Timestamp { ticks: self.modseq, node: NodeId(0) };
        self.flags
            .values()
            .map(|register| register.at)
            .chain(uid)
            .chain(self.expunged)
            .chain([self.blob.key.at])
            .fold(self.location.at.max(self.replicas.at).max(modseq), Timestamp::max)
    }

    /// Names this exact state: two versions with one digest are equal. What a peer acknowledges, the update
    /// log retires, and anti-entropy compares.
    pub fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        // Writing to a hasher cannot fail, and every field of an entry can be encoded.
        if postcard::to_io(self, &mut hasher).is_err() {
            return 0;
        }
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn stamp(ticks: u64, node: u64) -> Timestamp {
        Timestamp { ticks, node: NodeId(node) }
    }

    pub(crate) fn entry(id: u128, at: Timestamp) -> Entry {
        Entry {
            id: EntryId(id),
            user: UserId(7),
            blob: BlobRef {
                id: BlobId([3; 32]),
                size: 10,
                key: Register::new(WrappedKey(vec![1, 2, 3]), at),
            },
            internal_date: 1_700_000_000,
            location: Location { folder: FolderId::INBOX, at, uid: None },
            flags: BTreeMap::new(),
            modseq: 0,
            replicas: Register::new(vec![NodeId(1), NodeId(2)], at),
            expunged: None,
        }
    }

    /// A small deterministic generator, so that the laws are tried on many histories.
    struct Random(u64);
    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }

    /// Stamps are unique per (ticks, node) and kind of write, as a real clock makes them.
    fn random_version(random: &mut Random) -> Entry {
        let mut version = entry(1, stamp(1, 1));
        for _ in 0..random.below(6) {
            let ticks = 2 + random.below(6);
            let at = stamp(ticks, 1 + random.below(2));
            match random.below(7) {
                0 => version.set_flag(Flag::Seen, ticks & 1 == 0, at),
                1 => version.set_flag(Flag::Keyword("x".into()), ticks & 2 == 0, at),
                2 => version.location.merge(&Location { folder: FolderId(ticks as u32), at, uid: None }),
                3 => {
                    let number = random.below(9) as u32;
                    let uid = Uid { number, assigned: stamp(number.into(), 1) };
                    version.location.uid = version.location.uid.max(Some(uid));
                }
                4 => version.modseq = version.modseq.max(random.below(9)),
                5 => {
                    // Also two wrappings with one stamp.
                    let key = WrappedKey(vec![random.below(3) as u8]);
                    let newer = BlobRef { key: Register::new(key, at), ..version.blob.clone() };
                    version.blob.merge(&newer);
                }
                _ => version.expunged = version.expunged.or(Some(at)),
            }
        }
        version
    }

    fn joined(a: &Entry, b: &Entry) -> Entry {
        let mut out = a.clone();
        out.merge(b);
        out
    }

    #[test]
    fn merge_is_commutative_associative_and_idempotent() {
        let mut random = Random(42);
        for _ in 0..5_000 {
            let (a, b, c) =
                (random_version(&mut random), random_version(&mut random), random_version(&mut random));
            assert_eq!(joined(&a, &b), joined(&b, &a));
            assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
            assert_eq!(joined(&a, &a), a);
            assert_eq!(joined(&joined(&a, &b), &b), joined(&a, &b));
        }
    }

    #[test]
    fn concurrent_changes_of_different_flags_both_survive() {
        let mut one = entry(1, stamp(1, 1));
        let mut two = one.clone();
        one.set_flag(Flag::Seen, true, stamp(5, 1));
        two.set_flag(Flag::Flagged, true, stamp(4, 2));
        one.merge(&two);
        assert!(one.has_flag(&Flag::Seen) && one.has_flag(&Flag::Flagged));
    }

    #[test]
    fn of_one_flag_the_later_write_wins_whatever_the_order() {
        let mut one = entry(1, stamp(1, 1));
        one.set_flag(Flag::Seen, false, stamp(6, 1));
        one.set_flag(Flag::Seen, true, stamp(5, 1));
        assert!(!one.has_flag(&Flag::Seen));
    }

    #[test]
    fn the_later_wrapping_of_a_key_wins_whatever_the_order() {
        let old = entry(1, stamp(1, 1));
        let mut new = old.clone();
        new.blob.key = Register::new(WrappedKey(vec![9]), stamp(5, 2));
        assert_eq!(joined(&old, &new), new);
        assert_eq!(joined(&new, &old), new);
        assert_eq!(new.latest(), stamp(5, 2));
    }

    #[test]
    fn a_move_drops_the_uid_of_the_old_folder() {
        let mut here = entry(1, stamp(1, 1));
        here.location.uid = Some(Uid { number: 5, assigned: stamp(2, 1) });
        let mut moved = here.clone();
        moved.location = Location { folder: FolderId(2), at: stamp(9, 2), uid: None };
        here.merge(&moved);
        assert_eq!(here.location.uid, None);
        assert_eq!(here.location.folder, FolderId(2));
    }

    #[test]
    fn the_digest_tells_versions_apart() {
        let one = entry(1, stamp(1, 1));
        let mut two = one.clone();
        assert_eq!(one.digest(), two.digest());
        two.set_flag(Flag::Seen, true, stamp(2, 1));
        assert_ne!(one.digest(), two.digest());
    }
}
