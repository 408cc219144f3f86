//! From an address to the users and mailing lists it leads to.

use super::lists::is_for_owners;
use super::{AccountError, Accounts, Domain, Target, decoded};
use crate::address::{Address, normal_domain};
use crate::record::{Key, Records};
use cluster::UserId;
use std::collections::HashSet;

/// Aliases of aliases.
const DEPTH: usize = 8;
/// Users and aliases that one address leads to or through; what would exceed it is refused.
const EXPANSION: usize = 1_000;

/// Where mail for an address goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    pub users: Vec<UserId>,
    /// Addresses of mailing lists.
    pub lists: Vec<Address>,
}

impl From<Vec<UserId>> for Resolved {
    fn from(users: Vec<UserId>) -> Self {
        Self { users, lists: Vec::new() }
    }
}

impl<R: Records> Accounts<R> {
    /// Where mail for an address goes: aliases expanded, each user and each list once, loops found.
    ///
    /// In this order: the address itself; `user` of `user+detail`, or the owners of `list+owner`; the domain's postmaster.
    ///
    /// # Errors
    /// [`AccountError::NotFound`] if it surely leads nowhere. If any of an alias's targets cannot be looked up
    /// now, that is temporary, so that none of them misses the message.
    pub async fn resolve(&self, address: &str) -> Result<Resolved, AccountError> {
        let address = Address::parse(address)?;
        let Resolved { mut users, mut lists } = Resolved::default();
        let mut seen = HashSet::new();
        let mut level = vec![address];
        for _ in 0..=DEPTH {
            let mut next = Vec::new();
            for address in level {
                if !seen.insert(address.key()) {
                    continue;
                }
                if seen.len() > EXPANSION {
                    return Err(AccountError::Invalid(format!("leads to more than {EXPANSION} addresses")));
                }
                match self.leads_to(&address).await? {
                    Some(Target::User(user)) if !users.contains(&user) => users.push(user),
                    Some(Target::Alias(targets)) => next.extend(targets),
                    Some(Target::List(_)) => {
                        let plain = address.without_detail().unwrap_or(address);
                        if !lists.contains(&plain) {
                            lists.push(plain);
                        }
                    }
                    Some(Target::User(_)) | None => {}
                }
            }
            level = next;
            if level.is_empty() {
                break;
            }
        }
        if users.is_empty() && lists.is_empty() {
            return Err(AccountError::NotFound);
        }
        Ok(Resolved { users, lists })
    }

    pub(super) async fn leads_to(&self, address: &Address) -> Result<Option<Target>, AccountError> {
        if let Some(target) = self.look_up(address).await? {
            return Ok(Some(target));
        }
        let plain = address.without_detail();
        if let Some(plain) = &plain
            && let Some(target) = self.look_up(plain).await?
        {
            return Ok(Some(match target {
                Target::List(list) if is_for_owners(address) => Target::Alias(list.owners),
                target => target,
            }));
        }
        if plain.as_ref().unwrap_or(address).is_postmaster() {
            let read = self.records.read(&Key::domain(address.domain()), true).await?;
            let domain: Option<Domain> = decoded(&read)?;
            return Ok(domain.and_then(|domain| domain.postmaster).map(Target::User));
        }
        Ok(None)
    }

    pub(super) async fn look_up(&self, address: &Address) -> Result<Option<Target>, AccountError> {
        Ok(decoded(&self.records.read(&Key::address(address), true).await?)?)
    }

    /// The user whose own address this is: what they log in with. No aliases, no details.
    ///
    /// # Errors
    /// [`AccountError::NotFound`] if it surely is nobody's.
    pub async fn login_name(&self, name: &str) -> Result<UserId, AccountError> {
        match self.look_up(&Address::parse(name)?).await? {
            Some(Target::User(user)) => Ok(user),
            Some(Target::Alias(_) | Target::List(_)) | None => Err(AccountError::NotFound),
        }
    }

    /// # Errors
    /// If that cannot be said now. What is no domain at all is not ours.
    pub async fn is_local_domain(&self, domain: &str) -> Result<bool, AccountError> {
        let Ok(domain) = normal_domain(domain) else { return Ok(false) };
        Ok(self.records.read(&Key::domain(&domain), true).await?.value.is_some())
    }
}
