//! Per-user encryption (DESIGN 7, mode `user`): a user's keys and who can open them.
//!
//! The key of each body is sealed to the user's public key. The private key is in the user's record only sealed: to the lock of
//! the password, of each app password and of the recovery key ([`opener`]).
//!
//! - Keys are never removed as long as anything can open them, also when the mode is turned off: a copy of a message that turns
//!   up late may still be sealed to them.
//! - There are several pairs only after a reset that nobody could open the keys for ([`Encryption::reset`]): the newest is
//!   used, the older ones wait for somebody who opens them ([`Encryption::adopt`]).
//! - Whatever changes locks leaves every pair that was opened with at least one lock.

pub mod opener;
pub mod seal;
pub mod signature;
mod text;

pub use opener::{Generated, PasswordLock, Purpose};
pub use seal::{PrivateKey, PublicKey, SealError, Sealed, Seed};
pub use text::Bytes32;

use cluster::{Timestamp, UserId};
use serde::{Deserialize, Serialize};
use signature::Signed;

/// Pairs of one user: each reset without the keys adds one.
const PAIRS: usize = 8;
pub const APP_PASSWORDS: usize = 20;
/// Bytes of an app password's name.
const NAME: usize = 100;

/// Who can read an account's mail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The cluster.
    #[default]
    Cluster,
    /// Whoever has a secret of the user's.
    User,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionError {
    #[error("this account has no keys yet: turn encryption on with its password")]
    NoKeys,
    #[error(
        "the mail is encrypted for the user: give the old password, an app password or the recovery key, or say that \
         old mail may stay unreadable until one of them is used"
    )]
    WouldLose,
    #[error("this secret opens none of the account's keys")]
    Opens,
    #[error("the account's mode or newest key is another one: look at it again, and sign that")]
    NotThis,
    #[error("at most {0} app passwords")]
    AppPasswords(usize),
    #[error("an app password has a name of 1 to {NAME} bytes")]
    Name,
    #[error("at most {PAIRS} pairs of keys: use the recovery key first")]
    Pairs,
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// A pair of keys; the private half sealed to locks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPair {
    pub public: PublicKey,
    copies: Vec<Copy>,
}

/// The private half, sealed to one lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Copy {
    lock: PublicKey,
    sealed: Sealed,
}

/// A password for one program, made by us. It logs in like the user's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppPassword {
    pub id: u32,
    pub name: String,
    pub created: Timestamp,
    lock: PublicKey,
}

/// What an account's record has to do with encryption.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    pub mode: Mode,
    /// Mail from before the last change of the mode may still be wrapped the other way.
    pub rewrapping: bool,
    password: Option<PasswordLock>,
    recovery: Option<PublicKey>,
    app_passwords: Vec<AppPassword>,
    next_app_password: u32,
    /// Oldest first; the last one is used.
    pairs: Vec<KeyPair>,
    /// The cluster's CA vouches for mode and key ([`signature`]).
    #[serde(default)]
    signed: Option<Signed>,
}

/// Private keys of a user, opened. Zeroed when dropped.
#[derive(Debug, Default)]
pub struct Unlocked(Vec<PrivateKey>);

impl Unlocked {
    pub fn key(&self, public: PublicKey) -> Option<&PrivateKey> {
        self.0.iter().find(|key| key.public() == public)
    }

