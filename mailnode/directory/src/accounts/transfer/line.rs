//! What a file of accounts is made of: one JSON object a line.
//!
//! ```text
//! {"header":{"format":3}}
//! {"domain":{"name":"example.org","postmaster":null}}
//! {"alias":{"address":"all@example.org","targets":["alice@example.org"]}}
//! {"list":{"address":"team@example.org","list":{"id":1,"owners":["alice@example.org"],"posting":"members","description":""}}}
//! {"user":{"id":"0123...","addresses":["alice@example.org"],"credentials":...,"folders":...}}
//! {"members":{"list":"0123...","shard":7,"members":{"bob@example.net":null}}}
//! {"end":{"domains":1,"aliases":1,"lists":1,"users":1}}
//! ```

use super::super::lists::{List, Members};
use crate::address::Address;
use crate::encryption::Mode;
use crate::profile::Profile;
use crate::record::Kind;
use bytes::Bytes;
use cluster::{ListId, UserId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Version of the lines. A file of another one is refused.
pub const FORMAT: u32 = 3;

/// Profiles hold password hashes: a line is a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    Header(Header),
    Domain(DomainLine),
    Alias(AliasLine),
    List(ListLine),
    Members(MembersLine),
    User(Box<Profile>),
    End(Counts),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub format: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainLine {
    pub name: String,
    #[serde(default)]
    pub postmaster: Option<UserId>,
    #[serde(default)]
    pub encryption: Mode,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AliasLine {
    pub address: Address,
    pub targets: Vec<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListLine {
    pub address: Address,
    pub list: List,
}

/// Some members of a mailing list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembersLine {
    pub list: ListId,
    pub shard: u8,
    pub members: Members,
}

/// How many lines of each kind there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    pub domains: u64,
    pub aliases: u64,
    pub lists: u64,
    pub users: u64,
}

impl Line {
    /// Bytes, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::User(profile) => profile.encode().len(),
            Self::Alias(line) => 100 * (1 + line.targets.len()),
            Self::Members(line) => 100 * (1 + line.members.len()),
            Self::List(_) => 1_000,
            Self::Header(_) | Self::Domain(_) | Self::End(_) => 100,
        }
    }

    /// For people.
    pub fn name(&self) -> String {
        match self {
            Self::Header(_) => "header".into(),
            Self::Domain(line) => format!("domain {}", line.name),
            Self::Alias(line) => format!("alias {}", line.address),
            Self::List(line) => format!("list {}", line.address),
            Self::Members(line) => format!("members of list {}", line.list),
            Self::User(profile) => match profile.addresses.first() {
                Some(address) => format!("account {address}"),
                None => format!("account {}", profile.id),
            },
            Self::End(_) => "end".into(),
        }
    }
}

impl Counts {
    pub fn add(&mut self, line: &Line) {
        match line {
            Line::Domain(_) => self.domains += 1,
            Line::Alias(_) => self.aliases += 1,
            Line::List(_) => self.lists += 1,
            Line::User(_) => self.users += 1,
            // Of the list that was counted.
            Line::Members(_) => {}
            Line::Header(_) | Line::End(_) => {}
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domains, aliases, lists, users } = self;
        write!(f, "{domains} domains, {aliases} aliases, {lists} lists, {users} accounts")
    }
}

/// A place in a pass over all records: domains first, because the others need them, then addresses, profiles, and
/// members of lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub(super) kind: Kind,
    pub(super) after: Option<Bytes>,
}

impl Cursor {
    pub const START: Self = Self { kind: Kind::Domain, after: None };

    pub(super) fn next_kind(&self) -> Option<Self> {
        let kind = match self.kind {
            Kind::Domain => Kind::Address,
            Kind::Address => Kind::Profile,
            Kind::Profile => Kind::Members,
            Kind::Members => return None,
        };
        Some(Self { kind, after: None })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of an export")]
pub struct CursorError;

/// `d`, `a`, `p` or `m`, and the id of the last record in hexadecimal.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(self.kind.byte()))?;
        self.after.iter().flatten().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (&kind, digits) = text.as_bytes().split_first().ok_or(CursorError)?;
        let kinds = [Kind::Domain, Kind::Address, Kind::Profile, Kind::Members];
        let kind = kinds.into_iter().find(|known| known.byte() == kind).ok_or(CursorError)?;
        if digits.len() % 2 != 0 || digits.len() > 1_024 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(CursorError);
        }
        let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default() as u8;
        let bytes: Vec<u8> = digits
            .chunks_exact(2)
            .map(|pair| pair.iter().fold(0, |byte, &digit| (byte << 4) | value(digit)))
            .collect();
        Ok(Self { kind, after: (!bytes.is_empty()).then(|| bytes.into()) })
    }
}
