//! What a message's body is stored as when parts were cut out of it: a list of pieces, then the bytes that are left. Encrypted as a
//! whole body is, so that the keys of parts are as safe as bodies.
//!
//! `length of the list u32, little-endian | list, in postcard | bytes that are left`

use crate::coding;
use crate::cut::Cut;
use crate::layout::Layout;
use cluster::BlobId;
use serde::{Deserialize, Serialize};

/// The key of a part. Never printed, zeroed when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, zeroize::ZeroizeOnDrop)]
pub struct PartKey(pub [u8; 32]);

impl std::fmt::Debug for PartKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PartKey(..)")
    }
}

/// A part that is kept apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: BlobId,
    pub key: PartKey,
    pub layout: Layout,
    /// Bytes of its content.
    pub content: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Piece {
    /// So many of the bytes that are left.
    Rest(u64),
    Part(Reference),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pieces: Vec<Piece>,
}

/// A part as it was stored, decrypted.
pub type Coded<'a> = &'a [u8];

/// What is wrong with a manifest, or with a part for it. Neither should be possible of what carries its name's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("the list of parts does not decode: a newer version wrote it?")]
    List,
    #[error("the lengths of the pieces are not that of the message")]
    Lengths,
    #[error("a part is not what the list says")]
    Part,
}

impl Manifest {
    /// The manifest of a message with these cuts, and its coding. `references`: one for each cut, in order.
    ///
    /// # Errors
    /// [`JoinError::Lengths`] if they do not belong together.
    pub fn encode(message: &[u8], cuts: &[Cut], references: Vec<Reference>) -> Result<Vec<u8>, JoinError> {
        let mut pieces = Vec::with_capacity(cuts.len() * 2 + 1);
        let mut rest = Vec::new();
        let mut at = 0;
        let mut leave = |pieces: &mut Vec<Piece>, from: usize, to: usize| {
            let left = message.get(from..to).ok_or(JoinError::Lengths)?;
            if !left.is_empty() {
                rest.extend_from_slice(left);
                pieces.push(Piece::Rest(left.len() as u64));
            }
            Ok(())
        };
        if cuts.len() != references.len() {
            return Err(JoinError::Lengths);
        }
        for (cut, reference) in cuts.iter().zip(references) {
            leave(&mut pieces, at, cut.range.start)?;
            pieces.push(Piece::Part(reference));
            at = cut.range.end;
        }
        leave(&mut pieces, at, message.len())?;
        let list = postcard::to_stdvec(&Self { pieces }).map_err(|_| JoinError::List)?;
        let length = u32::try_from(list.len()).map_err(|_| JoinError::List)?;
        let mut coded = Vec::with_capacity(4 + list.len() + rest.len());
        coded.extend_from_slice(&length.to_le_bytes());
        coded.extend_from_slice(&list);
        coded.extend_from_slice(&rest);
        Ok(coded)
    }

    /// The list, and the bytes that are left. `size`: of the message, which the pieces must make up.
    ///
    /// # Errors
    /// If it is none, or of another message.
    pub fn decode(coded: &[u8], size: u64) -> Result<(Self, &[u8]), JoinError> {
        let (length, after) = coded.split_first_chunk::<4>().ok_or(JoinError::List)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (list, rest) = after.split_at_checked(length).ok_or(JoinError::List)?;
        let manifest: Self = postcard::from_bytes(list).map_err(|_| JoinError::List)?;
        let lengths = manifest.lengths().ok_or(JoinError::Lengths)?;
        if lengths != (size, rest.len() as u64) {
            return Err(JoinError::Lengths);
        }
        Ok((manifest, rest))
    }

    /// Bytes of the message, and of those that are left.
    fn lengths(&self) -> Option<(u64, u64)> {
        let (mut size, mut rest) = (0_u64, 0_u64);
        for piece in &self.pieces {
            let length = match piece {
                Piece::Rest(length) => {
                    rest = rest.checked_add(*length)?;
                    *length
                }
                Piece::Part(part) => part.layout.length(usize::try_from(part.content).ok()?)? as u64,
            };
            size = size.checked_add(length)?;
        }
        Some((size, rest))
    }

