//! From an address to the users it leads to.

use super::{AccountError, Accounts, Domain, Target, decoded};
use crate::address::{Address, normal_domain};
use crate::record::{Key, Records};
use cluster::UserId;
use std::collections::HashSet;

/// Aliases of aliases.
const DEPTH: usize = 8;
/// Users and aliases that one address leads to or through; what would exceed it is refused.
const EXPANSION: usize = 1_000;

impl<R: Records> Accounts<R> {
    /// The users that mail for an address goes to: aliases expanded, each user once, loops found.
    ///
    /// In this order: the address itself; `user` of `user+detail`; the domain's postmaster.
    ///
    /// # Errors
    /// [`AccountError::NotFound`] if it surely leads nowhere. If any of an alias's targets cannot be looked up
    /// now, that is temporary, so that none of them misses the message.
    pub async fn resolve(&self, address: &str) -> Result<Vec<UserId>, AccountError> {
        let address = Address::parse(address)?;
        let mut users = Vec::new();
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
                    Some(Target::User(_)) | None => {}
                }
            }
            level = next;
            if level.is_empty() {
                break;
            }
        }
        if users.is_empty() { Err(AccountError::NotFound) } else { Ok(users) }
    }

    async fn leads_to(&self, address: &Address) -> Result<Option<Target>, AccountError> {
        if let Some(target) = self.look_up(address).await? {
            return Ok(Some(target));
        }
        let plain = address.without_detail();
        if let Some(plain) = &plain
            && let Some(target) = self.look_up(plain).await?
        {
            return Ok(Some(target));
        }
        if plain.as_ref().unwrap_or(address).is_postmaster() {
            let read = self.records.read(&Key::domain(address.domain()), true).await?;
            let domain: Option<Domain> = decoded(&read)?;
            return Ok(domain.and_then(|domain| domain.postmaster).map(Target::User));
        }
        Ok(None)
    }

    async fn look_up(&self, address: &Address) -> Result<Option<Target>, AccountError> {
        Ok(decoded(&self.records.read(&Key::address(address), true).await?)?)
    }

    /// The user whose own address this is: what they log in with. No aliases, no details.
    ///
    /// # Errors
    /// [`AccountError::NotFound`] if it surely is nobody's.
    pub async fn login_name(&self, name: &str) -> Result<UserId, AccountError> {
        match self.look_up(&Address::parse(name)?).await? {
            Some(Target::User(user)) => Ok(user),
            Some(Target::Alias(_)) | None => Err(AccountError::NotFound),
        }
    }

    /// # Errors
    /// If that cannot be said now. What is no domain at all is not ours.
    pub async fn is_local_domain(&self, domain: &str) -> Result<bool, AccountError> {
        let Ok(domain) = normal_domain(domain) else { return Ok(false) };
        Ok(self.records.read(&Key::domain(&domain), true).await?.value.is_some())
    }
}
