//! Convergent encryption of bodies (DESIGN 7; POST, PAPERS B3), and who gets their keys.
//!
//! key = keyed BLAKE3 of the plaintext under the cluster's secret, so that equal bodies give equal blobs inside
//! one cluster and nobody outside it can confirm a guess; blob = AES-256-GCM under that key, whose nonce may be
//! constant because a key never encrypts two plaintexts; name = BLAKE3 of the ciphertext. The entry carries the key
//! wrapped, in one of two ways:
//!
//! | mode | first byte | then |
//! | --- | --- | --- |
//! | `cluster` | 1 | version of the secret u16, nonce [12], key and tag [48]: AES-256-GCM under a key derived from the cluster secret, bound to the blob's name |
//! | `user` | 2 | the first 8 bytes of the user's public key, HPKE message [80] ([`directory::encryption::seal`]), bound to the blob's name and the user |
//!
//! MIME parts that are kept apart (docs/decisions/parts.md) are encrypted likewise, under keys derived apart from those of bodies; their keys are
//! in the body's plaintext, so they need no wrapping. The heads in the clear ([`cluster::blob`]) are bound to the ciphertext.
//!
//! So a wrapped key cannot be put on another blob, nor a user's on another user's entry. Keys of bodies and of users are
//! zeroed when they are dropped; bodies and whatever libraries copied are zeroed by the allocator (`main.rs`).

mod secrets;

pub use secrets::{Secrets, Version};

use crate::environment;
use bytes::{Bytes, BytesMut};
use cluster::{BlobId, BlobKind, BlobRef, Register, Timestamp, UserId, WrappedKey};
use directory::encryption::{PublicKey, Seed, Unlocked, seal};
use parts::PartKey;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrets::Derived;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use zeroize::Zeroizing;

/// First byte of a wrapped key: how it is wrapped.
const WRAPPED_BY_CLUSTER: u8 = 1;
const SEALED_TO_USER: u8 = 2;
/// Bytes of a user's public key by which a wrapped key says which pair it is for.
const KEY_NAME: usize = 8;
const PURPOSE: &[u8] = b"prickle 2026-11 key of a body";
/// First byte of a body's plaintext: how it is coded.
const WHOLE_BODY: u8 = 1;
const MANIFEST: u8 = 2;
const TAG: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    #[error("the cluster secret must have at least 32 bytes")]
    ShortSecret,
    #[error("the blob does not match its name: this copy is damaged, read another")]
    Damaged,
    #[error("the key cannot be unwrapped: was the cluster secret changed?")]
    Key,
    #[error(
        "the key is wrapped by version {0} of the cluster secret, which is not here: give this node its file back"
    )]
    Secret(Version),
    #[error("there is no version of the cluster secret")]
    NoSecret,
    #[error("the key is sealed to the user, and no key that opens it is here")]
    Locked,
    #[error("nothing can be sealed to the user's public key")]
    PublicKey,
    #[error("written by a newer version")]
    Version,
}

/// How a body's key is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// By this version of the cluster's secret.
    Cluster(Version),
    User,
}

impl Wrapping {
    /// None if a newer version wrapped it.
    pub fn of(key: &WrappedKey) -> Option<Self> {
        match key.0.split_first()? {
            (&WRAPPED_BY_CLUSTER, rest) => {
                rest.first_chunk().map(|&version| Self::Cluster(Version::from_le_bytes(version)))
            }
            (&SEALED_TO_USER, _) => Some(Self::User),
            _ => None,
        }
    }
}

type BodyKey = Zeroizing<[u8; 32]>;

/// A body ready to be stored.
pub struct SealedBody {
    pub ciphertext: Bytes,
    id: BlobId,
    size: u64,
    key: BodyKey,
}

impl SealedBody {
    /// The body as the entry of one user names it: its key for the user's key alone, or for the cluster.
    ///
    /// # Errors
    /// [`CryptoError::PublicKey`].
    pub fn blob(
        &self,
        keys: &Keys,
        user: UserId,
        seal_to: Option<PublicKey>,
        at: Timestamp,
    ) -> Result<BlobRef, CryptoError> {
        let key = match seal_to {
            Some(public) => seal_key(&self.id, &self.key, user, public)?,
            None => keys.wrap(&self.id, &self.key)?,
        };
        Ok(BlobRef { id: self.id, size: self.size, key: Register::new(key, at) })
    }
}

