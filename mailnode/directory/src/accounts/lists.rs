//! Mailing lists: an address that leads to its members.
//!
//! | record | key | value |
//! | --- | --- | --- |
//! | list | its address | [`Target::List`] |
//! | members | list id and shard | addresses, those of ours with the user that they led to when they were added |
//!
//! Members are in [`SHARDS`] records by the hash of their address, so that each change is one record of bounded size, and any node
//! reads all of them at once. Mail for `list+owner` goes to the owners: that is where reports of failures go (RFC 5321 3.9.2).
//! What is left of a removed list's members is read by nobody, because a list that is made again gets another id.

use super::{AccountError, Accounts, Target, decoded};
use crate::address::Address;
use crate::record::{Key, Records};
use cluster::{ListId, UserId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Records of one list's members.
pub const SHARDS: u8 = 64;
/// Members of one shard: some 100,000 of a list, evenly spread.
const SHARD_MEMBERS: usize = 1_600;
/// Owners of one list.
const OWNERS: usize = 20;
/// Bytes of a description.
const DESCRIPTION: usize = 200;
/// Details of a list's address that lead to its owners.
const OWNER_DETAILS: [&str; 2] = ["owner", "bounces"];

/// Who may send to a list, by the sender of the envelope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Posting {
    Anyone,
    /// Members and owners.
    #[default]
    Members,
    Owners,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Names its members' records.
    pub id: ListId,
    /// Addresses of ours.
    pub owners: Vec<Address>,
    pub posting: Posting,
    pub description: String,
}

/// What is to be changed of a list; what is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListChange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owners: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posting: Option<Posting>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A member: the normal form of an address ([`Address::key`]), and the user of ours that it led to.
pub type Members = BTreeMap<String, Option<UserId>>;

/// What a change of a list's members did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    pub changed: usize,
    /// They were members already, or were none.
    pub unchanged: usize,
}

fn shard_of(key: &str) -> u8 {
    let hash = cluster::Bucket::of_bytes(key.as_bytes()).0;
    (hash % u16::from(SHARDS)) as u8
}

/// A member that belongs to another shard, or is no address in its normal form.
pub(super) fn misplaced(shard: u8, members: &Members) -> Option<&String> {
    let fits = |key: &String| {
        shard_of(key) == shard && Address::from_key(key).is_ok_and(|address| address.key() == *key)
    };
    members.keys().find(|key| !fits(key))
}

impl List {
    pub(super) fn check(&self) -> Result<(), AccountError> {
        if !(1..=OWNERS).contains(&self.owners.len()) {
            return Err(AccountError::Invalid(format!("a list has 1 to {OWNERS} owners")));
        }
        if self.description.len() > DESCRIPTION || self.description.chars().any(char::is_control) {
            return Err(AccountError::Invalid(format!(
                "a description is one line of at most {DESCRIPTION} bytes"
            )));
        }
        Ok(())
    }

    pub fn is_owner(&self, address: &Address) -> bool {
        self.owners.iter().any(|owner| owner.key() == address.key())
    }
}

/// True for `list+owner`, given the list's address.
pub(super) fn is_for_owners(address: &Address) -> bool {
    let detail = address.local().split_once('+').map(|(_, detail)| detail);
    detail.is_some_and(|detail| OWNER_DETAILS.iter().any(|known| known.eq_ignore_ascii_case(detail)))
}

impl<R: Records> Accounts<R> {
    /// Makes a list without members.
    ///
    /// # Errors
    /// As [`Accounts::add_alias`].
    pub async fn add_list(
        &self,
        address: &str,
        owners: &[String],
        posting: Posting,
        description: String,
    ) -> Result<(), AccountError> {
        let address = self.new_address(address).await?;
        let owners = self.owners(owners).await?;
        let list = List { id: ListId::from_bytes((self.random)()), owners, posting, description };
        list.check()?;
        self.claim_for(&address, Target::List(Box::new(list))).await
    }

    async fn owners(&self, texts: &[String]) -> Result<Vec<Address>, AccountError> {
        let mut owners = Vec::with_capacity(texts.len());
        for text in texts {
            let owner = Address::parse(text)?;
            if self.domain(owner.domain()).await?.1.is_none() {
                return Err(AccountError::Invalid(format!("{owner} is in none of our domains")));
            }
            owners.push(owner);
        }
        Ok(owners)
    }

    /// Changes what is given.
    ///
    /// # Errors
    /// [`AccountError::NotFound`], or what is wrong with it.
    pub async fn change_list(&self, address: &str, to: ListChange) -> Result<List, AccountError> {
        let address = Address::parse(address)?;
        let owners = match &to.owners {
            Some(texts) => Some(self.owners(texts).await?),
            None => None,
        };
        let change = |known| {
            let Some(Target::List(known)) = known else { return Err(AccountError::NotFound) };
            let list = List {
                id: known.id,
                owners: owners.clone().unwrap_or(known.owners),
                posting: to.posting.unwrap_or(known.posting),
                description: to.description.clone().unwrap_or(known.description),
            };
            list.check()?;
            Ok((Some(Target::List(Box::new(list.clone()))), list))
        };
        self.change(&Key::address(&address), change).await
    }

