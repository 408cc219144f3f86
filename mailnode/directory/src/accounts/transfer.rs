//! Accounts on their way from one database to another, as lines of a file (`mailnode directory`).
//!
//! - An export is a header, every domain, alias, mailing list and account that is not half-made, and their counts at the end, so
//!   that a file that was cut off is noticed. Each record is whole; the file as a whole is no snapshot.
//! - An import makes what is not there, in the steps of [`Accounts::add_user`], so it may be cut off and repeated
//!   at any point. It changes nothing that is there: what is there and different is refused, line by line.
//! - Ids stay, because the mail is stored under them. UIDs and folder ids go on above what may have been given since
//!   ([`Profile::skip_ahead`]).

mod inspect;
mod line;

pub use inspect::{Inspected, Problem};
pub use line::{AliasLine, Counts, Cursor, DomainLine, FORMAT, Header, Line, ListLine, MembersLine};

use super::lists::{Members, misplaced};
use super::{ALIAS_TARGETS, AccountError, Accounts, Domain, PAGE, Target, busy, decoded, encode};
use crate::address::{Address, normal_domain};
use crate::profile::Profile;
use crate::record::{DatabaseError, Key, Kind, Read, Records};
use bytes::Bytes;
use cluster::{ListId, is_queue_user};

/// Bytes of records in one page of an export, about; one more may come on top.
const PAGE_BYTES: usize = 512 * 1024;
/// A longer record is not let in: no database takes it.
const RECORD: usize = 256 * 1024;

/// Lines of an export, and where it goes on. None: that was all.
#[derive(Debug, Default)]
pub struct Exported {
    pub lines: Vec<Line>,
    pub next: Option<Cursor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    Made,
    /// It is there already.
    Present,
}

fn invalid<T>(text: impl Into<String>) -> Result<T, AccountError> {
    Err(AccountError::Invalid(text.into()))
}

impl<R: Records> Accounts<R> {
    /// A page of everything, without header and end.
    ///
    /// # Errors
    /// The database is away, or a record cannot be read: an export that leaves it out would lose it.
    pub async fn export(&self, from: Cursor) -> Result<Exported, AccountError> {
        let page = self.records.list(from.kind, from.after.as_deref(), PAGE).await?;
        let (mut lines, mut bytes, mut last) = (Vec::new(), 0, None);
        let full = page.len() >= PAGE;
        let count = page.len();
        for (index, (key, read)) in page.into_iter().enumerate() {
            let line = self.line(&key, &read).await?;
            bytes += line.as_ref().map_or(0, Line::size);
            lines.extend(line);
            last = Some(Bytes::copy_from_slice(key.id()));
            if bytes > PAGE_BYTES && index + 1 < count {
                return Ok(Exported { lines, next: Some(Cursor { kind: from.kind, after: last }) });
            }
        }
        let next = if full { Some(Cursor { kind: from.kind, after: last }) } else { from.next_kind() };
        Ok(Exported { lines, next })
    }

    /// None for what is no line of its own, and for what is half-made.
    async fn line(&self, key: &Key, read: &Read) -> Result<Option<Line>, AccountError> {
        let damaged = |error| AccountError::Invalid(format!("{}: {error}", name(key)));
        let id = || String::from_utf8_lossy(key.id()).into_owned();
        match key.kind() {
            Some(Kind::Domain) => {
                let domain: Option<Domain> = decoded(read).map_err(damaged)?;
                Ok(domain.map(|domain| {
                    let Domain { postmaster, encryption } = domain;
                    Line::Domain(DomainLine { name: id(), postmaster, encryption })
                }))
            }
            Some(Kind::Address) => match decoded(read).map_err(damaged)? {
                Some(Target::Alias(targets)) => {
                    let address = Address::from_key(&id()).map_err(AccountError::from)?;
                    Ok(Some(Line::Alias(AliasLine { address, targets })))
                }
                Some(Target::List(list)) => {
                    let address = Address::from_key(&id()).map_err(AccountError::from)?;
                    Ok(Some(Line::List(ListLine { address, list: *list })))
                }
                Some(Target::User(_)) | None => Ok(None),
            },
            Some(Kind::Members) => {
                let members = decoded(read).map_err(damaged)?;
                let (list, shard) = key.id().split_at(key.id().len().saturating_sub(1));
                let list =
                    list.try_into().map(ListId::from_bytes).map_err(|_| AccountError::Invalid(name(key)))?;
                let shard = shard.first().copied().unwrap_or_default();
                Ok(members.map(|members| Line::Members(MembersLine { list, shard, members })))
            }
            Some(Kind::Profile) => {
                let Some(bytes) = self.listed(key, read).await? else { return Ok(None) };
                let profile = Profile::decode(&bytes).map_err(damaged)?;
                let reachable = self.is_reachable(&profile).await?;
                Ok(reachable.then(|| Line::User(Box::new(profile))))
            }
            None => Ok(None),
        }
    }

