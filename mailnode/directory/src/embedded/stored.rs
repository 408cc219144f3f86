//! What is on disk: records with their stamps, and what this node promised.

use super::bucket_set::Mark;
use crate::record::Token;
use bytes::Bytes;
use cluster::{Epoch, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Whose turn it is to write a bucket: the epoch of the view, then the primary's attempts to level in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    pub epoch: Epoch,
    pub round: u64,
}

/// Orders the states of one record. Of two with one version, of which at most one was committed, the one of the
/// later epoch counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    pub version: u64,
    pub epoch: Epoch,
}

/// A record's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub stamp: Stamp,
    /// Known to be committed; else it must be written again, under the new epoch, before it counts.
    pub settled: bool,
    pub token: Token,
    /// Unix time of the write, for the age of tombstones.
    pub millis: u64,
    /// None: a tombstone.
    pub value: Option<Bytes>,
}

const FORMAT: u8 = 1;
const HEAD: usize = 1 + 8 + 8 + 1 + 16 + 8 + 1;

impl Record {
    /// Format 1: format, version, epoch, settled, token, time, whether there is a value, value; big endian.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(HEAD + self.value.as_ref().map_or(0, Bytes::len));
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.stamp.version.to_be_bytes());
        bytes.extend_from_slice(&self.stamp.epoch.0.to_be_bytes());
        bytes.push(u8::from(self.settled));
        bytes.extend_from_slice(&self.token);
        bytes.extend_from_slice(&self.millis.to_be_bytes());
        bytes.push(u8::from(self.value.is_some()));
        bytes.extend_from_slice(self.value.as_deref().unwrap_or_default());
        bytes.into()
    }

    /// None if the bytes are no record of a format that this program knows.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let mut rest: &[u8] = bytes;
        if take::<1>(&mut rest)? != [FORMAT] {
            return None;
        }
        let version = u64::from_be_bytes(take(&mut rest)?);
        let epoch = Epoch(u64::from_be_bytes(take(&mut rest)?));
        let [settled] = take(&mut rest)?;
        let token = take(&mut rest)?;
        let millis = u64::from_be_bytes(take(&mut rest)?);
        let [present] = take(&mut rest)?;
        let value = (present == 1).then(|| bytes.slice_ref(rest));
        Some(Self { stamp: Stamp { version, epoch }, settled: settled == 1, token, millis, value })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// What this node must not forget, one record of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promises {
    /// Nothing from a lower epoch is taken.
    pub epoch: Epoch,
    /// In this epoch: by primary, the highest round promised to it. Our own attempts are among them.
    pub rounds: BTreeMap<NodeId, u64>,
    /// When which buckets were level last.
    pub marks: Vec<Mark>,
}

impl Promises {
    /// The key that no bucket has.
    pub const KEY: &'static [u8] = b"\xff\xffpromises";

    pub fn encode(&self) -> Bytes {
        let mut bytes = vec![FORMAT];
        bytes.extend(postcard::to_stdvec(self).unwrap_or_default());
        bytes.into()
    }

    /// None if damaged or of a format that this program does not know.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&FORMAT, rest) = bytes.split_first()? else { return None };
        postcard::from_bytes(rest).ok()
    }

    /// Raises the promise to a ballot of a primary. False if a higher one was promised.
    pub fn raise(&mut self, primary: NodeId, ballot: Ballot) -> bool {
        if ballot.epoch < self.epoch {
            return false;
        }
        if ballot.epoch > self.epoch {
            self.epoch = ballot.epoch;
            self.rounds.clear();
        }
        let round = self.rounds.entry(primary).or_default();
        if ballot.round < *round {
            return false;
        }
        *round = ballot.round;
        true
    }

    /// True if a message with this ballot may be followed: this very epoch was promised, and no higher round.
    pub fn allows(&self, primary: NodeId, ballot: Ballot) -> bool {
        ballot.epoch == self.epoch && self.rounds.get(&primary).is_some_and(|round| ballot.round >= *round)
    }

    pub fn to(&self, primary: NodeId) -> Ballot {
        Ballot { epoch: self.epoch, round: self.rounds.get(&primary).copied().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_bytes_and_damage_is_seen() {
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"value"))] {
            let stamp = Stamp { version: 7, epoch: Epoch(3) };
            let record = Record { stamp, settled: true, token: [9; 16], millis: 5, value };
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Some(record));
            assert_eq!(Record::decode(&bytes.slice(..HEAD - 1)), None);
        }
        assert_eq!(Record::decode(&Bytes::from_static(b"")), None);
    }

    #[test]
    fn a_promise_only_rises() {
        let (a, b) = (NodeId(1), NodeId(2));
        let ballot = |epoch, round| Ballot { epoch: Epoch(epoch), round };
        let mut promises = Promises::default();
        assert!(promises.raise(a, ballot(5, 2)));
        assert!(!promises.raise(a, ballot(5, 1)) && !promises.raise(a, ballot(4, 9)));
        assert!(promises.raise(b, ballot(5, 1)));
        assert!(promises.allows(a, ballot(5, 2)) && !promises.allows(a, ballot(5, 1)));
        assert!(promises.raise(b, ballot(6, 1)));
        assert!(!promises.allows(a, ballot(5, 2)) && !promises.allows(a, ballot(6, 9)));
        assert_eq!(Promises::decode(&promises.encode()), Some(promises));
    }
}
