//! Changes of accounts that have to do with keys: passwords, app passwords, the recovery key, the mode.
//!
//! What takes a secret to open keys is done in two steps: the keys are opened (slow, with the record as it is), then the record
//! is changed by compare-and-set. The second step refuses by itself what would lose keys that the first did not open.

use super::{UserDatabase, hashed};
use crate::crypto::seed;
use crate::environment;
use crate::wire::{Failure, Password};
use cluster::UserId;
use directory::encryption::{EncryptionError, Mode, PasswordLock, Purpose, Unlocked, opener};
use directory::{Credentials, Profile, ProfileError};
use zeroize::Zeroizing;

/// What opens an account's keys when its password is set.
pub enum Opening {
    /// The old password, an app password or the recovery key.
    With(Password),
    /// Nothing. Refused if there are keys.
    Nothing,
    /// Nothing, and what only the old password opens may stay unreadable.
    LoseMail,
}

/// Two Argon2 hashes with different salts: what is checked at log-in, and what opens keys.
struct NewSecrets {
    credentials: Credentials,
    lock: PasswordLock,
}

async fn secrets(password: &Password) -> Result<NewSecrets, Failure> {
    let credentials = hashed(password.0.clone()).await?;
    let lock = lock_of(password.clone()).await?;
    Ok(NewSecrets { credentials, lock })
}

async fn lock_of(password: Password) -> Result<PasswordLock, Failure> {
    let lock = blocking(move || PasswordLock::new(&password.0, &seed())).await?;
    Ok(lock.map_err(|error| Failure::Temporary(error.to_string()))?.0)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let failed = |_| Failure::Temporary("the password could not be worked on; try again".into());
    environment::blocking(work).await.map_err(failed)
}

fn refused(error: EncryptionError) -> ProfileError {
    ProfileError::Encryption(error)
}

impl UserDatabase {
    /// Makes an account in a mode; the domain's if `mode` is absent.
    ///
    /// # Errors
    /// As [`directory::Accounts::add_user`].
    pub async fn add_user(
        &self,
        address: &str,
        password: Password,
        quota: u64,
        mode: Option<Mode>,
    ) -> Result<Profile, Failure> {
        let mode = match mode {
            Some(mode) => mode,
            None => self.accounts.domain_encryption(address).await?,
        };
        if mode == Mode::Cluster {
            return self.add_account(address, hashed(password.0.clone()).await?, quota).await;
        }
        let NewSecrets { credentials, lock } = secrets(&password).await?;
        let at = self.machine.node()?.clock.now();
        let prepare = |profile: &mut Profile| {
            profile.encryption.turn_on(profile.id, &lock, &mut seed)?;
            // There is no mail yet.
            profile.encryption.rewrapping = false;
            Ok(())
        };
        let outcome = self.accounts.add_prepared_user(address, credentials, quota, at, prepare).await;
        self.forget();
        Ok(outcome?)
    }

    /// What of a user's keys a secret opens.
    async fn opened(&self, user: UserId, secret: &Password) -> Result<Unlocked, Failure> {
        let profile = self.profile(user).await?;
        let secret = secret.clone();
        blocking(move || profile.encryption.unlock(user, &secret.0)).await
    }

    async fn opened_or_refused(&self, user: UserId, secret: &Password) -> Result<Unlocked, Failure> {
        let opened = self.opened(user, secret).await?;
        if opened.is_empty() {
            return Err(Failure::Invalid(EncryptionError::Opens.to_string()));
        }
        Ok(opened)
    }

    /// Sets a password. Mail is never encrypted anew for it.
    ///
    /// # Errors
    /// [`Failure::Invalid`] if that would make mail unreadable that now can be read.
    pub async fn set_password(
        &self,
        user: UserId,
        password: Password,
        opening: Opening,
    ) -> Result<(), Failure> {
        let NewSecrets { credentials, lock } = secrets(&password).await?;
        let opened = match &opening {
            Opening::With(secret) if self.profile(user).await?.encryption.has_keys() => {
                self.opened_or_refused(user, secret).await?
            }
            _ => Unlocked::default(),
        };
        let lose = matches!(opening, Opening::LoseMail);
        self.update_profile(user, |profile| {
            if profile.encryption.has_keys() {
                match profile.encryption.change_password(user, &lock, &opened, &mut seed) {
                    Err(EncryptionError::WouldLose) if lose => {
                        profile.encryption.reset(user, &lock, &mut seed).map_err(refused)?;
                    }
                    outcome => outcome.map_err(refused)?,
                }
            }
            profile.credentials = credentials.clone();
            Ok(())
        })
        .await
        .map(|_| ())
    }

