//! Ids as newtypes. Binary ids print and parse as lower-case hex; in binary encodings they are raw bytes or
//! integers.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// An id that could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits")]
pub struct ParseIdError {
    expected: usize,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $int:ty, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $int);

        impl $name {
            /// Big-endian bytes, so that byte order is id order.
            pub const fn to_bytes(self) -> [u8; $bytes] {
                self.0.to_be_bytes()
            }

            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(<$int>::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:0width$x}", self.0, width = $bytes * 2)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let wrong = ParseIdError { expected: $bytes * 2 };
                if text.len() != $bytes * 2 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(wrong);
                }
                <$int>::from_str_radix(text, 16).map(Self).map_err(|_| wrong)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.to_bytes().serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    <[u8; $bytes]>::deserialize(deserializer).map(Self::from_bytes)
                }
            }
        }
    };
}

hex_id!(
    /// A mailing list: random.
    ListId, u128, 16
);
hex_id!(
    /// A node of the cluster: the first 64 bits of the hash of its name, so that it is the same after its disk
    /// was lost. Two names with one id are refused when the second wants to join.
    NodeId, u64, 8
);
hex_id!(
    /// A user, for ever; addresses are names for it. Random.
    UserId, u128, 16
);
hex_id!(
    /// One message of one user: 48 bits of Unix milliseconds, then 80 random bits. Made once per SMTP
    /// transaction and recipient, so that a copy written twice is one message (invariant 5).
    EntryId, u128, 16
);

impl NodeId {
    pub fn of_name(name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.as_bytes()[..8]);
        Self::from_bytes(bytes)
    }
}

impl EntryId {
    /// `unix_millis` is wall-clock time; only the low 80 bits of `random` are used.
    pub const fn new(unix_millis: u64, random: u128) -> Self {
        Self(((unix_millis as u128) << 80) | (random & ((1 << 80) - 1)))
    }

    /// When it was made, by the clock of who made it.
    pub const fn unix_millis(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

/// A folder of one user, numbered in the user's profile. Never reused. [`FolderId::INBOX`] always exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FolderId(pub u32);

impl FolderId {
    pub const INBOX: Self = Self(1);
}

/// An encrypted body, named by the BLAKE3 hash of its ciphertext.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobId(pub [u8; 32]);

impl BlobId {
    pub fn of(ciphertext: &[u8]) -> Self {
        Self(*blake3::hash(ciphertext).as_bytes())
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..8] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("..")
    }
}

/// Number of a view. A higher epoch always wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One life of a node's process: Unix milliseconds of its start. A peer that comes back has a higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Hash of a [`UserId`], one of [`Bucket::COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bucket(pub u16);

impl Bucket {
    /// 2^12; Porcupine had 256 (PAPERS A2).
    pub const COUNT: usize = 4096;

    pub fn of_user(user: UserId) -> Self {
        Self::of_bytes(&user.to_bytes())
    }

    /// For records that belong to no user, such as an address or a domain.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let hash = blake3::hash(bytes);
        let bytes = hash.as_bytes();
        Self(u16::from_be_bytes([bytes[0], bytes[1]]) % Self::COUNT as u16)
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u16).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_text_and_bytes() {
        let user = UserId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(user.to_string().parse::<UserId>().unwrap(), user);
        let bytes = postcard::to_stdvec(&user).unwrap();
        assert_eq!(bytes.len(), 16);
        assert_eq!(postcard::from_bytes::<UserId>(&bytes).unwrap(), user);
        assert!("xyz".parse::<UserId>().is_err());
        assert!("+123456789abcdef".parse::<NodeId>().is_err());
    }

    #[test]
    fn entry_ids_sort_by_time() {
        assert!(EntryId::new(1, u128::MAX) < EntryId::new(2, 0));
        assert_eq!(EntryId::new(7, u128::MAX).unix_millis(), 7);
    }

    #[test]
    fn buckets_are_used_evenly() {
        let mut counts = vec![0u32; Bucket::COUNT];
        for n in 0..(Bucket::COUNT as u128 * 50) {
            counts[Bucket::of_user(UserId(n)).0 as usize] += 1;
        }
        assert!(counts.iter().all(|&c| (15..=100).contains(&c)));
    }
}
