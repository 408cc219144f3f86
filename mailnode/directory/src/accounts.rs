//! Users, aliases and domains, as steps of one record each.
//!
//! | record | key | value |
//! | --- | --- | --- |
//! | profile | user id | [`Profile`] |
//! | address | address | [`Target`]: the user, the alias's targets, or the mailing list |
//! | members | list id and shard | [`lists`] |
//! | domain | domain | [`Domain`] |
//!
//! A user exists from the moment that their profile is written until it is deleted. An address is written before
//! the profile it leads to and deleted after it, so at every point
//! - a profile that counts has an address that leads to it;
//! - an address may lead to a user id without a profile, which takes no mail and lets nobody in. The next
//!   [`Accounts::add_user`] of that address, or the repair pass, replaces it.

pub mod lists;
mod repair;
mod resolve;
pub mod transfer;

pub use lists::{List, Posting};
pub use repair::{Repair, Repaired};
pub use resolve::Resolved;

use crate::address::{Address, AddressError, normal_domain};
use crate::encryption::{EncryptionError, Mode};
use crate::password::Credentials;
use crate::profile::{CodecError, Profile, ProfileError};
use crate::record::{DatabaseError, Key, Kind, Read, Records, Token};
use bytes::Bytes;
use cluster::mailbox::Reservation;
use cluster::{FolderId, Timestamp, UidBlock, UserId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Targets of one alias.
const ALIAS_TARGETS: usize = 200;
/// Attempts of a read-change-write before somebody else's changes win.
const ATTEMPTS: usize = 16;
/// Records asked for at once by passes over everything.
const PAGE: usize = 500;
/// First byte of address and domain records.
const FORMAT: u8 = 2;

/// Why nothing was done, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    #[error("not found")]
    NotFound,
    #[error("already exists")]
    AlreadyExists,
    /// Bad input; the text says what would be right.
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Try again later.
    #[error("{0}")]
    Temporary(String),
}

impl From<DatabaseError> for AccountError {
    fn from(error: DatabaseError) -> Self {
        Self::Temporary(error.to_string())
    }
}

impl From<CodecError> for AccountError {
    fn from(error: CodecError) -> Self {
        Self::Temporary(error.to_string())
    }
}

/// Where an address leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    User(UserId),
    Alias(Vec<Address>),
    List(Box<List>),
}

/// A domain that the cluster takes mail for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// The first account made in it: where `postmaster@` leads as long as that address was not made
    /// (RFC 5321 4.5.1).
    pub postmaster: Option<UserId>,
    /// What new accounts get.
    pub encryption: Mode,
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = vec![FORMAT];
    bytes.extend(postcard::to_stdvec(value).unwrap_or_default());
    bytes.into()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|_| CodecError::Damaged),
        Some((&older @ 1.., _)) if older < FORMAT => Err(CodecError::Older(older)),
        Some((&newer, _)) if newer > FORMAT => Err(CodecError::Newer(newer)),
        _ => Err(CodecError::Damaged),
    }
}

/// What a record holds, with its version.
fn decoded<T: DeserializeOwned>(read: &Read) -> Result<Option<T>, CodecError> {
    read.value.as_deref().map(decode).transpose()
}

fn profile_of(read: &Read) -> Result<Profile, AccountError> {
    let mut profile = Profile::decode(read.value.as_deref().ok_or(AccountError::NotFound)?)?;
    profile.version = read.version;
    Ok(profile)
}

/// A page of accounts, and where to go on. None: that was all.
pub struct Profiles {
    pub profiles: Vec<Profile>,
    pub next: Option<Bytes>,
}

/// The operations on accounts over any database of records.
pub struct Accounts<R> {
    records: R,
    /// A source of random tokens and user ids.
    random: fn() -> Token,
}

impl<R: Records> Accounts<R> {
    pub const fn new(records: R, random: fn() -> Token) -> Self {
        Self { records, random }
    }

    pub const fn records(&self) -> &R {
        &self.records
    }

