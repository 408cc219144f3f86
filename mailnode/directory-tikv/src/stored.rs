//! What is under a record's name: version, token of the write that made it, when that was, the value.
//!
//! A deleted record stays as a tombstone with its version, so that a late write that expects the version from
//! before the deletion is refused; `maintenance` collects it after a week.

use bytes::Bytes;
use directory::{Read, Token};

/// Format 1: format, version, token, time, whether there is a value, value; big endian.
const FORMAT: u8 = 1;
const HEAD: usize = 1 + 8 + 16 + 8 + 1;

/// The longest value. Up to here the client's locks live for three seconds, which the deadlines count on; and a
/// page of a scan fits into a message.
pub const VALUE: usize = 256 * 1024;

/// A record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    #[error("a record is of a newer format ({0}); update this node")]
    Newer(u8),
    #[error("a record is damaged, or not ours")]
    Damaged,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    pub version: u64,
    pub token: Token,
    /// Unix time in milliseconds, of TiKV's clock.
    pub millis: u64,
    /// None: a tombstone.
    pub value: Option<Bytes>,
}

impl Stored {
    pub fn encode(&self) -> Vec<u8> {
        let value = self.value.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(HEAD + value.len());
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(&self.token);
        bytes.extend_from_slice(&self.millis.to_be_bytes());
        bytes.push(u8::from(self.value.is_some()));
        bytes.extend_from_slice(value);
        bytes
    }

    /// # Errors
    /// If the bytes are no record of a format that this program knows.
    pub fn decode(bytes: &Bytes) -> Result<Self, StoredError> {
        let mut rest: &[u8] = bytes;
        match take::<1>(&mut rest)? {
            [FORMAT] => {}
            [newer] if newer > FORMAT => return Err(StoredError::Newer(newer)),
            _ => return Err(StoredError::Damaged),
        }
        let version = u64::from_be_bytes(take(&mut rest)?);
        let token = take(&mut rest)?;
        let millis = u64::from_be_bytes(take(&mut rest)?);
        let value = match (take::<1>(&mut rest)?, rest.is_empty()) {
            ([1], _) => Some(bytes.slice_ref(rest)),
            ([0], true) => None,
            _ => return Err(StoredError::Damaged),
        };
        Ok(Self { version, token, millis, value })
    }

    pub fn into_read(self) -> Read {
        Read { version: self.version, value: self.value }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], StoredError> {
    let (head, tail) = rest.split_first_chunk().ok_or(StoredError::Damaged)?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_damage_is_told() {
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"value"))] {
            let stored = Stored { version: 7, token: [3; 16], millis: 9, value };
            let bytes = Bytes::from(stored.encode());
            assert_eq!(Stored::decode(&bytes), Ok(stored));
            for short in 0..HEAD {
                assert_eq!(Stored::decode(&bytes.slice(..short)), Err(StoredError::Damaged));
            }
        }
        assert_eq!(Stored::decode(&Bytes::from_static(&[2; 64])), Err(StoredError::Newer(2)));
        let mut tombstone_with_value = Stored::default().encode();
        tombstone_with_value.push(1);
        assert_eq!(Stored::decode(&tombstone_with_value.into()), Err(StoredError::Damaged));
    }
}