    /// Mode `user` needs the account's password once, to make its keys.
    ///
    /// # Errors
    /// [`Failure::Invalid`] without the right password.
    pub async fn set_encryption(
        &self,
        user: UserId,
        mode: Mode,
        password: Option<Password>,
    ) -> Result<(), Failure> {
        let profile = self.profile(user).await?;
        if mode == Mode::Cluster {
            self.update_profile(user, |profile| {
                profile.encryption.turn_off();
                Ok(())
            })
            .await?;
            return Ok(());
        }
        if profile.encryption.has_keys() {
            // Nobody needs to prove anything to have mail sealed to keys that are there.
            return self.turn_on(user, None).await;
        }
        let password = password.ok_or_else(|| Failure::Invalid(EncryptionError::NoKeys.to_string()))?;
        let (checked, given) = (profile, password.clone());
        if !blocking(move || checked.credentials.verify(&given.0)).await? {
            return Err(Failure::Invalid("this is not the account's password".into()));
        }
        let lock = lock_of(password).await?;
        self.turn_on(user, Some(lock)).await
    }

    async fn turn_on(&self, user: UserId, lock: Option<PasswordLock>) -> Result<(), Failure> {
        self.update_profile(user, |profile| {
            let encryption = &mut profile.encryption;
            match &lock {
                _ if encryption.mode == Mode::User => Ok(()),
                Some(lock) => encryption.turn_on(user, lock, &mut seed).map_err(refused),
                None => encryption.turn_on_again().map_err(refused),
            }
        })
        .await
        .map(|_| ())
    }

    /// A new recovery key, in place of the one before. It is shown once.
    ///
    /// # Errors
    /// [`Failure::Invalid`] if the secret does not open the keys.
    pub async fn new_recovery_key(
        &self,
        user: UserId,
        secret: Password,
    ) -> Result<Zeroizing<String>, Failure> {
        let opened = self.opened_or_refused(user, &secret).await?;
        let made = opener::generate(Purpose::Recovery, user, &seed());
        self.update_profile(user, |profile| {
            let lock = made.opener.public();
            profile.encryption.set_recovery(user, lock, &opened, &mut seed).map_err(refused)
        })
        .await?;
        Ok(made.text)
    }

    /// After a reset without the keys: what the recovery key, an app password or the password opens is readable with all of
    /// them from here on.
    ///
    /// # Errors
    /// [`Failure::Invalid`] if the secret does not open any key.
    pub async fn recover(&self, user: UserId, secret: Password) -> Result<(), Failure> {
        let opened = self.opened_or_refused(user, &secret).await?;
        self.update_profile(user, |profile| {
            profile.encryption.adopt(user, &opened, &mut seed).map_err(refused)
        })
        .await
        .map(|_| ())
    }

    /// Number and text of a new app password. The text is shown once. An account with keys needs a secret that opens
    /// them.
    ///
    /// # Errors
    /// [`Failure::Invalid`] says what is missing.
    pub async fn add_app_password(
        &self,
        user: UserId,
        name: &str,
        secret: Option<Password>,
    ) -> Result<(u32, Zeroizing<String>), Failure> {
        let opened = match &secret {
            Some(secret) => self.opened(user, secret).await?,
            None => Unlocked::default(),
        };
        let at = self.machine.node()?.clock.now();
        let made = opener::generate(Purpose::AppPassword, user, &seed());
        let mut id = 0;
        self.update_profile(user, |profile| {
            let app = (name, made.opener.public());
            id = profile.encryption.add_app_password(user, app, at, &opened, &mut seed).map_err(refused)?;
            Ok(())
        })
        .await?;
        Ok((id, made.text))
    }

    /// # Errors
    /// [`Failure::NotFound`]; [`Failure::Invalid`] if nothing else opens the keys.
    pub async fn revoke_app_password(&self, user: UserId, id: u32) -> Result<(), Failure> {
        let mut found = false;
        self.update_profile(user, |profile| {
            found = profile.encryption.revoke_app_password(id).map_err(refused)?;
            Ok(())
        })
        .await?;
        if found { Ok(()) } else { Err(Failure::NotFound) }
    }
}
