//! Mail addresses of accounts and aliases, normalised so that two spellings of one mailbox are one key.
//!
//! - The domain is lower-case and in A-label form (RFC 5890 2.3.2.1), so that `BÜCHER.example` and
//!   `xn--bcher-kva.example` are one domain.
//! - The local part is kept as it was written and compared case-insensitively: RFC 5321 2.4 leaves its meaning
//!   to the receiving host, and people do not expect `Alice` and `alice` to be two.
//! - `user+detail` leads to `user` (RFC 5233 calls it the detail); accounts have no `+` in their address.
//! - `postmaster` must be accepted at every domain (RFC 5321 4.5.1): without an address of its own it leads to
//!   the domain's first account (`accounts::Domain`).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// RFC 5321 4.5.3.1.1 and 4.5.3.1.2, in octets.
const LOCAL_LIMIT: usize = 64;
const DOMAIN_LIMIT: usize = 255;
/// What stands in quotes only.
const QUOTED: [char; 6] = ['"', '\\', '@', '<', '>', ','];

/// Why a text is no address or domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("an address is local-part@domain")]
    NoAt,
    #[error("the local part has 1 to 64 bytes, without spaces and control characters")]
    LocalPart,
    #[error("not a domain name")]
    Domain,
}

/// `local@domain`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    local: String,
    domain: String,
}

impl Address {
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::NoAt)?;
        Self::of_parts(unquoted(local).ok_or(AddressError::LocalPart)?, domain)
    }

    pub fn local(&self) -> &str {
        &self.local
    }

    /// Lower-case A-labels.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The key under which the address is found: equal for all spellings of it.
    pub fn key(&self) -> String {
        format!("{}@{}", self.local.to_lowercase(), self.domain)
    }

    /// The address of a key.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_key(key: &str) -> Result<Self, AddressError> {
        let (local, domain) = key.rsplit_once('@').ok_or(AddressError::NoAt)?;
        Self::of_parts(local.to_owned(), domain)
    }

    fn of_parts(local: String, domain: &str) -> Result<Self, AddressError> {
        if !(1..=LOCAL_LIMIT).contains(&local.len())
            || local.chars().any(|c| c.is_control() || c.is_whitespace())
        {
            return Err(AddressError::LocalPart);
        }
        Ok(Self { local, domain: normal_domain(domain)? })
    }

    /// `user@domain` of `user+detail@domain`; None without a detail.
    pub fn without_detail(&self) -> Option<Self> {
        let (user, _) = self.local.split_once('+').filter(|(user, _)| !user.is_empty())?;
        Some(Self { local: user.to_owned(), domain: self.domain.clone() })
    }

    pub fn is_postmaster(&self) -> bool {
        self.local.eq_ignore_ascii_case("postmaster")
    }
}

/// A quoted local part (RFC 5321 4.1.2) means what it would mean without quotes.
fn unquoted(local: &str) -> Option<String> {
    let Some(inner) = local.strip_prefix('"') else {
        return (!local.contains(QUOTED)).then(|| local.to_owned());
    };
    let inner = inner.strip_suffix('"')?;
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next()?),
            '"' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

/// A domain in lower-case A-labels.
///
/// # Errors
/// [`AddressError::Domain`].
pub fn normal_domain(text: &str) -> Result<String, AddressError> {
    if text.is_empty() || text.len() > DOMAIN_LIMIT {
        return Err(AddressError::Domain);
    }
    let domain = idna::domain_to_ascii_strict(text).map_err(|_| AddressError::Domain)?;
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    // No address literals and no trailing dot: an account lives in a domain.
    if domain.len() <= DOMAIN_LIMIT && domain.split('.').all(label) {
        Ok(domain)
    } else {
        Err(AddressError::Domain)
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.domain == other.domain && self.local.to_lowercase() == other.local.to_lowercase()
    }
}

impl Eq for Address {}

/// In quotes where it must be (RFC 5321 4.1.2), so that it can be parsed again.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.local.contains(QUOTED) {
            let escaped = self.local.replace('\\', "\\\\").replace('"', "\\\"");
            return write!(f, "\"{escaped}\"@{}", self.domain);
        }
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn spellings_of_one_mailbox_are_equal_and_have_one_key() {
        let plain = parse("alice@example.org");
        for text in ["Alice@EXAMPLE.org", "\"alice\"@example.org", "\"al\\ice\"@Example.Org"] {
            assert_eq!(parse(text), plain, "{text}");
            assert_eq!(parse(text).key(), plain.key());
        }
        assert_eq!(parse("Alice@EXAMPLE.org").to_string(), "Alice@example.org");
    }

    #[test]
    fn international_domains_become_a_labels() {
        assert_eq!(parse("info@BÜCHER.example").domain(), "xn--bcher-kva.example");
        assert_eq!(normal_domain("xn--bcher-kva.example").unwrap(), "xn--bcher-kva.example");
    }

    #[test]
    fn a_detail_is_taken_off_once_and_never_leaves_an_empty_name() {
        assert_eq!(parse("bob+lists+rust@example.org").without_detail(), Some(parse("bob@example.org")));
        assert_eq!(parse("bob@example.org").without_detail(), None);
        assert_eq!(parse("+x@example.org").without_detail(), None);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.org", "x".repeat(65));
        for text in [
            "",
            "alice",
            "@example.org",
            "alice@",
            "a b@example.org",
            "a@b@example.org",
            "\"a@example.org",
            "a\r\n@example.org",
            "a@exa mple.org",
            "a@.org",
            "a@-",
            "a@[127.0.0.1]",
            "a@example.org.",
            &long,
        ] {
            assert!(Address::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_printed_is_parsed_to_the_same_address() {
        for text in
            ["Alice@example.org", "\"a@b\"@example.org", "\"a\\\"\\\\,<b>\"@example.org", "a..b@example.org"]
        {
            let address = parse(text);
            assert_eq!(parse(&address.to_string()).local(), address.local(), "{text}");
            assert_eq!(Address::from_key(&address.key()).unwrap(), address);
        }
    }
}
