//! Names of records in TiKV. `P` is the configured prefix, followed by a zero byte, which no prefix has: so no
//! cluster's keys are inside another's.
//!
//! | key | value |
//! | --- | --- |
//! | `P v` | schema version, as decimal digits |
//! | `P a` address | a record of [`directory::Kind::Address`]: the user or the targets, the only truth about it |
//! | `P d` domain | a record of [`directory::Kind::Domain`] |
//! | `P p` user id, 16 bytes | a record of [`directory::Kind::Profile`]: the whole user |
//!
//! Buckets play no part: TiKV spreads keys over its regions by itself, and lists need the order of ids.

use cluster::Bucket;
use directory::{Key, Kind};
use std::ops::Range;

/// The version of everything below the prefix.
pub const SCHEMA: u32 = 1;
const USER_ID: usize = 16;

#[derive(Debug, Clone)]
pub struct Names {
    prefix: Vec<u8>,
}

impl Names {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: [prefix.as_bytes(), &[0]].concat() }
    }

    pub fn schema(&self) -> Vec<u8> {
        [&self.prefix[..], b"v"].concat()
    }

    pub fn record(&self, kind: Kind, id: &[u8]) -> Vec<u8> {
        [&self.prefix[..], &[kind.byte()], id].concat()
    }

    /// All records of a kind after an id.
    pub fn after(&self, kind: Kind, after: Option<&[u8]>) -> Range<Vec<u8>> {
        let end = [&self.prefix[..], &[kind.byte() + 1]].concat();
        self.record(kind, after.unwrap_or_default()).into_iter().chain(after.map(|_| 0)).collect()..end
    }

    /// Everything of this cluster.
    pub fn all(&self) -> Range<Vec<u8>> {
        let mut end = self.prefix.clone();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        self.prefix.clone()..end
    }

    /// The key whose name this is; None if it is not one of a record.
    pub fn parse(&self, name: &[u8]) -> Option<Key> {
        let (&kind, id) = name.strip_prefix(&self.prefix[..])?.split_first()?;
        if kind == Kind::Profile.byte() && id.len() != USER_ID {
            return None;
        }
        let mut bytes = Bucket::of_bytes(id).0.to_be_bytes().to_vec();
        bytes.push(kind);
        bytes.extend_from_slice(id);
        Key::from_bytes(&bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::UserId;
    use directory::Address;

    #[test]
    fn a_name_leads_back_to_its_key_and_to_no_other_cluster() {
        let (names, other) = (Names::new("one"), Names::new("one/p"));
        let plain = Address::parse("Alice@example.org").unwrap();
        let quoted = Address::parse("\"a@b\"@example.org").unwrap();
        let addresses = [Key::address(&plain), Key::address(&quoted)];
        for key in addresses.into_iter().chain([Key::profile(UserId(7)), Key::domain("example.org")]) {
            let name = names.record(key.kind().unwrap(), key.id());
            assert_eq!(names.parse(&name), Some(key));
            assert_eq!(other.parse(&name), None);
            assert!(names.all().contains(&name) && !other.all().contains(&name));
        }
        for bad in [&b"one\0"[..], b"one\0v", b"one\0p123", b"one\0d", b"one\0x1", b"one/d1"] {
            assert_eq!(names.parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_range_begins_after_the_id_and_ends_with_the_kind() {
        let names = Names::new("p");
        let range = names.after(Kind::Address, Some(b"b@x"));
        for (id, within) in [(&b"a@x"[..], false), (b"b@x", false), (b"b@x\0", true), (b"c@x", true)] {
            assert_eq!(range.contains(&names.record(Kind::Address, id)), within);
        }
        assert!(!range.contains(&names.record(Kind::Domain, b"c")));
        assert!(names.after(Kind::Profile, None).contains(&names.record(Kind::Profile, &[255; 16])));
    }
}