    /// The value of a profile's record that was listed: lists may leave it out.
    pub(super) async fn listed(&self, key: &Key, read: &Read) -> Result<Option<Bytes>, AccountError> {
        match &read.value {
            Some(value) if !value.is_empty() => Ok(Some(value.clone())),
            _ => Ok(self.records.read(key, false).await?.value),
        }
    }

    /// True if one of its addresses leads to the account: else it counts for nothing.
    async fn is_reachable(&self, profile: &Profile) -> Result<bool, AccountError> {
        for address in &profile.addresses {
            if self.target(address).await?.1 == Some(Target::User(profile.id)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes what the line says, if it is not there.
    ///
    /// # Errors
    /// [`AccountError::Invalid`] if the line is wrong or something else is there; [`AccountError::Temporary`]: it may
    /// be half done, repeat it.
    pub async fn import(&self, line: Line) -> Result<Imported, AccountError> {
        match line {
            Line::Domain(line) => self.import_domain(line).await,
            Line::Alias(line) => self.import_alias(line).await,
            Line::List(line) => self.import_list(line).await,
            Line::Members(line) => self.import_members(line).await,
            Line::User(profile) => self.import_user(*profile).await,
            Line::Header(_) | Line::End(_) => invalid("header and end are no records"),
        }
    }

    async fn import_domain(&self, line: DomainLine) -> Result<Imported, AccountError> {
        let name = normal_domain(&line.name)?;
        let change = |known: Option<Domain>| {
            let outcome = if known.is_some() { Imported::Present } else { Imported::Made };
            let postmaster = known.as_ref().and_then(|domain| domain.postmaster).or(line.postmaster);
            let encryption = known.as_ref().map_or(line.encryption, |domain| domain.encryption);
            Ok((Some(Domain { postmaster, encryption }), outcome))
        };
        self.change(&Key::domain(&name), change).await
    }

    async fn import_alias(&self, line: AliasLine) -> Result<Imported, AccountError> {
        let AliasLine { address, targets } = line;
        if !(1..=ALIAS_TARGETS).contains(&targets.len()) {
            return invalid(format!("an alias has 1 to {ALIAS_TARGETS} targets"));
        }
        self.import_target(&address, Target::Alias(targets)).await
    }

    async fn import_list(&self, line: ListLine) -> Result<Imported, AccountError> {
        let ListLine { address, list } = line;
        list.check()?;
        for owner in &list.owners {
            self.needs_domain(owner).await?;
        }
        self.import_target(&address, Target::List(Box::new(list))).await
    }

    async fn import_target(&self, address: &Address, target: Target) -> Result<Imported, AccountError> {
        self.needs_domain(address).await?;
        let (version, known) = self.target(address).await?;
        match known {
            Some(there) if there == target => return Ok(Imported::Present),
            Some(Target::Alias(_) | Target::List(_)) => return invalid(format!("{address} leads elsewhere")),
            Some(Target::User(owner)) if self.exists(owner).await? => {
                return invalid(format!("{address} is an account's"));
            }
            Some(Target::User(_)) | None => {}
        }
        match self.set(&Key::address(address), version, Some(encode(&target))).await {
            Ok(_) => Ok(Imported::Made),
            Err(DatabaseError::Conflict) => Err(busy()),
            Err(error) => Err(error.into()),
        }
    }

    async fn import_members(&self, line: MembersLine) -> Result<Imported, AccountError> {
        if let Some(wrong) = misplaced(line.shard, &line.members) {
            return invalid(format!("{wrong} does not belong to shard {}", line.shard));
        }
        let key = Key::members(line.list, line.shard);
        let read = self.records.read(&key, false).await?;
        match decoded::<Members>(&read)? {
            Some(there) if there == line.members => return Ok(Imported::Present),
            Some(_) => return invalid(format!("list {} is there with other members", line.list)),
            None => {}
        }
        match self.set(&key, read.version, Some(encode(&line.members))).await {
            Ok(_) => Ok(Imported::Made),
            Err(DatabaseError::Conflict) => Err(busy()),
            Err(error) => Err(error.into()),
        }
    }

    async fn import_user(&self, mut profile: Profile) -> Result<Imported, AccountError> {
        profile.check().map_err(AccountError::Invalid)?;
        if is_queue_user(profile.id) {
            return invalid(format!("{} is the id of a part of the outbound queue", profile.id));
        }
        let (user, key) = (profile.id, Key::profile(profile.id));
        for address in &profile.addresses {
            self.needs_domain(address).await?;
        }
        let read = self.records.read(&key, false).await?;
        if let Some(bytes) = &read.value {
            let differences = Profile::decode(bytes)?.differences(&profile);
            if !differences.is_empty() {
                return invalid(format!("account {user} is there with other {}", differences.join(", ")));
            }
            return Ok(Imported::Present);
        }
        for address in &profile.addresses {
            match self.claim_address(address, user).await {
                Err(AccountError::AlreadyExists) => return invalid(format!("{address} leads elsewhere")),
                outcome => outcome?,
            }
        }
        profile.skip_ahead();
        let bytes = profile.encode();
        if bytes.len() > RECORD {
            return invalid(format!("an account's record has at most {RECORD} bytes"));
        }
        match self.set(&key, read.version, Some(bytes.into())).await {
            Ok(_) => {}
            Err(DatabaseError::Conflict) => return Err(busy()),
            Err(error) => return Err(error.into()),
        }
        // As in add_user: until the profile was there, an address could be taken for an orphan.
        if !self.is_reachable(&profile).await? {
            self.delete(&key).await?;
            return Err(busy());
        }
        Ok(Imported::Made)
    }

    async fn needs_domain(&self, address: &Address) -> Result<(), AccountError> {
        match self.domain(address.domain()).await?.1 {
            Some(_) => Ok(()),
            None => invalid(format!("add the domain {} first", address.domain())),
        }
    }

    /// How this database differs from what the line says; None if it does not.
    ///
    /// # Errors
    /// The database is away, or its record cannot be read.
    pub async fn difference(&self, line: &Line) -> Result<Option<String>, AccountError> {
        match line {
            Line::Domain(line) => Ok(match self.domain(&normal_domain(&line.name)?).await?.1 {
                Some(_) => None,
                None => Some("is missing".into()),
            }),
            Line::Alias(line) => Ok(match self.target(&line.address).await?.1 {
                Some(Target::Alias(targets)) if targets == line.targets => None,
                Some(_) => Some("leads elsewhere".into()),
                None => Some("is missing".into()),
            }),
            Line::List(line) => Ok(match self.target(&line.address).await?.1 {
                Some(Target::List(list)) if *list == line.list => None,
                Some(_) => Some("is another, or leads elsewhere".into()),
                None => Some("is missing".into()),
            }),
            Line::Members(line) => {
                let key = Key::members(line.list, line.shard);
                let there: Option<Members> = decoded(&self.records.read(&key, false).await?)?;
                Ok((there.as_ref() != Some(&line.members)).then(|| "has other members".into()))
            }
            Line::User(profile) => {
                let read = self.records.read(&Key::profile(profile.id), false).await?;
                let Some(bytes) = &read.value else { return Ok(Some("is missing".into())) };
                let there = Profile::decode(bytes)?;
                let differences = there.differences(profile);
                if !differences.is_empty() {
                    return Ok(Some(format!("has other {}", differences.join(", "))));
                }
                let reachable = self.is_reachable(&there).await?;
                Ok((!reachable).then(|| "none of its addresses leads to it".into()))
            }
            Line::Header(_) | Line::End(_) => Ok(None),
        }
    }
}

/// A record's key for people.
fn name(key: &Key) -> String {
    let text = || String::from_utf8_lossy(key.id()).into_owned();
    match key.kind() {
        Some(Kind::Domain) => format!("domain {}", text()),
        Some(Kind::Address) => format!("address {}", text()),
        Some(kind @ (Kind::Profile | Kind::Members)) => {
            let id: String = key.id().iter().map(|byte| format!("{byte:02x}")).collect();
            let what = if kind == Kind::Profile { "account" } else { "members of list" };
            format!("{what} {id}")
        }
        None => "a record of no known kind".into(),
    }
}
