//! What a user has to open their keys with: a password, an app password or the recovery key. Each gives an X25519 key, the
//! *opener*, whose public half, the *lock*, is in the user's record. So keys can be sealed to all locks of an account
//! without any of the secrets being there.
//!
//! - A password is stretched by Argon2id (RFC 9106) under a salt of its own. The stored log-in hash has another one, and helps
//!   nobody to the opener.
//! - App passwords and recovery keys are made here, of at least 120 random bits, so that a plain key derivation does:
//!   there is nothing to guess.

use super::seal::{PrivateKey, PublicKey, Seed};
use crate::password::{self, HashError};
use cluster::UserId;
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Random bytes of an app password: 24 characters.
const APP_PASSWORD: usize = 15;
/// Random bytes of a recovery key: 32 characters.
const RECOVERY_KEY: usize = 20;
/// Characters between two hyphens, for people.
const GROUP: usize = 4;
const SALT: usize = 16;

/// The lock that a password opens, and what is needed to make the opener of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordLock {
    pub salt: [u8; SALT],
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
    pub lock: PublicKey,
}

impl PasswordLock {
    /// A new salt for a password. Takes some 20 ms and 19 MiB.
    ///
    /// # Errors
    /// If the password is longer than Argon2 takes.
    pub fn new(password: &str, seed: &Seed) -> Result<(Self, PrivateKey), HashError> {
        let mut salt = [0; SALT];
        salt.copy_from_slice(&seed[..SALT]);
        let (memory_kib, passes, lanes) = password::COST;
        let opener = stretch(password, &salt, (memory_kib, passes, lanes))?;
        Ok((Self { salt, memory_kib, passes, lanes, lock: opener.public() }, opener))
    }

    /// The opener, if the password is the right one. As slow as [`PasswordLock::new`].
    pub fn opener(&self, password: &str) -> Option<PrivateKey> {
        let opener = stretch(password, &self.salt, (self.memory_kib, self.passes, self.lanes)).ok()?;
        (opener.public() == self.lock).then_some(opener)
    }

    /// Of a lock from elsewhere: that it can be opened at a cost that can be borne.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        password::bearable(self.memory_kib, self.passes, self.lanes)
            .then_some(())
            .ok_or_else(|| "the keys' password needs more memory or time than Argon2 is given here".into())
    }
}

fn stretch(password: &str, salt: &[u8], cost: (u32, u32, u32)) -> Result<PrivateKey, HashError> {
    let mut material = Zeroizing::new([0; 32]);
    password::stretch(password, salt, cost, &mut material[..])?;
    Ok(PrivateKey::derive(&material[..]))
}

/// A secret that was made by us and shown once.
pub struct Generated {
    /// What the user keeps.
    pub text: Zeroizing<String>,
    pub opener: PrivateKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    AppPassword,
    Recovery,
}

impl Purpose {
    const fn bytes(self) -> usize {
        match self {
            Self::AppPassword => APP_PASSWORD,
            Self::Recovery => RECOVERY_KEY,
        }
    }

    const fn context(self) -> &'static str {
        match self {
            Self::AppPassword => "prickle 2026-11 app password to key",
            Self::Recovery => "prickle 2026-11 recovery key to key",
        }
    }
}

/// Makes a secret out of a seed.
pub fn generate(purpose: Purpose, user: UserId, seed: &Seed) -> Generated {
    let bytes = &seed[..purpose.bytes()];
    let plain = Zeroizing::new(BASE32_NOPAD.encode(bytes).to_lowercase());
    let mut text = Zeroizing::new(String::with_capacity(plain.len() * 2));
    for (at, character) in plain.chars().enumerate() {
        if at > 0 && at % GROUP == 0 {
            text.push('-');
        }
        text.push(character);
    }
    Generated { text, opener: derive(purpose, user, bytes) }
}

/// The opener of a secret as a person typed it: letter case, hyphens and spaces do not count. None if it cannot be one.
pub fn parse(purpose: Purpose, user: UserId, text: &str) -> Option<PrivateKey> {
    let characters = purpose.bytes() * 8 / 5;
    if text.len() > characters * 3 {
        return None;
    }
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    for character in text.chars().filter(|character| !matches!(character, '-' | ' ')) {
        plain.push(character.to_ascii_uppercase());
    }
    if plain.len() != characters {
        return None;
    }
    let bytes = Zeroizing::new(BASE32_NOPAD.decode(plain.as_bytes()).ok()?);
    Some(derive(purpose, user, &bytes))
}

/// Bound to the user, so that one secret at two accounts is two keys.
fn derive(purpose: Purpose, user: UserId, bytes: &[u8]) -> PrivateKey {
    let mut hasher = blake3::Hasher::new_derive_key(purpose.context());
    hasher.update(&user.to_bytes());
    hasher.update(bytes);
    let material = Zeroizing::new(*hasher.finalize().as_bytes());
    PrivateKey::derive(&material[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: UserId = UserId(1);

    fn seed(byte: u8) -> Seed {
        Zeroizing::new([byte; 32])
    }

    #[test]
    fn a_password_opens_its_own_lock_and_no_other() {
        let (lock, opener) = PasswordLock::new("correct horse", &seed(3)).unwrap();
        assert_eq!(lock.opener("correct horse").unwrap().public(), opener.public());
        assert!(lock.opener("wrong horse").is_none());
        assert_ne!(PasswordLock::new("correct horse", &seed(4)).unwrap().0.lock, lock.lock);
        assert_eq!(lock.check(), Ok(()));
        assert!(PasswordLock { memory_kib: 1 << 30, ..lock }.check().is_err());
    }

    #[test]
    fn a_generated_secret_is_known_again_however_it_is_typed() {
        let made = generate(Purpose::Recovery, ALICE, &seed(7));
        assert_eq!(made.text.len(), 32 + 7);
        let typed = made.text.replace('-', " ").to_uppercase();
        for text in [made.text.as_str(), &typed] {
            assert_eq!(parse(Purpose::Recovery, ALICE, text).unwrap().public(), made.opener.public());
        }
        assert_ne!(parse(Purpose::Recovery, UserId(2), &made.text).unwrap().public(), made.opener.public());
        assert!(parse(Purpose::AppPassword, ALICE, &made.text).is_none());
        for wrong in ["", "correct horse", "1111-1111-1111-1111-1111-1111-1111-1111", &"a".repeat(10_000)] {
            assert!(parse(Purpose::Recovery, ALICE, wrong).is_none(), "{wrong:.40}");
        }
    }
}
