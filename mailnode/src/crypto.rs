//! Convergent encryption of bodies (DESIGN 7; POST, PAPERS B3).
//!
//! key = keyed BLAKE3 of the plaintext under the cluster's secret, so that equal bodies give equal blobs inside
//! one cluster and nobody outside it can confirm a guess; blob = AES-256-GCM under that key, whose nonce may be
//! constant because a key never encrypts two plaintexts; name = BLAKE3 of the ciphertext. The entry carries the
//! key wrapped (mode `cluster`): AES-256-GCM under a key derived from the cluster secret, random nonce, bound to
//! the blob's name so that a wrapped key cannot be put on another blob.

use crate::environment;
use bytes::{Bytes, BytesMut};
use cluster::{BlobId, BlobRef, WrappedKey};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// First byte of a wrapped key: how it is wrapped. 2 will be HPKE to the user's key.
const WRAPPED_BY_CLUSTER: u8 = 1;
/// First byte of a blob's plaintext: how the body is coded. 2 will be a list of MIME parts.
const WHOLE_BODY: u8 = 1;
const TAG: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    #[error("the cluster secret must have at least 32 bytes")]
    ShortSecret,
    #[error("the blob does not match its name: this copy is damaged, read another")]
    Damaged,
    #[error("the key cannot be unwrapped: was the cluster secret changed?")]
    Key,
    #[error("written by a newer version")]
    Version,
}

/// A body ready to be stored.
#[derive(Clone, Debug)]
pub struct SealedBody {
    pub ciphertext: Bytes,
    pub blob: BlobRef,
}

/// The cluster's keys. Never logged: `Debug` is not derived.
pub struct Keys {
    convergence: [u8; 32],
    wrapping: LessSafeKey,
}

impl Keys {
    /// # Errors
    /// [`CryptoError::ShortSecret`].
    pub fn new(secret: &[u8]) -> Result<Self, CryptoError> {
        if secret.len() < 32 {
            return Err(CryptoError::ShortSecret);
        }
        let wrapping = blake3::derive_key("prickle 2026-11 cluster key wrapping", secret);
        Ok(Self {
            convergence: blake3::derive_key("prickle 2026-11 convergent body keys", secret),
            wrapping: key(&wrapping)?,
        })
    }

    /// Encrypts a message. Cost: two hashes and one encryption of its length.
    ///
    /// # Errors
    /// Only if the cipher refuses: a bug.
    pub fn seal(&self, body: &[u8]) -> Result<SealedBody, CryptoError> {
        let body_key = *blake3::keyed_hash(&self.convergence, body).as_bytes();
        let mut sealed = BytesMut::with_capacity(1 + body.len() + TAG);
        sealed.extend_from_slice(&[WHOLE_BODY]);
        sealed.extend_from_slice(body);
        let tag = key(&body_key)?
            .seal_in_place_separate_tag(nonce([0; NONCE_LEN]), Aad::empty(), &mut sealed)
            .map_err(|_| CryptoError::Key)?;
        sealed.extend_from_slice(tag.as_ref());
        let id = BlobId::of(&sealed);
        let key = self.wrap(&id, body_key)?;
        Ok(SealedBody { ciphertext: sealed.freeze(), blob: BlobRef { id, size: body.len() as u64, key } })
    }

    fn wrap(&self, id: &BlobId, mut body_key: [u8; 32]) -> Result<WrappedKey, CryptoError> {
        let fresh = environment::random_bytes::<NONCE_LEN>();
        let tag = self
            .wrapping
            .seal_in_place_separate_tag(nonce(fresh), Aad::from(id.0), &mut body_key)
            .map_err(|_| CryptoError::Key)?;
        let mut wrapped = Vec::with_capacity(1 + NONCE_LEN + body_key.len() + TAG);
        wrapped.push(WRAPPED_BY_CLUSTER);
        wrapped.extend_from_slice(&fresh);
        wrapped.extend_from_slice(&body_key);
        wrapped.extend_from_slice(tag.as_ref());
        Ok(WrappedKey(wrapped))
    }