    /// # Errors
    /// [`AccountError::NotFound`].
    pub async fn remove_list(&self, address: &str) -> Result<(), AccountError> {
        let address = Address::parse(address)?;
        let Some(Target::List(list)) = self.target(&address).await?.1 else {
            return Err(AccountError::NotFound);
        };
        self.delete(&Key::address(&address)).await?;
        for shard in 0..SHARDS {
            self.delete(&Key::members(list.id, shard)).await?;
        }
        Ok(())
    }

    /// A list, possibly in an older state.
    ///
    /// # Errors
    /// [`AccountError::NotFound`] only if there surely is none.
    pub async fn list(&self, address: &str) -> Result<List, AccountError> {
        match self.look_up(&Address::parse(address)?).await? {
            Some(Target::List(list)) => Ok(*list),
            _ => Err(AccountError::NotFound),
        }
    }

    /// Lists after an address, in order of addresses.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn lists(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, List)>, AccountError> {
        let as_list = |id: String, target| match target {
            Target::List(list) => Some((id, *list)),
            Target::User(_) | Target::Alias(_) => None,
        };
        self.list_addresses(after, limit, as_list).await
    }

    /// One shard of a list's members.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn members(&self, list: &List, shard: u8) -> Result<Members, AccountError> {
        let read = self.records.read(&Key::members(list.id, shard), true).await?;
        Ok(decoded(&read)?.unwrap_or_default())
    }

    /// # Errors
    /// If that cannot be said now.
    pub async fn is_member(&self, list: &List, address: &Address) -> Result<bool, AccountError> {
        let key = address.key();
        Ok(self.members(list, shard_of(&key)).await?.contains_key(&key))
    }

    /// Adds members. Those in our domains must lead somewhere.
    ///
    /// # Errors
    /// Names the member that is wrong; others may have been added.
    pub async fn subscribe(&self, address: &str, members: &[String]) -> Result<Changed, AccountError> {
        let list = self.list(address).await?;
        let (mut ours, mut by_shard) = (BTreeMap::new(), BTreeMap::<u8, Members>::new());
        for text in members {
            let member = Address::parse(text)?;
            let domain = member.domain().to_owned();
            if !ours.contains_key(&domain) {
                let is_ours = self.domain(&domain).await?.1.is_some();
                ours.insert(domain.clone(), is_ours);
            }
            let user = match ours.get(&domain) {
                Some(false) | None => None,
                Some(true) => match self.leads_to(&member).await? {
                    Some(Target::User(user)) => Some(user),
                    Some(Target::Alias(_) | Target::List(_)) => None,
                    None => return Err(AccountError::Invalid(format!("{member} leads nowhere"))),
                },
            };
            let key = member.key();
            by_shard.entry(shard_of(&key)).or_default().insert(key, user);
        }
        let mut all = Changed::default();
        for (shard, news) in by_shard {
            let change = |members: &mut Members| {
                let before = members.len();
                members.extend(news.iter().map(|(key, user)| (key.clone(), *user)));
                members.len() - before
            };
            all.add(news.len(), self.change_members(&list, shard, change).await?);
        }
        Ok(all)
    }

    /// Removes members.
    ///
    /// # Errors
    /// Names the address that is none; others may have been removed.
    pub async fn unsubscribe(&self, address: &str, members: &[String]) -> Result<Changed, AccountError> {
        let list = self.list(address).await?;
        let mut by_shard: BTreeMap<u8, Vec<String>> = BTreeMap::new();
        for text in members {
            let key = Address::parse(text)?.key();
            by_shard.entry(shard_of(&key)).or_default().push(key);
        }
        let mut all = Changed::default();
        for (shard, gone) in by_shard {
            let change =
                |members: &mut Members| gone.iter().filter(|key| members.remove(*key).is_some()).count();
            all.add(gone.len(), self.change_members(&list, shard, change).await?);
        }
        Ok(all)
    }

    /// One record's change: how many members it concerned.
    async fn change_members(
        &self,
        list: &List,
        shard: u8,
        change: impl Fn(&mut Members) -> usize + Send + Sync,
    ) -> Result<usize, AccountError> {
        let change = |members: Option<Members>| {
            let mut members = members.unwrap_or_default();
            let changed = change(&mut members);
            if members.len() > SHARD_MEMBERS {
                return Err(AccountError::Invalid(format!(
                    "the list is full: it has room for some {} members",
                    SHARD_MEMBERS * usize::from(SHARDS)
                )));
            }
            Ok(((!members.is_empty()).then_some(members), changed))
        };
        self.change(&Key::members(list.id, shard), change).await
    }
}

impl Changed {
    fn add(&mut self, asked: usize, changed: usize) {
        self.changed += changed;
        self.unchanged += asked.saturating_sub(changed);
    }
}
