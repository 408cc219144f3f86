//! Looks at every record and says what does not fit together. Changes nothing: what is half-made is for the repair
//! pass, the rest is for people.

use super::super::lists::Members;
use super::super::{AccountError, Accounts, Domain, PAGE, Target, decoded};
use super::{Cursor, name};
use crate::address::Address;
use crate::profile::Profile;
use crate::record::{Key, Kind, Read, Records};
use bytes::Bytes;

/// Records looked at in one call: each costs further look-ups.
const STEP: usize = 100;
const _: () = assert!(STEP <= PAGE);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The record, for people.
    pub record: String,
    pub problem: String,
}

/// What was looked at, and where to go on. None: that was all.
#[derive(Debug, Default)]
pub struct Inspected {
    pub records: usize,
    pub problems: Vec<Problem>,
    pub next: Option<Cursor>,
}

impl<R: Records> Accounts<R> {
    /// A page of everything.
    ///
    /// # Errors
    /// The database is away.
    pub async fn inspect(&self, from: Cursor) -> Result<Inspected, AccountError> {
        let page = self.records().list(from.kind, from.after.as_deref(), STEP).await?;
        let mut inspected = Inspected { records: page.len(), ..Inspected::default() };
        for (key, read) in &page {
            let problems = match from.kind {
                Kind::Domain => self.inspect_domain(read).await?,
                Kind::Address => self.inspect_address(key, read).await?,
                Kind::Profile => self.inspect_profile(key, read).await?,
                Kind::Members => {
                    decoded::<Members>(read).err().map(|error| error.to_string()).into_iter().collect()
                }
            };
            let problem = |problem| Problem { record: name(key), problem };
            inspected.problems.extend(problems.into_iter().map(problem));
        }
        inspected.next = match page.last() {
            Some((last, _)) if page.len() >= STEP => {
                Some(Cursor { kind: from.kind, after: Some(Bytes::copy_from_slice(last.id())) })
            }
            _ => from.next_kind(),
        };
        Ok(inspected)
    }

    async fn inspect_domain(&self, read: &Read) -> Result<Vec<String>, AccountError> {
        match decoded::<Domain>(read) {
            Err(error) => Ok(vec![error.to_string()]),
            Ok(Some(Domain { postmaster: Some(user), .. })) if !self.exists(user).await? => {
                Ok(vec!["its postmaster is an account that is gone".into()])
            }
            Ok(_) => Ok(Vec::new()),
        }
    }

    async fn inspect_address(&self, key: &Key, read: &Read) -> Result<Vec<String>, AccountError> {
        let address = match Address::from_key(&String::from_utf8_lossy(key.id())) {
            Ok(address) => address,
            Err(error) => return Ok(vec![error.to_string()]),
        };
        let mut problems = Vec::new();
        if self.domain(address.domain()).await?.1.is_none() {
            problems.push("its domain is not there".to_owned());
        }
        match decoded::<Target>(read) {
            Err(error) => problems.push(error.to_string()),
            Ok(Some(Target::User(user))) => {
                let profile = self.records().read(&Key::profile(user), false).await?;
                match profile.value.as_deref().map(Profile::decode) {
                    None => problems.push("half-made: it leads to no account".into()),
                    Some(Ok(profile)) if !profile.addresses.contains(&address) => {
                        problems.push(format!("account {user} does not have it"));
                    }
                    Some(_) => {}
                }
            }
            Ok(Some(Target::Alias(_) | Target::List(_))) => match self.resolve(&address.to_string()).await {
                Ok(_) => {}
                Err(AccountError::NotFound) => problems.push("the alias leads to nobody".into()),
                Err(AccountError::Invalid(text)) => problems.push(text),
                Err(error) => return Err(error),
            },
            Ok(None) => {}
        }
        Ok(problems)
    }

    async fn inspect_profile(&self, key: &Key, read: &Read) -> Result<Vec<String>, AccountError> {
        let Some(bytes) = self.listed(key, read).await? else { return Ok(Vec::new()) };
        let profile = match Profile::decode(&bytes) {
            Ok(profile) => profile,
            Err(error) => return Ok(vec![error.to_string()]),
        };
        let mut problems = Vec::new();
        problems.extend(profile.check().err());
        if Key::profile(profile.id) != *key {
            problems.push(format!("the record is that of account {}", profile.id));
        }
        let mut reachable = false;
        for address in &profile.addresses {
            let target = self.target(address).await?.1;
            if target == Some(Target::User(profile.id)) {
                reachable = true;
            } else {
                problems.push(format!("its address {address} does not lead to it"));
            }
        }
        if !reachable {
            problems.push("half-made: none of its addresses leads to it".into());
        }
        Ok(problems)
    }
}