    async fn set(&self, key: &Key, expected: u64, value: Option<Bytes>) -> Result<u64, DatabaseError> {
        self.records.compare_and_set(key, expected, (self.random)(), value).await
    }

    /// A user's profile, possibly an older state of it.
    ///
    /// # Errors
    /// [`AccountError::NotFound`] only if there surely is none.
    pub async fn profile(&self, user: UserId) -> Result<Profile, AccountError> {
        let read = self.records.read(&Key::profile(user), true).await?;
        profile_of(&read)
    }

    /// Changes a profile: read, change, compare-and-set, again if it was changed meanwhile.
    ///
    /// # Errors
    /// What `change` says, or that the database is away; then the change may yet have happened.
    pub async fn update_profile<T>(
        &self,
        user: UserId,
        mut change: impl FnMut(&mut Profile) -> Result<T, ProfileError> + Send,
    ) -> Result<(Profile, T), AccountError>
    where
        T: Send,
    {
        let key = Key::profile(user);
        for _ in 0..ATTEMPTS {
            let read = self.records.read(&key, false).await?;
            let mut profile = profile_of(&read)?;
            let before = profile.clone();
            let outcome = change(&mut profile)?;
            if profile == before {
                return Ok((profile, outcome));
            }
            match self.set(&key, read.version, Some(profile.encode().into())).await {
                Ok(version) => {
                    profile.version = version;
                    return Ok((profile, outcome));
                }
                Err(DatabaseError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(busy())
    }

    /// Reserves UIDs of a folder: from here on nobody else is given them. None: [`Folder::reserve`].
    ///
    /// # Errors
    /// As [`Accounts::update_profile`].
    pub async fn reserve_uids(
        &self,
        user: UserId,
        folder: FolderId,
        asked: &Reservation,
    ) -> Result<(Profile, Option<UidBlock>), AccountError> {
        self.update_profile(user, |profile| profile.reserve_uids(folder, asked)).await
    }

    /// Makes an account.
    ///
    /// # Errors
    /// [`AccountError::AlreadyExists`] if the address leads somewhere; [`AccountError::Invalid`] if its domain is
    /// not ours.
    pub async fn add_user(
        &self,
        address: &str,
        credentials: Credentials,
        quota: u64,
        at: Timestamp,
    ) -> Result<Profile, AccountError> {
        self.add_prepared_user(address, credentials, quota, at, |_| Ok(())).await
    }

    /// [`Accounts::add_user`], with whatever `prepare` does to the record before it is there for others.
    ///
    /// # Errors
    /// As [`Accounts::add_user`], or what `prepare` says.
    pub async fn add_prepared_user(
        &self,
        address: &str,
        credentials: Credentials,
        quota: u64,
        at: Timestamp,
        prepare: impl FnOnce(&mut Profile) -> Result<(), EncryptionError> + Send,
    ) -> Result<Profile, AccountError> {
        let address = self.new_address(address).await?;
        let user = UserId(u128::from_be_bytes((self.random)()));
        let mut profile = Profile::new(user, address.clone(), credentials, quota, at);
        prepare(&mut profile).map_err(ProfileError::from)?;
        self.claim_address(&address, user).await?;
        let key = Key::profile(user);
        match self.set(&key, 0, Some(profile.encode().into())).await {
            Ok(_) => {}
            Err(DatabaseError::Conflict) => return Err(busy()),
            Err(error) => return Err(error.into()),
        }
        // While the profile was not there, the address could be taken for an orphan and given away.
        if self.target(&address).await?.1 != Some(Target::User(user)) {
            self.delete(&key).await?;
            return Err(busy());
        }
        self.offer_postmaster(address.domain(), user).await;
        Ok(profile)
    }

    /// An address that may be made: well-formed, without a detail, in a domain of ours.
    async fn new_address(&self, text: &str) -> Result<Address, AccountError> {
        let address = Address::parse(text)?;
        if address.local().contains('+') {
            return Err(AccountError::Invalid(
                "no '+' in a new address: user+detail leads to user already".into(),
            ));
        }
        if self.domain(address.domain()).await?.1.is_none() {
            return Err(AccountError::Invalid(format!("add the domain {} first", address.domain())));
        }
        Ok(address)
    }

    async fn claim_address(&self, address: &Address, user: UserId) -> Result<(), AccountError> {
        let key = Key::address(address);
        let (version, target) = self.target(address).await?;
        match target {
            Some(Target::Alias(_) | Target::List(_)) => return Err(AccountError::AlreadyExists),
            Some(Target::User(owner)) if self.exists(owner).await? => {
                return Err(AccountError::AlreadyExists);
            }
            // Left over by somebody who did not come to the profile, or removed it and did not come further.
            Some(Target::User(_)) | None => {}
        }
        match self.set(&key, version, Some(encode(&Target::User(user)))).await {
            Ok(_) => Ok(()),
            Err(DatabaseError::Conflict) => Err(AccountError::AlreadyExists),
            Err(error) => Err(error.into()),
        }
    }

    async fn exists(&self, user: UserId) -> Result<bool, AccountError> {
        Ok(self.records.read(&Key::profile(user), false).await?.value.is_some())
    }

    /// A convenience that may fail: the next account is offered again.
    async fn offer_postmaster(&self, domain: &str, user: UserId) {
        if let Ok((version, Some(known @ Domain { postmaster: None, .. }))) = self.domain(domain).await {
            let value = Domain { postmaster: Some(user), ..known };
            let _ = self.set(&Key::domain(domain), version, Some(encode(&value))).await;
        }
    }

    /// The next account that is made is the domain's postmaster. May fail, too: then mail for it is refused.
    async fn retire_postmaster(&self, domain: &str, user: UserId) {
        if let Ok((version, Some(known))) = self.domain(domain).await
            && known.postmaster == Some(user)
        {
            let value = Domain { postmaster: None, ..known };
            let _ = self.set(&Key::domain(domain), version, Some(encode(&value))).await;
        }
    }

    /// Removes an account: from the first step on it does not exist.
    ///
    /// # Errors
    /// [`AccountError::NotFound`]; or the database is away, then it may be half done: try again.
    pub async fn remove_user(&self, address: &str) -> Result<UserId, AccountError> {
        let address = Address::parse(address)?;
        let Some(Target::User(user)) = self.target(&address).await?.1 else {
            return Err(AccountError::NotFound);
        };
        let key = Key::profile(user);
        let read = self.records.read(&key, false).await?;
        let mut addresses = vec![address];
        let existed = read.value.is_some();
        if let Some(bytes) = &read.value {
            // A record that cannot be read is removed all the same.
            addresses.extend(Profile::decode(bytes).map(|profile| profile.addresses).unwrap_or_default());
            self.delete(&key).await?;
        }
        for address in addresses {
            if self.target(&address).await?.1 == Some(Target::User(user)) {
                self.delete(&Key::address(&address)).await?;
            }
            self.retire_postmaster(address.domain(), user).await;
        }
        if existed { Ok(user) } else { Err(AccountError::NotFound) }
    }

    /// # Errors
    /// As [`Accounts::update_profile`].
    pub async fn set_credentials(
        &self,
        user: UserId,
        credentials: Credentials,
    ) -> Result<Profile, AccountError> {
        let change = |profile: &mut Profile| {
            profile.credentials = credentials.clone();
            Ok(())
        };
        Ok(self.update_profile(user, change).await?.0)
    }

    /// # Errors
    /// [`AccountError::AlreadyExists`].
    pub async fn add_domain(&self, domain: &str) -> Result<(), AccountError> {
        let domain = normal_domain(domain)?;
        let (version, known) = self.domain(&domain).await?;
        if known.is_some() {
            return Err(AccountError::AlreadyExists);
        }
        match self.set(&Key::domain(&domain), version, Some(encode(&Domain::default()))).await {
            Ok(_) => Ok(()),
            Err(DatabaseError::Conflict) => Err(AccountError::AlreadyExists),
            Err(error) => Err(error.into()),
        }
    }

    /// What new accounts get in the domain of an address.
    ///
    /// # Errors
    /// [`AccountError::Invalid`] if it is none of ours.
    pub async fn domain_encryption(&self, address: &str) -> Result<Mode, AccountError> {
        let address = Address::parse(address)?;
        match self.domain(address.domain()).await?.1 {
            Some(domain) => Ok(domain.encryption),
            None => Err(AccountError::Invalid(format!("add the domain {} first", address.domain()))),
        }
    }

    /// Sets what new accounts get in a domain; those that are there stay as they are.
    ///
    /// # Errors
    /// [`AccountError::NotFound`].
    pub async fn set_domain_encryption(&self, domain: &str, encryption: Mode) -> Result<(), AccountError> {
        let change = |known: Option<Domain>| {
            let known = known.ok_or(AccountError::NotFound)?;
            Ok((Some(Domain { encryption, ..known }), ()))
        };
        self.change(&Key::domain(&normal_domain(domain)?), change).await
    }

    /// # Errors
    /// [`AccountError::NotFound`]; [`AccountError::Invalid`] while it has addresses.
    pub async fn remove_domain(&self, domain: &str) -> Result<(), AccountError> {
        let domain = normal_domain(domain)?;
        if self.domain(&domain).await?.1.is_none() {
            return Err(AccountError::NotFound);
        }
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.records.list(Kind::Address, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            let of_domain = |key: &Key| {
                std::str::from_utf8(key.id())
                    .is_ok_and(|id| id.rsplit_once('@').is_some_and(|(_, d)| d == domain))
            };
            if let Some((key, _)) = page.iter().find(|(key, _)| of_domain(key)) {
                let address = String::from_utf8_lossy(key.id());
                return Err(AccountError::Invalid(format!("{domain} has addresses, {address} for one")));
            }
            after = Some(Bytes::copy_from_slice(last.id()));
        }
        self.delete(&Key::domain(&domain)).await
    }

    /// Makes an address that leads to other addresses of ours.
    ///
    /// # Errors
    /// As [`Accounts::add_user`].
    pub async fn add_alias(&self, address: &str, targets: &[String]) -> Result<(), AccountError> {
        let address = self.new_address(address).await?;
        if !(1..=ALIAS_TARGETS).contains(&targets.len()) {
            return Err(AccountError::Invalid(format!("an alias has 1 to {ALIAS_TARGETS} targets")));
        }
        let mut parsed = Vec::with_capacity(targets.len());
        for target in targets {
            let target = Address::parse(target)?;
            if self.domain(target.domain()).await?.1.is_none() {
                return Err(AccountError::Invalid(format!("{target} is in none of our domains")));
            }
            parsed.push(target);
        }
        self.claim_for(&address, Target::Alias(parsed)).await
    }

    /// Makes an address lead to an alias's targets or a list, if it leads nowhere.
    async fn claim_for(&self, address: &Address, target: Target) -> Result<(), AccountError> {
        let (version, known) = self.target(address).await?;
        let orphan = match known {
            None => true,
            Some(Target::User(owner)) => !self.exists(owner).await?,
            Some(Target::Alias(_) | Target::List(_)) => false,
        };
        if !orphan {
            return Err(AccountError::AlreadyExists);
        }
        match self.set(&Key::address(address), version, Some(encode(&target))).await {
            Ok(_) => Ok(()),
            Err(DatabaseError::Conflict) => Err(AccountError::AlreadyExists),
            Err(error) => Err(error.into()),
        }
    }

    /// # Errors
    /// [`AccountError::NotFound`], also if it is a user's address.
    pub async fn remove_alias(&self, address: &str) -> Result<(), AccountError> {
        let address = Address::parse(address)?;
        match self.target(&address).await?.1 {
            Some(Target::Alias(_)) => self.delete(&Key::address(&address)).await,
            _ => Err(AccountError::NotFound),
        }
    }

    /// Profiles after a record, in the order of the database. Those that cannot be read are left out.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn profiles(&self, after: Option<&[u8]>, limit: usize) -> Result<Profiles, AccountError> {
        let page = self.records.list(Kind::Profile, after, limit.min(PAGE)).await?;
        let last = page.last().map(|(key, _)| Bytes::copy_from_slice(key.id()));
        let mut profiles = Profiles { profiles: Vec::with_capacity(page.len()), next: None };
        profiles.next = last.filter(|_| page.len() >= limit.min(PAGE));
        for (key, read) in &page {
            let Some(bytes) = self.listed(key, read).await? else { continue };
            profiles.profiles.extend(Profile::decode(&bytes));
        }
        Ok(profiles)
    }

    /// Addresses of users after an address, in order of addresses.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn list_users(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, AccountError> {
        let is_user = |id: String, target| matches!(target, Target::User(_)).then_some(id);
        self.list_addresses(after, limit, is_user).await
    }

    /// Aliases after an address, in order of addresses.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn list_aliases(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Vec<String>)>, AccountError> {
        let as_alias = |id: String, target| match target {
            Target::Alias(targets) => Some((id, targets.iter().map(Address::to_string).collect())),
            Target::User(_) | Target::List(_) => None,
        };
        self.list_addresses(after, limit, as_alias).await
    }

