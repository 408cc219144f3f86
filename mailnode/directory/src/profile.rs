//! A user's record in the user profile database. What must change together is in this one record: folder tree,
//! UID reservations, subscriptions, credentials, quota.
//!
//! - A folder id is never used again, and no two folders of a user ever had the same UIDVALIDITY.
//! - A deleted folder is remembered with the time of its deletion, so that mail that turns up for it is
//!   expunged or saved into INBOX (DESIGN 4).
//! - INBOX always exists (RFC 9051 5.1).

mod transfer;

use crate::address::Address;
use crate::encryption::{Encryption, EncryptionError};
use crate::folder::{Folder, INBOX, NameError, SpecialUse, UidsUsedUp, is_inferior, normal_name, superiors};
use crate::password::Credentials;
use cluster::mailbox::Reservation;
use cluster::{FolderId, FolderTable, Timestamp, UidBlock, UserId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const FOLDERS: usize = 2_000;
const SUBSCRIPTIONS: usize = 2_000;
const DELETED_FOLDERS: usize = 4_000;
/// A deletion is remembered as long as mail's tombstones are.
const DELETION_MEMORY_MILLIS: u64 = 7 * 24 * 3600 * 1000;
/// First byte of a profile's record.
const FORMAT: u8 = 3;

/// Why a change of a profile is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("no such folder")]
    NotFound,
    #[error("there is a folder of that name")]
    AlreadyExists,
    #[error("INBOX cannot be deleted")]
    Inbox,
    #[error("a folder cannot be moved into itself")]
    IntoItself,
    #[error("at most {limit} {what}")]
    Limit { what: &'static str, limit: usize },
    #[error("there is a folder for {0:?} already")]
    SpecialUseTaken(SpecialUse),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Uids(#[from] UidsUsedUp),
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("record of a newer format ({0}); update this node")]
    Newer(u8),
    #[error("record of the format {0}, of before the first release: this program does not read it")]
    Older(u8),
    #[error("damaged record")]
    Damaged,
}

/// What became of a renamed folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renamed {
    Folder(FolderId),
    /// INBOX stays; its messages go into this new folder (RFC 9051 6.3.6).
    MoveInbox(FolderId),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    pub id: UserId,
    /// The first is the one to show. Each has a record of its own that leads here.
    pub addresses: Vec<Address>,
    pub credentials: Credentials,
    pub encryption: Encryption,
    /// Bytes; 0 is unlimited.
    pub quota: u64,
    /// False: neither log-in nor mail.
    pub enabled: bool,
    pub created: Timestamp,
    pub folders: BTreeMap<FolderId, Folder>,
    deleted: BTreeMap<FolderId, Timestamp>,
    subscriptions: BTreeSet<String>,
    next_folder: u32,
    last_uid_validity: u32,
    /// That of the record it was read from, by which the newer of two is known.
    #[serde(skip)]
    pub version: u64,
}

impl Profile {
    /// A new account with INBOX and the special-use folders, all subscribed.
    pub fn new(id: UserId, address: Address, credentials: Credentials, quota: u64, at: Timestamp) -> Self {
        let mut profile = Self {
            id,
            addresses: vec![address],
            credentials,
            encryption: Encryption::default(),
            quota,
            enabled: true,
            created: at,
            folders: BTreeMap::new(),
            deleted: BTreeMap::new(),
            subscriptions: BTreeSet::new(),
            next_folder: FolderId::INBOX.0,
            last_uid_validity: 0,
            version: 0,
        };
        let uses = SpecialUse::ALL.map(|special_use| (special_use.folder_name(), Some(special_use)));
        for (name, special_use) in [(INBOX, None)].into_iter().chain(uses) {
            profile.add_folder(name, special_use, at);
            profile.subscriptions.insert(name.to_owned());
        }
        profile
    }

    pub const fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub const fn takes_mail(&self) -> bool {
        self.enabled
    }

    /// The user's password or an app password. Takes some 20 ms of a core and 19 MiB, but for app passwords.
    pub fn verify_password(&self, password: &str) -> bool {
        self.encryption.is_app_password(self.id, password) || self.credentials.verify(password)
    }

    pub fn folder_table(&self) -> FolderTable {
        FolderTable { live: self.folders.keys().copied().collect(), deleted: self.deleted.clone() }
    }

    pub fn folder_named(&self, name: &str) -> Option<&Folder> {
        let name = normal_name(name).ok()?;
        self.folders.values().find(|folder| folder.name == name)
    }

    /// CREATE, with the folders above that do not exist yet (RFC 9051 6.3.4).
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn create_folder(
        &mut self,
        name: &str,
        special_use: Option<SpecialUse>,
        at: Timestamp,
    ) -> Result<FolderId, ProfileError> {
        let name = normal_name(name)?;
        if self.folder_named(&name).is_some() {
            return Err(ProfileError::AlreadyExists);
        }
        // RFC 6154 3: a server may refuse a second folder for one use.
        if let Some(taken) = special_use
            && self.folders.values().any(|folder| folder.special_use == special_use)
        {
            return Err(ProfileError::SpecialUseTaken(taken));
        }
        self.make_superiors(&name, at)?;
        Ok(self.add_folder(&name, special_use, at))
    }

