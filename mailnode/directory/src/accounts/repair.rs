//! The repair pass: finishes what was begun over several records and never ended, because a node died.
//!
//! It looks at a page of addresses and a page of profiles a step. A thing must look wrong in two passes, with
//! the same version, before anything is done about it, because the first time somebody may be at work on it.
//! - An address that leads to a user id without a profile is deleted.
//! - A profile whose address has no record gets it back.
//! - A profile all of whose addresses lead elsewhere is an account whose making was overtaken; nobody could
//!   ever reach it, and it is deleted.

use super::{AccountError, Accounts, Target, decoded, encode};
use crate::profile::Profile;
use crate::record::{DatabaseError, Key, Kind, Records};
use bytes::Bytes;
use std::collections::HashMap;

/// Records looked at in one step.
const STEP: usize = 100;
/// Suspects remembered between passes; what does not fit waits for the next pass.
const SUSPECTS: usize = 1_000;

/// Where the pass is, and what looked wrong the last time.
#[derive(Default)]
pub struct Repair {
    kind: Option<Kind>,
    after: Option<Bytes>,
    before: HashMap<Key, u64>,
    suspects: HashMap<Key, u64>,
}

/// What a step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repaired {
    pub deleted_addresses: usize,
    pub restored_addresses: usize,
    pub deleted_profiles: usize,
    /// The pass is at its end; the next step begins a new one.
    pub finished: bool,
}

impl Repair {
    /// True if this looked wrong in the pass before, too.
    fn confirmed(&mut self, key: &Key, version: u64) -> bool {
        if self.before.get(key) == Some(&version) {
            return true;
        }
        if self.suspects.len() < SUSPECTS {
            self.suspects.insert(key.clone(), version);
        }
        false
    }
}

impl<R: Records> Accounts<R> {
    /// One bounded step of the pass.
    ///
    /// # Errors
    /// The database is away; the next step goes on from the same place.
    pub async fn repair(&self, state: &mut Repair) -> Result<Repaired, AccountError> {
        let mut done = Repaired::default();
        let kind = state.kind.unwrap_or(Kind::Address);
        let page = self.records().list(kind, state.after.as_deref(), STEP).await?;
        for (key, _) in &page {
            match kind {
                Kind::Profile => self.repair_profile(state, key, &mut done).await?,
                Kind::Address => self.repair_address(state, key, &mut done).await?,
                Kind::Domain | Kind::Members => {}
            }
            state.after = Some(Bytes::copy_from_slice(key.id()));
        }
        if page.len() < STEP {
            state.after = None;
            if kind == Kind::Address {
                state.kind = Some(Kind::Profile);
            } else {
                state.kind = None;
                state.before = std::mem::take(&mut state.suspects);
                done.finished = true;
            }
        }
        Ok(done)
    }

    async fn repair_address(
        &self,
        state: &mut Repair,
        key: &Key,
        done: &mut Repaired,
    ) -> Result<(), AccountError> {
        let read = self.records().read(key, false).await?;
        let Some(Target::User(user)) = decoded(&read)? else { return Ok(()) };
        if self.exists(user).await? || !state.confirmed(key, read.version) {
            return Ok(());
        }
        done.deleted_addresses += usize::from(self.try_set(key, read.version, None).await?);
        Ok(())
    }

    async fn repair_profile(
        &self,
        state: &mut Repair,
        key: &Key,
        done: &mut Repaired,
    ) -> Result<(), AccountError> {
        let read = self.records().read(key, false).await?;
        let Some(bytes) = &read.value else { return Ok(()) };
        let profile = Profile::decode(bytes)?;
        let mut reachable = false;
        for address in &profile.addresses {
            let (version, target) = self.target(address).await?;
            match target {
                Some(Target::User(user)) if user == profile.id => reachable = true,
                Some(_) => {}
                None => {
                    reachable = true;
                    if state.confirmed(key, read.version) {
                        let value = encode(&Target::User(profile.id));
                        let set = self.try_set(&Key::address(address), version, Some(value)).await?;
                        done.restored_addresses += usize::from(set);
                    }
                }
            }
        }
        if !reachable && state.confirmed(key, read.version) {
            done.deleted_profiles += usize::from(self.try_set(key, read.version, None).await?);
        }
        Ok(())
    }

    /// False if somebody else was at it: then it is theirs.
    async fn try_set(&self, key: &Key, version: u64, value: Option<Bytes>) -> Result<bool, AccountError> {
        match self.set(key, version, value).await {
            Ok(_) => Ok(true),
            Err(DatabaseError::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
