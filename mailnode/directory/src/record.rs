//! Records of the user profile database: how they are named and versioned, and the trait that the embedded
//! database and TiKV both fit behind (DESIGN 8): one key at a time, compare-and-set by version, a random token
//! by which a retry knows its own write again.

use crate::address::Address;
use bytes::Bytes;
use cluster::{Bucket, ListId, UserId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a record is about. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Profile,
    Address,
    Domain,
    /// Some members of a mailing list.
    Members,
}

impl Kind {
    pub const fn byte(self) -> u8 {
        match self {
            Self::Profile => b'p',
            Self::Address => b'a',
            Self::Domain => b'd',
            Self::Members => b'm',
        }
    }

    const fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            b'p' => Some(Self::Profile),
            b'a' => Some(Self::Address),
            b'd' => Some(Self::Domain),
            b'm' => Some(Self::Members),
            _ => None,
        }
    }
}

/// A record's key: its bucket (two bytes, big endian), its kind (one byte), its id, which is what the bucket is
/// the hash of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(Bytes);

/// Ids are addresses at the longest.
const ID_LIMIT: usize = 512;

impl Key {
    pub fn profile(user: UserId) -> Self {
        Self::new(Bucket::of_user(user), Kind::Profile, &user.to_bytes())
    }

    pub fn address(address: &Address) -> Self {
        let id = address.key();
        Self::new(Bucket::of_bytes(id.as_bytes()), Kind::Address, id.as_bytes())
    }

    /// `domain` in its normal form.
    pub fn domain(domain: &str) -> Self {
        Self::new(Bucket::of_bytes(domain.as_bytes()), Kind::Domain, domain.as_bytes())
    }

    /// Of a mailing list, by its id: the members of one shard.
    pub fn members(list: ListId, shard: u8) -> Self {
        let mut id = list.to_bytes().to_vec();
        id.push(shard);
        Self::new(Bucket::of_bytes(&id), Kind::Members, &id)
    }

    fn new(bucket: Bucket, kind: Kind, id: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(3 + id.len());
        bytes.extend_from_slice(&bucket.0.to_be_bytes());
        bytes.push(kind.byte());
        bytes.extend_from_slice(id);
        Self(bytes.into())
    }

    /// What all keys of a bucket begin with, or of a bucket and kind.
    pub fn prefix(bucket: Bucket, kind: Option<Kind>) -> Vec<u8> {
        let mut bytes = bucket.0.to_be_bytes().to_vec();
        bytes.extend(kind.map(Kind::byte));
        bytes
    }

    /// None if these bytes are no key whose id belongs to its bucket.
    pub fn from_bytes(bytes: &Bytes) -> Option<Self> {
        let key = Self(bytes.clone());
        key.is_valid().then_some(key)
    }

    /// True if the parts fit together. A key from a peer is checked before it is used.
    pub fn is_valid(&self) -> bool {
        let id = self.id();
        self.kind().is_some()
            && (1..=ID_LIMIT).contains(&id.len())
            && usize::from(self.bucket().0) < Bucket::COUNT
            && self.bucket() == Bucket::of_bytes(id)
    }

    pub fn bucket(&self) -> Bucket {
        match self.0.first_chunk() {
            Some(bytes) => Bucket(u16::from_be_bytes(*bytes)),
            None => Bucket(0),
        }
    }

    pub fn kind(&self) -> Option<Kind> {
        self.0.get(2).copied().and_then(Kind::of_byte)
    }

    /// Whose profile it is.
    pub fn user(&self) -> Option<UserId> {
        let id = self.id().try_into().ok()?;
        (self.kind() == Some(Kind::Profile)).then(|| UserId::from_bytes(id))
    }

    pub fn id(&self) -> &[u8] {
        self.0.get(3..).unwrap_or_default()
    }

    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:?}:", self.bucket().0, self.kind())?;
        match self.kind() {
            Some(Kind::Profile | Kind::Members) | None => {
                self.id().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Some(_) => f.write_str(&String::from_utf8_lossy(self.id())),
        }
    }
}

/// Names one attempt to write; random.
pub type Token = [u8; 16];

/// A record as it was read. `version` 0: there is none, and there surely is none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Read {
    pub version: u64,
    /// None: absent, or deleted at this version.
    pub value: Option<Bytes>,
}

/// Why the database did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// The record has another version than expected: read it again. Nothing was written.
    #[error("the record was changed meanwhile")]
    Conflict,
    /// Try again later. A write may or may not have happened; the same token tells.
    #[error("the user database cannot be reached: {0}")]
    Unavailable(String),
}

/// A database of versioned records. One key at a time; what must change together is one record.
pub trait Records: Send + Sync {
    /// The record. With `stale` an older state may be returned while the newest cannot be had, but never a
    /// false absence: whoever says [`Read::default`] knows that no record was ever committed, or that it is
    /// long deleted.
    ///
    /// # Errors
    /// [`DatabaseError::Unavailable`].
    fn read(&self, key: &Key, stale: bool) -> impl Future<Output = Result<Read, DatabaseError>> + Send;

    /// Writes the record if its version is `expected` (0: absent), None deletes it. Durable when it returns.
    /// A call with the token of a write that succeeded succeeds, if nothing was written since.
    ///
    /// # Errors
    /// As the variants say.
    fn compare_and_set(
        &self,
        key: &Key,
        expected: u64,
        token: Token,
        value: Option<Bytes>,
    ) -> impl Future<Output = Result<u64, DatabaseError>> + Send;

    /// Records of a kind after an id, at most `limit`, in order of ids. Deleted ones are left out. The
    /// values of profiles, which are long, may be left out too (empty): read those that are wanted.
    ///
    /// # Errors
    /// [`DatabaseError::Unavailable`].
    fn list(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Key, Read)>, DatabaseError>> + Send;
}

/// Shared by several.
impl<R: Records> Records for std::sync::Arc<R> {
    async fn read(&self, key: &Key, stale: bool) -> Result<Read, DatabaseError> {
        R::read(self, key, stale).await
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: u64,
        token: Token,
        value: Option<Bytes>,
    ) -> Result<u64, DatabaseError> {
        R::compare_and_set(self, key, expected, token, value).await
    }

    async fn list(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Read)>, DatabaseError> {
        R::list(self, kind, after, limit).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_checked_against_its_bucket() {
        let key = Key::address(&Address::parse("Alice@example.org").unwrap());
        assert_eq!(key.id(), b"alice@example.org");
        assert!(key.is_valid());
        let mut bytes = key.as_bytes().to_vec();
        bytes[1] ^= 1;
        assert_eq!(Key::from_bytes(&bytes.into()), None);
        for bad in [&b""[..], b"a", b"ab", b"abp", b"abzid"] {
            assert_eq!(Key::from_bytes(&Bytes::copy_from_slice(bad)), None);
        }
        let user = UserId(5);
        assert_eq!(Key::profile(user).bucket(), Bucket::of_user(user));
    }
}
