//! What anybody who has a stored blob can tell about it without a key (docs/decisions/parts.md).
//!
//! Most blobs are nothing but ciphertext. Two kinds begin with a head in the clear, which their encryption is bound to: a body out of
//! which parts were cut names them, so that whoever stores it can renew their leases although only its reader can open it; and a
//! part says that it is one, because it lives by leases alone.
//!
//! `magic [16] | 1 | count u16, little-endian | names [32]*` and `magic [16] | 2`. Ciphertext begins like that by chance once in
//! 2^128 blobs, and nobody without the cluster's secret can try.

use crate::ids::BlobId;

const MAGIC: &[u8; 16] = b"\x93prickle blob\r\n\x01";
const MANIFEST: u8 = 1;
const PART: u8 = 2;
/// Parts that one body may name.
pub const MOST_REFERENCES: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BlobKind {
    /// A whole body.
    #[default]
    Body,
    /// A body without these parts, each named once, in order of names.
    Manifest(Vec<BlobId>),
    Part,
}

impl BlobKind {
    /// Of a blob as it is stored. Never fails: what has no such head is a whole body.
    pub fn of(blob: &[u8]) -> Self {
        Self::head(blob).map_or(Self::Body, |(kind, _)| kind)
    }

    /// The kind and the bytes that its head takes.
    pub fn split(blob: &[u8]) -> (Self, usize) {
        Self::head(blob).unwrap_or((Self::Body, 0))
    }

    fn head(blob: &[u8]) -> Option<(Self, usize)> {
        let (kind, rest) = blob.strip_prefix(MAGIC)?.split_first()?;
        match *kind {
            PART => Some((Self::Part, MAGIC.len() + 1)),
            MANIFEST => {
                let (count, rest) = rest.split_first_chunk::<2>()?;
                let count = usize::from(u16::from_le_bytes(*count));
                let names = rest.get(..count * 32).filter(|_| count <= MOST_REFERENCES)?;
                Some((Self::Manifest(names_of(names)?), MAGIC.len() + 3 + names.len()))
            }
            _ => None,
        }
    }

    /// What a blob of this kind begins with.
    pub fn to_head(&self) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        match self {
            Self::Body => head.clear(),
            Self::Part => head.push(PART),
            Self::Manifest(names) => {
                head.push(MANIFEST);
                head.extend_from_slice(&(names.len() as u16).to_le_bytes());
                names.iter().for_each(|name| head.extend_from_slice(&name.0));
            }
        }
        head
    }

    pub fn references(&self) -> &[BlobId] {
        match self {
            Self::Manifest(names) => names,
            _ => &[],
        }
    }
}

/// Names one after the other; None if there is a rest, or they are not sorted.
pub fn names_of(bytes: &[u8]) -> Option<Vec<BlobId>> {
    let names = bytes.chunks(32).map(|name| name.try_into().ok().map(BlobId)).collect::<Option<Vec<_>>>()?;
    names.is_sorted_by(|one, next| one < next).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_read_back_from_its_head_whatever_follows() {
        let names = vec![BlobId([1; 32]), BlobId([2; 32])];
        for kind in [BlobKind::Part, BlobKind::Manifest(names), BlobKind::Manifest(Vec::new())] {
            let head = kind.to_head();
            for rest in [&b""[..], b"ciphertext"] {
                let blob = [&head[..], rest].concat();
                assert_eq!(BlobKind::split(&blob), (kind.clone(), head.len()));
            }
        }
        assert_eq!(BlobKind::split(b"ciphertext of a whole body"), (BlobKind::Body, 0));
        assert!(BlobKind::Body.to_head().is_empty());
    }

    #[test]
    fn a_head_that_is_cut_or_altered_is_no_head() {
        let head = BlobKind::Manifest(vec![BlobId([1; 32]), BlobId([2; 32])]).to_head();
        for length in 0..head.len() {
            assert_eq!(BlobKind::of(&head[..length]), BlobKind::Body, "{length}");
        }
        let unsorted = BlobKind::Manifest(vec![BlobId([2; 32]), BlobId([1; 32])]).to_head();
        assert_eq!(BlobKind::of(&unsorted), BlobKind::Body);
        let many = BlobKind::Manifest(vec![BlobId([0; 32]); 2_000]).to_head();
        assert_eq!(BlobKind::of(&many), BlobKind::Body);
    }
}