/// A MIME part ready to be stored.
pub struct SealedPart {
    pub id: BlobId,
    pub ciphertext: Bytes,
    pub key: PartKey,
}

/// A body as it was stored, decrypted.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    Whole(Bytes),
    /// A coded [`parts::Manifest`].
    Manifest(Bytes),
}

/// The keys that whoever reads a body has besides the cluster's.
pub type Reader<'a> = Option<(UserId, &'a Unlocked)>;

/// 32 random bytes.
pub fn seed() -> Seed {
    Zeroizing::new(environment::random_bytes())
}

/// The cluster's keys. Never logged: `Debug` is not derived.
pub struct Keys(RwLock<State>);

#[derive(Clone)]
struct State {
    versions: Arc<BTreeMap<Version, Derived>>,
    /// The highest version that all members have.
    agreed: Version,
}

impl State {
    /// What new keys are made with.
    fn current(&self) -> Result<(Version, &Derived), CryptoError> {
        let agreed = self.versions.range(..=self.agreed).next_back();
        let (&version, derived) =
            agreed.or_else(|| self.versions.first_key_value()).ok_or(CryptoError::NoSecret)?;
        Ok((version, derived))
    }
}

impl Keys {
    /// # Errors
    /// [`CryptoError::ShortSecret`], [`CryptoError::NoSecret`].
    pub fn new(secrets: &Secrets) -> Result<Self, CryptoError> {
        Self::derive(secrets).map(|versions| Self(RwLock::new(State { versions, agreed: 0 })))
    }

    fn derive(secrets: &Secrets) -> Result<Arc<BTreeMap<Version, Derived>>, CryptoError> {
        let versions = secrets.derive()?;
        if versions.is_empty() { Err(CryptoError::NoSecret) } else { Ok(Arc::new(versions)) }
    }

