//! Passwords: hashed with Argon2id (RFC 9106), kept as PHC strings, never printed.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::OnceLock;

/// 19 MiB, two passes, one lane: what OWASP recommends as the least for Argon2id; some 20 ms of a core.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Memory in KiB, passes and lanes of new passwords.
pub(crate) const COST: (u32, u32, u32) = (MEMORY_KIB, PASSES, LANES);
/// What is taken from elsewhere.
const HIGHEST_MEMORY_KIB: u32 = 256 * 1024;
const HIGHEST_PASSES: u32 = 16;
const HIGHEST_LANES: u32 = 8;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the password could not be hashed: {0}")]
pub struct HashError(String);

/// What a user proves to be themselves with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credentials {
    /// Nobody can log in.
    Locked,
    /// A PHC string; its parameters are its own, so that old hashes stay good when the defaults rise.
    Password(String),
}

impl Credentials {
    /// Hashes a password under a random salt. Takes some 20 ms and 19 MiB.
    ///
    /// # Errors
    /// If the system has no random bytes, or the password is longer than Argon2 takes (4 GiB).
    pub fn new(password: &str) -> Result<Self, HashError> {
        hasher()
            .and_then(|argon2| argon2.hash_password(password.as_bytes()).map_err(|error| error.to_string()))
            .map(|hash| Self::Password(hash.to_string()))
            .map_err(HashError)
    }

    /// Of credentials from elsewhere: that they can be checked, at a cost that can be borne.
    ///
    /// # Errors
    /// Says what is wrong, without the hash.
    pub fn check(&self) -> Result<(), String> {
        let Self::Password(hash) = self else { return Ok(()) };
        let checked = |hash: &PasswordHash| {
            let params = Params::try_from(hash).ok()?;
            let known = Algorithm::try_from(hash.algorithm.as_str()).is_ok()
                && hash.salt.is_some()
                && hash.hash.is_some();
            (known && bearable(params.m_cost(), params.t_cost(), params.p_cost())).then_some(())
        };
        PasswordHash::new(hash).ok().and_then(|hash| checked(&hash)).ok_or_else(|| {
            format!(
                "the password is no PHC string of Argon2 with at most {HIGHEST_MEMORY_KIB} KiB, {HIGHEST_PASSES} \
                 passes and {HIGHEST_LANES} lanes"
            )
        })
    }

    /// As slow as [`Credentials::new`], whatever the outcome.
    pub fn verify(&self, password: &str) -> bool {
        match self {
            Self::Password(hash) => matches_hash(password, hash),
            Self::Locked => {
                waste_time(password);
                false
            }
        }
    }
}

/// The work of a check without one, so that an unknown user takes as long as a wrong password (against user
/// enumeration).
pub fn waste_time(password: &str) {
    static NOBODY: OnceLock<String> = OnceLock::new();
    let hash = NOBODY.get_or_init(|| match Credentials::new("nobody's") {
        Ok(Credentials::Password(hash)) => hash,
        _ => String::new(),
    });
    matches_hash(password, hash);
}

fn matches_hash(password: &str, hash: &str) -> bool {
    // A hash from elsewhere may be cheap or costly by its own parameters; only Argon2 is taken.
    PasswordHash::new(hash).is_ok_and(|hash| {
        hasher().is_ok_and(|argon2| argon2.verify_password(password.as_bytes(), &hash).is_ok())
    })
}

/// Whether a cost that comes from elsewhere is one that we bear.
pub(crate) const fn bearable(memory_kib: u32, passes: u32, lanes: u32) -> bool {
    memory_kib <= HIGHEST_MEMORY_KIB && passes <= HIGHEST_PASSES && lanes <= HIGHEST_LANES
}

/// Key material from a password (RFC 9106 3.1), `(memory in KiB, passes, lanes)` being its cost.
pub(crate) fn stretch(
    password: &str,
    salt: &[u8],
    cost: (u32, u32, u32),
    out: &mut [u8],
) -> Result<(), HashError> {
    let (memory_kib, passes, lanes) = cost;
    Params::new(memory_kib, passes, lanes, Some(out.len()))
        .map(|params| Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
        .and_then(|argon2| argon2.hash_password_into(password.as_bytes(), salt, out))
        .map_err(|error| HashError(error.to_string()))
}

fn hasher() -> Result<Argon2<'static>, String> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| error.to_string())?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Locked => "Locked",
            Self::Password(_) => "Password(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_is_right_and_no_hash_is_printed() {
        let credentials = Credentials::new("correct horse").unwrap();
        assert!(credentials.verify("correct horse"));
        assert!(!credentials.verify("wrong horse"));
        assert!(!Credentials::Locked.verify("correct horse"));
        assert!(!Credentials::Password("$argon2id$nonsense".into()).verify(""));
        assert_eq!(format!("{credentials:?}"), "Password(..)");
        let Credentials::Password(hash) = &credentials else { panic!("locked") };
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    }
}