    /// DELETE. Inferior folders stay (RFC 9051 6.3.5).
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn delete_folder(&mut self, name: &str, at: Timestamp) -> Result<FolderId, ProfileError> {
        let id = self.folder_named(name).ok_or(ProfileError::NotFound)?.id;
        if id == FolderId::INBOX {
            return Err(ProfileError::Inbox);
        }
        self.forget_deletions(at);
        if self.deleted.len() >= DELETED_FOLDERS {
            return Err(ProfileError::Limit {
                what: "deletions of folders within a week",
                limit: DELETED_FOLDERS,
            });
        }
        self.folders.remove(&id);
        self.deleted.insert(id, at);
        Ok(id)
    }

    /// RENAME, with inferior folders (RFC 9051 6.3.6). A renamed folder keeps id, UIDs and UIDVALIDITY.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn rename_folder(&mut self, from: &str, to: &str, at: Timestamp) -> Result<Renamed, ProfileError> {
        let (from, to) = (normal_name(from)?, normal_name(to)?);
        if self.folder_named(&to).is_some() {
            return Err(ProfileError::AlreadyExists);
        }
        let id = self.folder_named(&from).ok_or(ProfileError::NotFound)?.id;
        if id == FolderId::INBOX {
            self.make_superiors(&to, at)?;
            return Ok(Renamed::MoveInbox(self.add_folder(&to, None, at)));
        }
        if is_inferior(&to, &from) {
            return Err(ProfileError::IntoItself);
        }
        let mut moves = vec![(id, to.clone())];
        for folder in self.folders.values().filter(|folder| is_inferior(&folder.name, &from)) {
            let rest = folder.name.strip_prefix(&from).unwrap_or_default();
            let name = normal_name(&format!("{to}{rest}"))?;
            if self.folders.values().any(|other| other.name == name) {
                return Err(ProfileError::AlreadyExists);
            }
            moves.push((folder.id, name));
        }
        self.make_superiors(&to, at)?;
        for (id, name) in moves {
            if let Some(folder) = self.folders.get_mut(&id) {
                folder.name = name;
            }
        }
        Ok(Renamed::Folder(id))
    }

    /// A subscription is a name, whether or not there is a folder (RFC 9051 6.3.7).
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn subscribe(&mut self, name: &str) -> Result<(), ProfileError> {
        let name = normal_name(name)?;
        if self.subscriptions.len() >= SUBSCRIPTIONS && !self.subscriptions.contains(&name) {
            return Err(ProfileError::Limit { what: "subscriptions", limit: SUBSCRIPTIONS });
        }
        self.subscriptions.insert(name);
        Ok(())
    }

    /// # Errors
    /// Nothing was changed.
    pub fn unsubscribe(&mut self, name: &str) -> Result<(), ProfileError> {
        self.subscriptions.remove(&normal_name(name)?);
        Ok(())
    }

    pub fn is_subscribed(&self, name: &str) -> bool {
        self.subscriptions.contains(name)
    }

    pub fn subscriptions(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.iter().map(String::as_str)
    }

    /// Reserves UIDs of a folder ([`Folder::reserve`]).
    ///
    /// # Errors
    /// If there is no such folder, or its UIDs are used up.
    pub fn reserve_uids(
        &mut self,
        folder: FolderId,
        asked: &Reservation,
    ) -> Result<Option<UidBlock>, ProfileError> {
        Ok(self.folders.get_mut(&folder).ok_or(ProfileError::NotFound)?.reserve(asked)?)
    }

    /// The record's bytes: a format version, then postcard.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        // Writing to memory cannot fail, and everything in a profile has a length that is known.
        bytes.extend(postcard::to_stdvec(self).unwrap_or_default());
        bytes
    }

    /// # Errors
    /// If the record is damaged, or of another format than this program's.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        match bytes.split_first() {
            Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|_| CodecError::Damaged),
            Some((&older @ 1.., _)) if older < FORMAT => Err(CodecError::Older(older)),
            Some((&newer, _)) if newer > FORMAT => Err(CodecError::Newer(newer)),
            _ => Err(CodecError::Damaged),
        }
    }

    fn make_superiors(&mut self, name: &str, at: Timestamp) -> Result<(), ProfileError> {
        let missing: Vec<String> =
            superiors(name).filter(|above| self.folder_named(above).is_none()).map(str::to_owned).collect();
        if self.folders.len() + missing.len() >= FOLDERS {
            return Err(ProfileError::Limit { what: "folders", limit: FOLDERS });
        }
        for above in missing {
            self.add_folder(&above, None, at);
        }
        Ok(())
    }

    fn add_folder(&mut self, name: &str, special_use: Option<SpecialUse>, at: Timestamp) -> FolderId {
        let id = FolderId(self.next_folder);
        self.next_folder = self.next_folder.saturating_add(1);
        // Seconds, as clients are used to, but always above the last (RFC 9051 2.3.1.1).
        let seconds = u32::try_from(at.unix_millis() / 1000).unwrap_or(0);
        self.last_uid_validity = seconds.max(self.last_uid_validity.saturating_add(1));
        self.folders.insert(id, Folder::new(id, name, special_use, self.last_uid_validity));
        id
    }

    fn forget_deletions(&mut self, at: Timestamp) {
        let old = at.unix_millis().saturating_sub(DELETION_MEMORY_MILLIS);
        self.deleted.retain(|_, deleted| deleted.unix_millis() >= old);
    }
}

#[cfg(test)]
mod tests;