    /// # Errors
    /// If the database is away.
    pub async fn list_domains(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, AccountError> {
        let page = self.records.list(Kind::Domain, after.map(str::as_bytes), limit.min(PAGE * 2)).await?;
        Ok(page.iter().map(|(key, _)| String::from_utf8_lossy(key.id()).into_owned()).collect())
    }

    async fn list_addresses<T>(
        &self,
        after: Option<&str>,
        limit: usize,
        keep: impl Fn(String, Target) -> Option<T> + Send,
    ) -> Result<Vec<T>, AccountError>
    where
        T: Send,
    {
        let mut after = after.map(|after| Bytes::from(after.to_lowercase()));
        let mut kept = Vec::new();
        while kept.len() < limit {
            let page = self.records.list(Kind::Address, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(Bytes::copy_from_slice(last.id()));
            for (key, read) in page {
                if let (Ok(Some(target)), true) = (decoded::<Target>(&read), kept.len() < limit) {
                    kept.extend(keep(String::from_utf8_lossy(key.id()).into_owned(), target));
                }
            }
        }
        Ok(kept)
    }

    /// Changes a record that is no profile: read, change, compare-and-set, again if it was changed meanwhile. `change` says what it is to
    /// be, None for nothing, and what to answer.
    async fn change<T, A>(
        &self,
        key: &Key,
        mut change: impl FnMut(Option<T>) -> Result<(Option<T>, A), AccountError> + Send,
    ) -> Result<A, AccountError>
    where
        T: Serialize + DeserializeOwned + Clone + PartialEq + Send,
        A: Send,
    {
        for _ in 0..ATTEMPTS {
            let read = self.records.read(key, false).await?;
            let before: Option<T> = decoded(&read)?;
            let (after, answer) = change(before.clone())?;
            if after == before {
                return Ok(answer);
            }
            match self.set(key, read.version, after.as_ref().map(encode)).await {
                Ok(_) => return Ok(answer),
                Err(DatabaseError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(busy())
    }

    async fn delete(&self, key: &Key) -> Result<(), AccountError> {
        for _ in 0..ATTEMPTS {
            let read = self.records.read(key, false).await?;
            if read.value.is_none() {
                return Ok(());
            }
            match self.set(key, read.version, None).await {
                Ok(_) => return Ok(()),
                Err(DatabaseError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(busy())
    }

    /// An address's record as it is now, and its version.
    async fn target(&self, address: &Address) -> Result<(u64, Option<Target>), AccountError> {
        let read = self.records.read(&Key::address(address), false).await?;
        Ok((read.version, decoded(&read)?))
    }

    async fn domain(&self, domain: &str) -> Result<(u64, Option<Domain>), AccountError> {
        let read = self.records.read(&Key::domain(domain), false).await?;
        Ok((read.version, decoded(&read)?))
    }
}

fn busy() -> AccountError {
    AccountError::Temporary("the account is being changed by others; try again".into())
}

#[cfg(test)]
mod tests;