    pub fn keys(&self) -> impl Iterator<Item = &PrivateKey> {
        self.0.iter()
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Encryption {
    /// The key that new mail is sealed to; None in mode `cluster`.
    pub fn sealing_key(&self) -> Option<PublicKey> {
        match self.mode {
            Mode::User => self.newest_key(),
            Mode::Cluster => None,
        }
    }

    /// The CA's signature of the mode and key of now.
    pub fn signature(&self) -> Option<&[u8]> {
        let signed = self.signed.as_ref().filter(|signed| signed.sealing_key == self.sealing_key())?;
        Some(&signed.signature)
    }

    /// Notes a signature of the mode and key of now.
    ///
    /// # Errors
    /// [`EncryptionError::NotThis`] if it is of others.
    pub fn sign(
        &mut self,
        sealing_key: Option<PublicKey>,
        signature: Vec<u8>,
    ) -> Result<(), EncryptionError> {
        if sealing_key != self.sealing_key() || signature.len() > signature::LONGEST {
            return Err(EncryptionError::NotThis);
        }
        self.signed = Some(Signed { sealing_key, signature });
        Ok(())
    }

    pub fn newest_key(&self) -> Option<PublicKey> {
        self.pairs.last().map(|pair| pair.public)
    }

    pub const fn has_keys(&self) -> bool {
        !self.pairs.is_empty()
    }

    pub const fn has_recovery_key(&self) -> bool {
        self.recovery.is_some()
    }

    pub fn app_passwords(&self) -> &[AppPassword] {
        &self.app_passwords
    }

    /// How many pairs there are.
    pub const fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Pairs that the user's own password does not open.
    pub fn locked_pairs(&self) -> usize {
        let password = self.password.as_ref().map(|password| password.lock);
        let opens = |pair: &&KeyPair| pair.copies.iter().any(|copy| Some(copy.lock) == password);
        self.pairs.len() - self.pairs.iter().filter(opens).count()
    }

    /// True if this is one of the app passwords. Takes the time of one scalar multiplication.
    pub fn is_app_password(&self, user: UserId, text: &str) -> bool {
        opener::parse(Purpose::AppPassword, user, text)
            .is_some_and(|opener| self.app_passwords.iter().any(|app| app.lock == opener.public()))
    }

    /// The opener of a secret, whichever kind it is. Takes some 20 ms and 19 MiB if it is none that we made.
    pub fn opener(&self, user: UserId, text: &str) -> Option<PrivateKey> {
        let made = [Purpose::AppPassword, Purpose::Recovery]
            .into_iter()
            .filter_map(|purpose| opener::parse(purpose, user, text))
            .find(|opener| self.locks().any(|lock| lock == opener.public()));
        made.or_else(|| self.password.as_ref()?.opener(text))
    }

    /// Opens all pairs that a secret opens; none if it is none of the user's.
    pub fn unlock(&self, user: UserId, text: &str) -> Unlocked {
        if self.pairs.is_empty() {
            return Unlocked::default();
        }
        self.opener(user, text).map(|opener| self.open_with(user, &opener)).unwrap_or_default()
    }

    fn open_with(&self, user: UserId, opener: &PrivateKey) -> Unlocked {
        let open = |pair: &KeyPair| {
            let copy = pair.copies.iter().find(|copy| copy.lock == opener.public())?;
            let key = opener.open_key(&bound(user, pair.public), &copy.sealed).ok()?;
            // Somebody could have put their public key beside our private one.
            (key.public() == pair.public).then_some(key)
        };
        Unlocked(self.pairs.iter().filter_map(open).collect())
    }

    fn locks(&self) -> impl Iterator<Item = PublicKey> {
        let password = self.password.as_ref().map(|password| password.lock);
        let apps = self.app_passwords.iter().map(|app| app.lock);
        password.into_iter().chain(self.recovery).chain(apps)
    }

    /// Mode `user` from here on. Keys that are there already are used again; then `password` changes nothing.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn turn_on(
        &mut self,
        user: UserId,
        password: &PasswordLock,
        seed: &mut impl FnMut() -> Seed,
    ) -> Result<(), EncryptionError> {
        if self.pairs.is_empty() {
            self.password = Some(password.clone());
            self.add_pair(user, seed)?;
        }
        self.turn_on_again()
    }

    /// Mode `user` from here on, with the keys that are there.
    ///
    /// # Errors
    /// [`EncryptionError::NoKeys`].
    pub fn turn_on_again(&mut self) -> Result<(), EncryptionError> {
        if self.pairs.is_empty() {
            return Err(EncryptionError::NoKeys);
        }
        self.mode = Mode::User;
        self.rewrapping = true;
        Ok(())
    }

    /// Mode `cluster` from here on; keys stay.
    pub fn turn_off(&mut self) {
        if self.mode == Mode::User {
            self.mode = Mode::Cluster;
            self.rewrapping = true;
        }
    }

    fn add_pair(&mut self, user: UserId, seed: &mut impl FnMut() -> Seed) -> Result<(), EncryptionError> {
        if self.pairs.len() >= PAIRS {
            return Err(EncryptionError::Pairs);
        }
        let key = PrivateKey::derive(&seed()[..]);
        let mut pair = KeyPair { public: key.public(), copies: Vec::new() };
        for lock in self.locks().collect::<Vec<_>>() {
            let sealed = key.seal_to(lock, &bound(user, pair.public), &seed())?;
            pair.copies.push(Copy { lock, sealed });
        }
        self.pairs.push(pair);
        Ok(())
    }

    /// Seals what was opened to all locks that cannot open it yet.
    ///
    /// # Errors
    /// Only if a lock is no key.
    pub fn adopt(
        &mut self,
        user: UserId,
        opened: &Unlocked,
        seed: &mut impl FnMut() -> Seed,
    ) -> Result<(), EncryptionError> {
        let locks: Vec<PublicKey> = self.locks().collect();
        for pair in &mut self.pairs {
            let Some(key) = opened.key(pair.public) else { continue };
            for &lock in locks
                .iter()
                .filter(|&&lock| pair.copies.iter().all(|copy| copy.lock != lock))
                .collect::<Vec<_>>()
            {
                let sealed = key.seal_to(lock, &bound(user, pair.public), &seed())?;
                pair.copies.push(Copy { lock, sealed });
            }
        }
        self.forget_locks();
        Ok(())
    }

    /// Drops copies for locks that are none any more, and pairs that nothing can open for ever.
    fn forget_locks(&mut self) {
        let locks: Vec<PublicKey> = self.locks().collect();
        for pair in &mut self.pairs {
            pair.copies.retain(|copy| locks.contains(&copy.lock));
        }
        self.pairs.retain(|pair| !pair.copies.is_empty());
    }

    /// Another password, with the keys opened. Mail is not touched.
    ///
    /// # Errors
    /// [`EncryptionError::WouldLose`] if the old password opens keys that are not among those `opened`.
    pub fn change_password(
        &mut self,
        user: UserId,
        password: &PasswordLock,
        opened: &Unlocked,
        seed: &mut impl FnMut() -> Seed,
    ) -> Result<(), EncryptionError> {
        let old = self.password.as_ref().map(|password| password.lock);
        let needs = |pair: &KeyPair| pair.copies.iter().any(|copy| Some(copy.lock) == old);
        if self.pairs.iter().any(|pair| needs(pair) && opened.key(pair.public).is_none()) {
            return Err(EncryptionError::WouldLose);
        }
        self.password = Some(password.clone());
        self.adopt(user, opened, seed)
    }

    /// Another password, and nobody there to open the keys: new mail is for a new pair, which the new password and all other
    /// locks open; mail from before is unreadable until an app password or the recovery key was used.
    ///
    /// # Errors
    /// [`EncryptionError::Pairs`].
    pub fn reset(
        &mut self,
        user: UserId,
        password: &PasswordLock,
        seed: &mut impl FnMut() -> Seed,
    ) -> Result<(), EncryptionError> {
        let before = self.clone();
        self.password = Some(password.clone());
        // Nothing is dropped here that somebody could still open; the old password opens nothing any more.
        self.forget_locks();
        self.add_pair(user, seed).inspect_err(|_| *self = before)
    }

    /// A recovery key in place of the one before.
    ///
    /// # Errors
    /// [`EncryptionError::Opens`] if there are keys and none was opened.
    pub fn set_recovery(
        &mut self,
        user: UserId,
        lock: PublicKey,
        opened: &Unlocked,
        seed: &mut impl FnMut() -> Seed,
    ) -> Result<(), EncryptionError> {
        if self.pairs.is_empty() {
            return Err(EncryptionError::NoKeys);
        }
        // What only the old recovery key opens must not go with it.
        let old = self.recovery;
        let only_old = |pair: &KeyPair| pair.copies.iter().all(|copy| Some(copy.lock) == old);
        let lost = self.pairs.iter().any(|pair| only_old(pair) && opened.key(pair.public).is_none());
        if opened.is_empty() || lost {
            return Err(EncryptionError::Opens);
        }
        self.recovery = Some(lock);
        self.adopt(user, opened, seed)
    }

    /// # Errors
    /// [`EncryptionError::Opens`] if there are keys and none was opened.
    pub fn add_app_password(
        &mut self,
        user: UserId,
        app: (&str, PublicKey),
        at: Timestamp,
        opened: &Unlocked,
        seed: &mut impl FnMut() -> Seed,
    ) -> Result<u32, EncryptionError> {
        let (name, lock) = app;
        if self.app_passwords.len() >= APP_PASSWORDS {
            return Err(EncryptionError::AppPasswords(APP_PASSWORDS));
        }
        if !(1..=NAME).contains(&name.len()) || name.chars().any(char::is_control) {
            return Err(EncryptionError::Name);
        }
        if self.has_keys() && opened.is_empty() {
            return Err(EncryptionError::Opens);
        }
        self.next_app_password = self.next_app_password.saturating_add(1);
        let id = self.next_app_password;
        self.app_passwords.push(AppPassword { id, name: name.to_owned(), created: at, lock });
        self.adopt(user, opened, seed)?;
        Ok(id)
    }

    /// False if there is none of that number.
    ///
    /// # Errors
    /// [`EncryptionError::WouldLose`] if nothing else opens some of the keys.
    pub fn revoke_app_password(&mut self, id: u32) -> Result<bool, EncryptionError> {
        let Some(app) = self.app_passwords.iter().find(|app| app.id == id) else { return Ok(false) };
        let lock = app.lock;
        if self.pairs.iter().any(|pair| pair.copies.iter().all(|copy| copy.lock == lock)) {
            return Err(EncryptionError::WouldLose);
        }
        self.app_passwords.retain(|app| app.id != id);
        self.forget_locks();
        Ok(true)
    }

    /// Of a record from elsewhere.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        if let Some(password) = &self.password {
            password.check()?;
        }
        let locks = APP_PASSWORDS + 2;
        if self.pairs.len() > PAIRS
            || self.app_passwords.len() > APP_PASSWORDS
            || self.pairs.iter().any(|pair| pair.copies.is_empty() || pair.copies.len() > locks)
        {
            return Err("too many keys or app passwords, or keys that nothing opens".into());
        }
        if self.mode == Mode::User && self.pairs.is_empty() {
            return Err("encrypted for the user, and no key".into());
        }
        let named =
            |app: &AppPassword| (1..=NAME).contains(&app.name.len()) && app.id <= self.next_app_password;
        if !self.app_passwords.iter().all(named) {
            return Err("an app password's name or number is wrong".into());
        }
        Ok(())
    }
}

/// What a sealed private key belongs to.
fn bound(user: UserId, public: PublicKey) -> [u8; 48] {
    let mut bound = [0; 48];
    bound[..16].copy_from_slice(&user.to_bytes());
    bound[16..].copy_from_slice(&public.0.0);
    bound
}

#[cfg(test)]
mod tests;
