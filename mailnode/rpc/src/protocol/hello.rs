//! The hello: the first frame in each direction, in which both sides say who they are and what they can take.
//!
//! Payload: magic, transport version `u16`, cluster id, node name (each a length `u8` and bytes), node id `u64`,
//! incarnation `u64`, lowest and highest application version `u16`, then the limits `max_head`, `max_body`,
//! `max_calls`, `window`, each `u32`. The name counts only if the certificate proves it ([`crate::pki`]).

use super::frame::{Malformed, TRANSPORT_VERSION};
use crate::{Identity, Options};
use std::ops::RangeInclusive;

const MAGIC: &[u8; 4] = b"PRKL";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) identity: Identity,
    pub(crate) versions: RangeInclusive<u16>,
    pub(crate) limits: Limits,
}

/// What holds on a connection: the lower of both sides' limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) max_head: u32,
    pub(crate) max_body: u32,
    pub(crate) max_calls: u32,
    pub(crate) window: u32,
}

/// What two hellos come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    pub(crate) version: u16,
    pub(crate) limits: Limits,
}

/// Why a hello is refused. The text goes to the peer and into the logs of both.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("transport version {0} is not spoken here, only {TRANSPORT_VERSION}")]
    Transport(u16),
    #[error("the peer is of cluster {theirs:?}, this is cluster {ours:?}")]
    Cluster { theirs: String, ours: String },
    #[error("no common protocol version: the peer speaks {}-{}, this node {}-{}",
        theirs.start(), theirs.end(), ours.start(), ours.end())]
    Versions { theirs: RangeInclusive<u16>, ours: RangeInclusive<u16> },
    #[error("the certificate does not prove the name {0:?}")]
    Unproved(String),
    #[error("node {wanted:?} ({wanted_id:016x}) was wanted, this is {found:?} ({found_id:016x})")]
    Other { wanted: String, wanted_id: u64, found: String, found_id: u64 },
    #[error("the peer's limits cannot work")]
    Limits,
}

/// What came instead of a hello that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HelloError {
    Malformed(Malformed),
    Refused(Refusal),
}

impl Hello {
    pub(crate) fn new(identity: &Identity, options: &Options) -> Self {
        let limits = Limits {
            max_head: options.max_head,
            max_body: options.max_body,
            max_calls: options.max_calls,
            window: options.window,
        };
        Self { identity: identity.clone(), versions: options.versions.clone(), limits }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&TRANSPORT_VERSION.to_be_bytes());
        for text in [&self.identity.cluster, &self.identity.name] {
            // Both are below 256 bytes: `Endpoint::new` checks it.
            let text = text.as_bytes().get(..255).unwrap_or(text.as_bytes());
            out.push(text.len() as u8);
            out.extend_from_slice(text);
        }
        out.extend_from_slice(&self.identity.node_id.to_be_bytes());
        out.extend_from_slice(&self.identity.incarnation.to_be_bytes());
        out.extend_from_slice(&self.versions.start().to_be_bytes());
        out.extend_from_slice(&self.versions.end().to_be_bytes());
        let Limits { max_head, max_body, max_calls, window } = self.limits;
        for limit in [max_head, max_body, max_calls, window] {
            out.extend_from_slice(&limit.to_be_bytes());
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, HelloError> {
        let mut rest = payload;
        let malformed = HelloError::Malformed(Malformed::Hello);
        if take(&mut rest) != Some(*MAGIC) {
            return Err(malformed);
        }
        match take(&mut rest).map(u16::from_be_bytes) {
            Some(TRANSPORT_VERSION) => {}
            // What follows may be laid out in another way.
            Some(other) => return Err(HelloError::Refused(Refusal::Transport(other))),
            None => return Err(malformed),
        }
        let hello = Self::decode_fields(&mut rest).ok_or(malformed.clone())?;
        if rest.is_empty() { Ok(hello) } else { Err(malformed) }
    }

    fn decode_fields(rest: &mut &[u8]) -> Option<Self> {
        let (cluster, name) = (take_text(rest)?, take_text(rest)?);
        let node_id = u64::from_be_bytes(take(rest)?);
        let incarnation = u64::from_be_bytes(take(rest)?);
        let versions = u16::from_be_bytes(take(rest)?)..=u16::from_be_bytes(take(rest)?);
        let mut limit = || take(rest).map(u32::from_be_bytes);
        let limits = Limits { max_head: limit()?, max_body: limit()?, max_calls: limit()?, window: limit()? };
        Some(Self { identity: Identity { cluster, node_id, name, incarnation }, versions, limits })
    }

    /// What holds between us and this peer, or why nothing does. Names are checked elsewhere.
    pub(crate) fn agree(&self, theirs: &Self) -> Result<Agreement, Refusal> {
        if self.identity.cluster != theirs.identity.cluster {
            return Err(Refusal::Cluster {
                theirs: theirs.identity.cluster.clone(),
                ours: self.identity.cluster.clone(),
            });
        }
        let version = *self.versions.end().min(theirs.versions.end());
        if version < *self.versions.start().max(theirs.versions.start()) {
            return Err(Refusal::Versions { theirs: theirs.versions.clone(), ours: self.versions.clone() });
        }
        let limits = Limits {
            max_head: self.limits.max_head.min(theirs.limits.max_head),
            max_body: self.limits.max_body.min(theirs.limits.max_body),
            max_calls: self.limits.max_calls.min(theirs.limits.max_calls),
            window: self.limits.window.min(theirs.limits.window),
        };
        let largest = limits.max_head.checked_add(limits.max_body);
        // A message that never gets its credit would wait in vain.
        if limits.max_calls == 0 || largest.is_none_or(|sum| sum > limits.window) {
            return Err(Refusal::Limits);
        }
        Ok(Agreement { version, limits })
    }
}

impl Limits {
    /// What of a message is too large: its name, size and limit.
    pub(crate) fn excess(&self, head: usize, body: usize) -> Option<(&'static str, u64, u64)> {
        let parts = [("head", head as u64, self.max_head), ("body", body as u64, self.max_body)];
        let too_large = parts.into_iter().find(|(_, size, limit)| *size > u64::from(*limit));
        too_large.map(|(what, size, limit)| (what, size, u64::from(limit)))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (field, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*field)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let [length] = take(rest)?;
    let (text, after) = rest.split_at_checked(usize::from(length))?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        let identity =
            Identity { cluster: "c".repeat(255), node_id: 3, name: "mail-0".into(), incarnation: u64::MAX };
        Hello::new(&identity, &Options { versions: 2..=5, ..Options::default() })
    }

