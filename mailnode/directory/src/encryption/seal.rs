//! Sealing short secrets to X25519 keys: HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
//! AES-256-GCM. Each seal is a single message: encapsulated key, then ciphertext with its tag.
//!
//! What a sealed secret is for, and to what it belongs, is bound into it: `purpose` is HPKE's `info` (RFC 9180 5.1), `bound`
//! its `aad`. Sealed for something else, it does not open.

use super::text::Bytes32;
use data_encoding::HEXLOWER;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::convert::Infallible;
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of an encapsulated key (RFC 9180 7.1, Nenc).
const ENCAPSULATED: usize = 32;
/// Most bytes of a sealed secret.
const LONGEST: usize = 256;

/// 32 bytes from the system's generator, never used twice.
pub type Seed = Zeroizing<[u8; 32]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Another key, or for something else, or damaged: which of them cannot be told.
    #[error("sealed to another key, for something else, or damaged")]
    NotOurs,
    #[error("not a key that anything can be sealed to")]
    BadKey,
}

/// The public half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(pub Bytes32);

/// The private half. Zeroed when dropped; neither printed nor sent.
pub struct PrivateKey {
    // Boxed, so that moving it leaves no copies on stacks.
    bytes: Box<Zeroizing<[u8; 32]>>,
    public: PublicKey,
}

impl PrivateKey {
    /// DeriveKeyPair (RFC 9180 7.1.3). `material` has at least 32 bytes that nobody can guess.
    pub fn derive(material: &[u8]) -> Self {
        let (private, public) = X25519HkdfSha256::derive_keypair(material);
        let mut bytes = Box::new(Zeroizing::new([0; 32]));
        private.write_exact(&mut bytes[..]);
        Self { bytes, public: PublicKey(Bytes32(public.to_bytes().into())) }
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        let private =
            <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(bytes).map_err(|_| SealError::BadKey)?;
        let public = X25519HkdfSha256::sk_to_pk(&private);
        let mut bytes = Box::new(Zeroizing::new([0; 32]));
        private.write_exact(&mut bytes[..]);
        Ok(Self { bytes, public: PublicKey(Bytes32(public.to_bytes().into())) })
    }

    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// This key, sealed to another.
    ///
    /// # Errors
    /// [`SealError::BadKey`].
    pub(super) fn seal_to(&self, to: PublicKey, bound: &[u8], seed: &Seed) -> Result<Sealed, SealError> {
        seal(to, KEY_PURPOSE, bound, &self.bytes[..], seed)
    }

    /// The key that [`PrivateKey::seal_to`] sealed to this one.
    ///
    /// # Errors
    /// [`SealError::NotOurs`].
    pub(super) fn open_key(&self, bound: &[u8], sealed: &Sealed) -> Result<Self, SealError> {
        Self::from_bytes(&open(self, KEY_PURPOSE, bound, &sealed.0)?)
    }
}

const KEY_PURPOSE: &[u8] = b"prickle 2026-11 a user's private key";

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0.0))
    }
}

/// A sealed secret. As JSON in hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&HEXLOWER.encode(&self.0))
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = if deserializer.is_human_readable() {
            HEXLOWER.decode(String::deserialize(deserializer)?.as_bytes()).map_err(de::Error::custom)?
        } else {
            Vec::deserialize(deserializer)?
        };
        if bytes.len() > LONGEST {
            return Err(de::Error::custom("too long for a sealed key"));
        }
        Ok(Self(bytes))
    }
}

/// Seals a secret. The same seed must not be used twice.
///
/// # Errors
/// [`SealError::BadKey`]: a public key of low order (RFC 9180 7.1.4).
pub fn seal(
    to: PublicKey,
    purpose: &[u8],
    bound: &[u8],
    secret: &[u8],
    seed: &Seed,
) -> Result<Sealed, SealError> {
    let to = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&to.0.0).map_err(|_| SealError::BadKey)?;
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &to,
        purpose,
        secret,
        bound,
        &mut Stretched::new(seed),
    )
    .map_err(|_| SealError::BadKey)?;
    let mut bytes = Vec::with_capacity(ENCAPSULATED + sealed.len());
    bytes.extend_from_slice(&encapsulated.to_bytes());
    bytes.extend_from_slice(&sealed);
    Ok(Sealed(bytes))
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`SealError::NotOurs`].
pub fn open(
    key: &PrivateKey,
    purpose: &[u8],
    bound: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (encapsulated, sealed) = sealed.split_at_checked(ENCAPSULATED).ok_or(SealError::NotOurs)?;
    let private =
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&key.bytes[..]).map_err(|_| SealError::BadKey)?;
    let encapsulated =
        <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| SealError::NotOurs)?;
    hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        purpose,
        sealed,
        bound,
    )
    .map(Zeroizing::new)
    .map_err(|_| SealError::NotOurs)
}

/// Random bytes out of a seed, because who calls has the machine's only source of chance (in the simulator that is
/// the seed of the history).
struct Stretched(blake3::OutputReader);

impl Stretched {
    fn new(seed: &Seed) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("prickle 2026-11 HPKE ephemeral keys");
        hasher.update(&seed[..]);
        Self(hasher.finalize_xof())
    }
}

impl TryRng for Stretched {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Stretched {}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(byte: u8) -> Seed {
        Zeroizing::new([byte; 32])
    }

    #[test]
    fn only_the_key_the_purpose_and_the_thing_it_was_sealed_for_open_it() {
        let (alice, bob) = (PrivateKey::derive(&[1; 32]), PrivateKey::derive(&[2; 32]));
        let sealed = seal(alice.public(), b"keys", b"blob 1", b"secret", &seed(9)).unwrap();
        assert_eq!(&open(&alice, b"keys", b"blob 1", &sealed.0).unwrap()[..], b"secret");
        assert_eq!(open(&bob, b"keys", b"blob 1", &sealed.0), Err(SealError::NotOurs));
        assert_eq!(open(&alice, b"letters", b"blob 1", &sealed.0), Err(SealError::NotOurs));
        assert_eq!(open(&alice, b"keys", b"blob 2", &sealed.0), Err(SealError::NotOurs));
        for at in 0..sealed.0.len() {
            let mut tampered = sealed.0.clone();
            tampered[at] ^= 1;
            // The top bit of an X25519 key does not count (RFC 7748 5), but HPKE binds the bytes.
            assert_eq!(open(&alice, b"keys", b"blob 1", &tampered), Err(SealError::NotOurs), "byte {at}");
        }
        for length in 0..sealed.0.len() {
            assert!(open(&alice, b"keys", b"blob 1", &sealed.0[..length]).is_err());
        }
    }

    #[test]
    fn another_seed_gives_another_ciphertext() {
        let key = PrivateKey::derive(&[1; 32]).public();
        let one = seal(key, b"", b"", b"secret", &seed(1)).unwrap();
        assert_ne!(one, seal(key, b"", b"", b"secret", &seed(2)).unwrap());
        assert!(!one.0.windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn nothing_is_sealed_to_a_key_of_low_order() {
        let zero = PublicKey(Bytes32([0; 32]));
        assert_eq!(seal(zero, b"", b"", b"secret", &seed(1)), Err(SealError::BadKey));
    }

    #[test]
    fn a_private_key_is_not_printed() {
        let key = PrivateKey::derive(&[1; 32]);
        let bytes = HEXLOWER.encode(&key.bytes[..]);
        assert!(!format!("{key:?}").contains(&bytes));
    }
}