    fn unwrap(&self, blob: &BlobRef) -> Result<LessSafeKey, CryptoError> {
        let (&mode, rest) = blob.key.0.split_first().ok_or(CryptoError::Key)?;
        if mode != WRAPPED_BY_CLUSTER {
            return Err(CryptoError::Version);
        }
        let (fresh, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(CryptoError::Key)?;
        let mut sealed = sealed.to_vec();
        let opened = self
            .wrapping
            .open_in_place(nonce(*fresh), Aad::from(blob.id.0), &mut sealed)
            .map_err(|_| CryptoError::Key)?;
        let opened: &[u8; 32] = (&*opened).try_into().map_err(|_| CryptoError::Key)?;
        key(opened)
    }

    /// Decrypts a blob that a replica sent, after checking that it is the one that was asked for.
    ///
    /// # Errors
    /// [`CryptoError::Damaged`]: try another replica. The others are for ever.
    pub fn open(&self, blob: &BlobRef, ciphertext: Bytes) -> Result<Bytes, CryptoError> {
        if BlobId::of(&ciphertext) != blob.id {
            return Err(CryptoError::Damaged);
        }
        let body_key = self.unwrap(blob)?;
        let mut sealed = ciphertext.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let length = body_key
            .open_in_place(nonce([0; NONCE_LEN]), Aad::empty(), &mut sealed)
            .map_err(|_| CryptoError::Damaged)?
            .len();
        sealed.truncate(length);
        let body = sealed.freeze();
        match body.first() {
            Some(&WHOLE_BODY) => Ok(body.slice(1..)),
            _ => Err(CryptoError::Version),
        }
    }
}

fn key(bytes: &[u8; 32]) -> Result<LessSafeKey, CryptoError> {
    UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new).map_err(|_| CryptoError::Key)
}

fn nonce(bytes: [u8; NONCE_LEN]) -> Nonce {
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"a cluster secret of thirty-two b";

    #[test]
    fn a_body_comes_back_and_equal_bodies_are_one_blob() {
        let keys = Keys::new(SECRET).unwrap();
        let (one, two) = (keys.seal(b"hello").unwrap(), keys.seal(b"hello").unwrap());
        assert_eq!((one.blob.id, one.blob.size), (two.blob.id, 5));
        assert_eq!(one.ciphertext, two.ciphertext);
        assert_ne!(one.blob.key, two.blob.key, "wrapped keys do not show which entries share a body");
        assert_eq!(&keys.open(&one.blob, two.ciphertext.clone()).unwrap()[..], b"hello");
        assert!(!one.ciphertext.windows(5).any(|window| window == b"hello"));
        assert_eq!(keys.seal(b"").unwrap().blob.size, 0);
    }

    #[test]
    fn another_clusters_secret_gives_another_name_so_that_guesses_cannot_be_confirmed() {
        let ours = Keys::new(SECRET).unwrap().seal(b"hello").unwrap();
        let theirs = Keys::new(&[7; 32]).unwrap().seal(b"hello").unwrap();
        assert_ne!(ours.blob.id, theirs.blob.id);
    }

    #[test]
    fn a_damaged_copy_or_a_key_of_another_blob_is_refused() {
        let keys = Keys::new(SECRET).unwrap();
        let sealed = keys.seal(b"hello").unwrap();
        let mut bad = sealed.ciphertext.to_vec();
        bad[3] ^= 1;
        assert_eq!(keys.open(&sealed.blob, bad.into()), Err(CryptoError::Damaged));
        let other = keys.seal(b"other").unwrap();
        let mixed = BlobRef { key: other.blob.key, ..sealed.blob.clone() };
        assert_eq!(keys.open(&mixed, sealed.ciphertext), Err(CryptoError::Key));
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(matches!(Keys::new(&[1; 31]), Err(CryptoError::ShortSecret)));
    }
}