    fn state(&self) -> State {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on these are the versions.
    ///
    /// # Errors
    /// As [`Keys::new`]; then everything stays as it is.
    pub fn replace(&self, secrets: &Secrets) -> Result<(), CryptoError> {
        let versions = Self::derive(secrets)?;
        self.0.write().unwrap_or_else(PoisonError::into_inner).versions = versions;
        Ok(())
    }

    /// All members have this version.
    pub fn agree(&self, version: Version) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).agreed = version;
    }

    pub fn versions(&self) -> Vec<Version> {
        self.state().versions.keys().copied().collect()
    }

    /// The highest version here.
    pub fn newest(&self) -> Version {
        self.state().versions.keys().next_back().copied().unwrap_or(0)
    }

    /// The version that new keys are made with.
    pub fn current(&self) -> Version {
        self.state().current().map_or(0, |(version, _)| version)
    }

    /// Encrypts a message. Cost: two hashes and one encryption of its length.
    ///
    /// # Errors
    /// Only if the cipher refuses: a bug.
    pub fn seal(&self, body: &[u8]) -> Result<SealedBody, CryptoError> {
        let state = self.state();
        let (_, secret) = state.current()?;
        let body_key = Zeroizing::new(*blake3::keyed_hash(&secret.convergence, body).as_bytes());
        let mut sealed = BytesMut::with_capacity(1 + body.len() + TAG);
        sealed.extend_from_slice(&[WHOLE_BODY]);
        sealed.extend_from_slice(body);
        let tag = key(&body_key)?
            .seal_in_place_separate_tag(nonce([0; NONCE_LEN]), Aad::empty(), &mut sealed)
            .map_err(|_| CryptoError::Key)?;
        sealed.extend_from_slice(tag.as_ref());
        let id = BlobId::of(&sealed);
        Ok(SealedBody { ciphertext: sealed.freeze(), id, size: body.len() as u64, key: body_key })
    }

    /// Encrypts the body of a message of so many bytes, out of which these parts were cut.
    ///
    /// # Errors
    /// Only if the cipher refuses: a bug.
    pub fn seal_manifest(
        &self,
        manifest: &[u8],
        mut parts: Vec<BlobId>,
        size: u64,
    ) -> Result<SealedBody, CryptoError> {
        parts.sort_unstable();
        parts.dedup();
        let (ciphertext, key) = self.seal_with_head(&BlobKind::Manifest(parts), &[MANIFEST], manifest)?;
        Ok(SealedBody { id: BlobId::of(&ciphertext), ciphertext, size, key })
    }

    /// Encrypts a part, coded as [`parts::cut`] gave it.
    ///
    /// # Errors
    /// Only if the cipher refuses: a bug.
    pub fn seal_part(&self, coded: &[u8]) -> Result<SealedPart, CryptoError> {
        let (ciphertext, key) = self.seal_with_head(&BlobKind::Part, &[], coded)?;
        Ok(SealedPart { id: BlobId::of(&ciphertext), ciphertext, key: PartKey(*key) })
    }

    fn seal_with_head(
        &self,
        kind: &BlobKind,
        coding: &[u8],
        plaintext: &[u8],
    ) -> Result<(Bytes, BodyKey), CryptoError> {
        let state = self.state();
        let (_, secret) = state.current()?;
        let head = kind.to_head();
        let mut hasher = blake3::Hasher::new_keyed(&secret.convergence_with_head);
        hasher.update(&head).update(coding).update(plaintext);
        let sealing_key = Zeroizing::new(*hasher.finalize().as_bytes());
        let mut sealed = Vec::with_capacity(head.len() + coding.len() + plaintext.len() + TAG);
        sealed.extend_from_slice(&head);
        sealed.extend_from_slice(coding);
        sealed.extend_from_slice(plaintext);
        let (_, hidden) = sealed.split_at_mut(head.len());
        let tag = key(&sealing_key)?
            .seal_in_place_separate_tag(nonce([0; NONCE_LEN]), Aad::from(&head), hidden)
            .map_err(|_| CryptoError::Key)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok((sealed.into(), sealing_key))
    }

    fn wrap(&self, id: &BlobId, body_key: &BodyKey) -> Result<WrappedKey, CryptoError> {
        let state = self.state();
        let (version, secret) = state.current()?;
        let mut body_key = body_key.clone();
        let fresh = environment::random_bytes::<NONCE_LEN>();
        let tag = secret
            .wrapping
            .seal_in_place_separate_tag(nonce(fresh), Aad::from(id.0), &mut body_key[..])
            .map_err(|_| CryptoError::Key)?;
        let mut wrapped = Vec::with_capacity(1 + size_of::<Version>() + NONCE_LEN + body_key.len() + TAG);
        wrapped.push(WRAPPED_BY_CLUSTER);
        wrapped.extend_from_slice(&version.to_le_bytes());
        wrapped.extend_from_slice(&fresh);
        wrapped.extend_from_slice(&body_key[..]);
        wrapped.extend_from_slice(tag.as_ref());
        Ok(WrappedKey(wrapped))
    }

    fn unwrap(&self, blob: &BlobRef, reader: Reader<'_>) -> Result<BodyKey, CryptoError> {
        let (&mode, rest) = blob.key.value.0.split_first().ok_or(CryptoError::Key)?;
        let opened = match mode {
            WRAPPED_BY_CLUSTER => self.unwrap_by_cluster(&blob.id, rest)?,
            SEALED_TO_USER => open_key(&blob.id, rest, reader)?,
            _ => return Err(CryptoError::Version),
        };
        Ok(Zeroizing::new(opened.as_slice().try_into().map_err(|_| CryptoError::Key)?))
    }

    fn unwrap_by_cluster(&self, id: &BlobId, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let (&version, wrapped) = wrapped.split_first_chunk().ok_or(CryptoError::Key)?;
        let version = Version::from_le_bytes(version);
        let state = self.state();
        let secret = state.versions.get(&version).ok_or(CryptoError::Secret(version))?;
        let (fresh, sealed) = wrapped.split_first_chunk::<NONCE_LEN>().ok_or(CryptoError::Key)?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let opened = secret.wrapping.open_in_place(nonce(*fresh), Aad::from(id.0), &mut sealed);
        let length = opened.map_err(|_| CryptoError::Key)?.len();
        sealed.truncate(length);
        Ok(sealed)
    }

    /// The key of a body, sealed to the user's key instead of the cluster's.
    ///
    /// # Errors
    /// [`CryptoError::PublicKey`], or if the cluster cannot unwrap it.
    pub fn seal_to_user(
        &self,
        blob: &BlobRef,
        user: UserId,
        public: PublicKey,
    ) -> Result<WrappedKey, CryptoError> {
        seal_key(&blob.id, &self.unwrap(blob, None)?, user, public)
    }

    /// The key of a body, for the current version of the cluster's key instead of an older one, or the user's.
    ///
    /// # Errors
    /// [`CryptoError::Locked`] if the reader does not have the user's key.
    pub fn wrap_for_cluster(&self, blob: &BlobRef, reader: Reader<'_>) -> Result<WrappedKey, CryptoError> {
        self.wrap(&blob.id, &self.unwrap(blob, reader)?)
    }

    /// True if the cluster can unwrap this key of a body.
    pub fn can_unwrap(&self, id: &BlobId, key: &WrappedKey) -> bool {
        let rest = key.0.split_first().filter(|(mode, _)| **mode == WRAPPED_BY_CLUSTER);
        rest.is_some_and(|(_, rest)| self.unwrap_by_cluster(id, rest).is_ok_and(|key| key.len() == 32))
    }

    /// Decrypts a blob that a replica sent, after checking that it is the one that was asked for.
    ///
    /// # Errors
    /// [`CryptoError::Damaged`]: try another replica. The others are the same with each.
    pub fn open(&self, blob: &BlobRef, ciphertext: Bytes, reader: Reader<'_>) -> Result<Opened, CryptoError> {
        if BlobId::of(&ciphertext) != blob.id {
            return Err(CryptoError::Damaged);
        }
        let (kind, body) = unseal(&*self.unwrap(blob, reader)?, ciphertext)?;
        match (kind, body.first()) {
            (BlobKind::Body, Some(&WHOLE_BODY)) => Ok(Opened::Whole(body.slice(1..))),
            (BlobKind::Manifest(_), Some(&MANIFEST)) => Ok(Opened::Manifest(body.slice(1..))),
            _ => Err(CryptoError::Version),
        }
    }
}