    /// In the order in which they stand in the message; one may stand there twice.
    pub fn parts(&self) -> impl Iterator<Item = &Reference> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Part(part) => Some(part),
            Piece::Rest(_) => None,
        })
    }
}

/// The message. `parts`: the decrypted parts by name.
///
/// # Errors
/// [`JoinError::Part`] if one is missing or another than the list says.
pub fn join<'a>(
    manifest: &Manifest,
    rest: &[u8],
    size: u64,
    parts: impl Fn(BlobId) -> Option<Coded<'a>>,
) -> Result<Vec<u8>, JoinError> {
    let size = usize::try_from(size).map_err(|_| JoinError::Lengths)?;
    let mut message = Vec::with_capacity(size);
    let mut rest = rest;
    for piece in &manifest.pieces {
        match piece {
            Piece::Rest(length) => {
                let length = usize::try_from(*length).map_err(|_| JoinError::Lengths)?;
                let (now, later) = rest.split_at_checked(length).ok_or(JoinError::Lengths)?;
                message.extend_from_slice(now);
                rest = later;
            }
            Piece::Part(part) => {
                let length = usize::try_from(part.content).map_err(|_| JoinError::Lengths)?;
                let content = parts(part.name).and_then(|coded| coding::decode(coded, length));
                part.layout.write(&content.ok_or(JoinError::Part)?, &mut message);
            }
        }
    }
    (message.len() == size).then_some(message).ok_or(JoinError::Lengths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut;

    fn coded(message: &[u8]) -> (Vec<u8>, Vec<Cut>) {
        let cuts = cut(message, 50);
        let references = cuts.iter().map(|cut| Reference {
            name: BlobId::of(&cut.coded),
            key: PartKey([7; 32]),
            layout: cut.layout,
            content: cut.content as u64,
        });
        (Manifest::encode(message, &cuts, references.collect()).unwrap(), cuts)
    }

    const MESSAGE: &str = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\
        a part that has some sixty bytes, so that it is cut out of it.....\r\n--b--\r\n";

    #[test]
    fn a_manifest_of_another_message_or_with_a_wrong_part_is_refused() {
        let (bytes, cuts) = coded(MESSAGE.as_bytes());
        let size = MESSAGE.len() as u64;
        let (manifest, rest) = Manifest::decode(&bytes, size).unwrap();
        let good = |_| Some(&cuts[0].coded[..]);
        assert_eq!(join(&manifest, rest, size, good).unwrap(), MESSAGE.as_bytes());
        assert_eq!(join(&manifest, rest, size, |_| None), Err(JoinError::Part));
        assert_eq!(join(&manifest, rest, size, |_| Some(&[1, 2])), Err(JoinError::Part));
        assert_eq!(Manifest::decode(&bytes, size + 1), Err(JoinError::Lengths));
        assert_eq!(Manifest::decode(&bytes[..bytes.len() - 1], size), Err(JoinError::Lengths));
        assert_eq!(Manifest::decode(&[9, 0], size), Err(JoinError::List));
    }

    #[test]
    fn no_damage_makes_decoding_panic() {
        let (bytes, cuts) = coded(MESSAGE.as_bytes());
        for at in 0..bytes.len() {
            for flip in [0xff, 0x80, 1] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                if let Ok((manifest, rest)) = Manifest::decode(&damaged, MESSAGE.len() as u64) {
                    let _ = join(&manifest, rest, MESSAGE.len() as u64, |_| Some(&cuts[0].coded[..]));
                }
            }
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let (bytes, _) = coded(MESSAGE.as_bytes());
        let (manifest, _) = Manifest::decode(&bytes, MESSAGE.len() as u64).unwrap();
        assert!(format!("{manifest:?}").contains("PartKey(..)"));
    }
}