    #[test]
    fn a_hello_comes_back_as_it_was_and_fits_its_frame() {
        let bytes = hello().encode();
        assert!(bytes.len() < super::super::frame::MAX_HELLO);
        assert_eq!(Hello::decode(&bytes), Ok(hello()));
    }

    #[test]
    fn every_cut_or_longer_hello_is_malformed() {
        let mut bytes = hello().encode();
        for length in 0..bytes.len() {
            let cut = Hello::decode(&bytes[..length]);
            assert_eq!(cut, Err(HelloError::Malformed(Malformed::Hello)), "{length}");
        }
        bytes.push(0);
        assert_eq!(Hello::decode(&bytes), Err(HelloError::Malformed(Malformed::Hello)));
    }

    #[test]
    fn another_transport_version_is_refused_whatever_follows() {
        let refused = HelloError::Refused(Refusal::Transport(2));
        assert_eq!(Hello::decode(b"PRKL\x00\x02whatever"), Err(refused));
    }

    #[test]
    fn the_highest_common_version_and_the_lowest_limits_hold() {
        let ours = hello();
        let mut theirs = Hello { versions: 1..=4, ..hello() };
        theirs.limits.max_calls = 7;
        let agreement = ours.agree(&theirs).unwrap();
        assert_eq!((agreement.version, agreement.limits.max_calls), (4, 7));
        assert_eq!(theirs.agree(&ours), Ok(agreement));
    }

    #[test]
    fn another_cluster_no_common_version_and_impossible_limits_are_refused() {
        let ours = hello();
        let mut theirs = hello();
        theirs.identity.cluster = "other".into();
        assert!(matches!(ours.agree(&theirs), Err(Refusal::Cluster { .. })));
        for versions in [0..=1, 6..=9, RangeInclusive::new(9, 2)] {
            let theirs = Hello { versions: versions.clone(), ..hello() };
            assert!(matches!(ours.agree(&theirs), Err(Refusal::Versions { .. })), "{versions:?}");
        }
        let mut theirs = hello();
        theirs.limits.window = 10;
        assert_eq!(ours.agree(&theirs), Err(Refusal::Limits));
    }
}