/// Decrypts a part, coded as it was cut out, after checking that it is the one that was asked for.
///
/// # Errors
/// [`CryptoError::Damaged`]: try another copy.
pub fn open_part(id: BlobId, part_key: &PartKey, ciphertext: Bytes) -> Result<Bytes, CryptoError> {
    if BlobId::of(&ciphertext) != id {
        return Err(CryptoError::Damaged);
    }
    match unseal(&part_key.0, ciphertext)? {
        (BlobKind::Part, coded) => Ok(coded),
        _ => Err(CryptoError::Damaged),
    }
}

/// The kind of a blob, and what is encrypted in it.
fn unseal(body_key: &[u8; 32], ciphertext: Bytes) -> Result<(BlobKind, Bytes), CryptoError> {
    let (kind, head) = BlobKind::split(&ciphertext);
    let mut sealed = ciphertext.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    let mut secret = sealed.split_off(head);
    let length = key(body_key)?
        .open_in_place(nonce([0; NONCE_LEN]), Aad::from(&sealed[..]), &mut secret)
        .map_err(|_| CryptoError::Damaged)?
        .len();
    secret.truncate(length);
    Ok((kind, secret.freeze()))
}

fn seal_key(
    id: &BlobId,
    body_key: &BodyKey,
    user: UserId,
    public: PublicKey,
) -> Result<WrappedKey, CryptoError> {
    let sealed = seal::seal(public, PURPOSE, &bound(id, user), &body_key[..], &seed())
        .map_err(|_| CryptoError::PublicKey)?;
    let mut wrapped = Vec::with_capacity(1 + KEY_NAME + sealed.0.len());
    wrapped.push(SEALED_TO_USER);
    wrapped.extend_from_slice(&public.0.0[..KEY_NAME]);
    wrapped.extend_from_slice(&sealed.0);
    Ok(WrappedKey(wrapped))
}

fn open_key(id: &BlobId, wrapped: &[u8], reader: Reader<'_>) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let (name, sealed) = wrapped.split_at_checked(KEY_NAME).ok_or(CryptoError::Key)?;
    let (user, unlocked) = reader.ok_or(CryptoError::Locked)?;
    let key = unlocked.keys().find(|key| key.public().0.0.starts_with(name)).ok_or(CryptoError::Locked)?;
    seal::open(key, PURPOSE, &bound(id, user), sealed).map_err(|_| CryptoError::Key)
}

/// What a sealed key belongs to.
fn bound(id: &BlobId, user: UserId) -> [u8; 48] {
    let mut bound = [0; 48];
    bound[..32].copy_from_slice(&id.0);
    bound[32..].copy_from_slice(&user.to_bytes());
    bound
}

fn key(bytes: &[u8; 32]) -> Result<LessSafeKey, CryptoError> {
    UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new).map_err(|_| CryptoError::Key)
}

fn nonce(bytes: [u8; NONCE_LEN]) -> Nonce {
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests;
