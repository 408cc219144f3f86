//! The primary's part: reads, compare-and-sets, lists.

use super::message::limits;
use super::occupied::Occupied;
use super::stored::{Record, Stamp};
use super::{After, Disk, Effect, Embedded, EmbeddedRequest, EmbeddedResponse, Purpose};
use crate::record::{Key, Kind, Token};
use bytes::Bytes;
use cluster::{Bucket, NodeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Writes that wait for others of the same key.
const QUEUE: usize = 64;
/// Times that a write is sent to a replica that has promised another of our rounds.
const RESENDS: u32 = 10;

/// What a compare-and-set asks for.
pub(super) struct Wish {
    pub expected: u64,
    pub token: Token,
    pub millis: u64,
    pub value: Option<Bytes>,
}

/// A compare-and-set that waits for another of the same key.
pub(super) struct Waiting {
    id: u64,
    wish: Wish,
}

/// An operation that waits for the other replicas, then perhaps for our disk.
pub(super) struct Op {
    request: u64,
    key: Key,
    kind: OpKind,
    waiting: BTreeSet<NodeId>,
    resends: u32,
}

enum OpKind {
    Write(Record),
    /// Nobody else may have become primary, before we say that there is no such record.
    Absence {
        version: u64,
    },
}

fn unavailable(text: &str) -> EmbeddedResponse {
    EmbeddedResponse::Unavailable(text.into())
}

impl Embedded {
    pub(super) fn read(&mut self, id: u64, key: Key, stale: bool, disk: &impl Disk) {
        if !key.is_valid() {
            return self.respond(id, EmbeddedResponse::Invalid);
        }
        let bucket = key.bucket();
        let primary = self.map.manager(bucket) == Some(self.me);
        let level = primary && self.levelled.contains(bucket);
        if !level && !stale {
            let response =
                if primary { unavailable(LEVELLING) } else { EmbeddedResponse::NotPrimary(self.view.epoch) };
            return self.respond(id, response);
        }
        match Self::get(disk, &key) {
            Ok(Some(Record { stamp, value: Some(value), .. })) => {
                self.respond(id, EmbeddedResponse::Record { version: stamp.version, value: Some(value) });
            }
            Ok(record) if level => {
                let version = record.map_or(0, |record| record.stamp.version);
                self.begin_op(id, key, OpKind::Absence { version });
            }
            Ok(_) => self.respond(id, EmbeddedResponse::Unknown),
            Err(error) => self.respond(id, EmbeddedResponse::Unavailable(error.to_string())),
        }
    }

    pub(super) fn compare_and_set(&mut self, id: u64, key: Key, wish: Wish, disk: &impl Disk) {
        if !key.is_valid() || wish.value.as_ref().is_some_and(|value| value.len() > limits::VALUE) {
            return self.respond(id, EmbeddedResponse::Invalid);
        }
        let bucket = key.bucket();
        if self.map.manager(bucket) != Some(self.me) {
            let epoch = self.view.epoch;
            return self.respond(id, EmbeddedResponse::NotPrimary(epoch));
        }
        if !self.levelled.contains(bucket) {
            return self.respond(id, unavailable(LEVELLING));
        }
        match self.busy.get_mut(&key) {
            Some(queue) if queue.len() >= QUEUE => {
                self.respond(id, unavailable("too many writes of one record"))
            }
            Some(queue) => queue.push_back(Waiting { id, wish }),
            None => {
                self.begin_write(id, key, wish, disk);
            }
        }
    }

    /// True if the key is busy from now on.
    fn begin_write(&mut self, id: u64, key: Key, wish: Wish, disk: &impl Disk) -> bool {
        let known = match Self::get(disk, &key) {
            Ok(known) => known,
            Err(error) => {
                self.respond(id, EmbeddedResponse::Unavailable(error.to_string()));
                return false;
            }
        };
        let version = known.as_ref().map_or(0, |record| record.stamp.version);
        if known.is_some_and(|record| record.token == wish.token) {
            self.respond(id, EmbeddedResponse::Committed { version });
            return false;
        }
        let Some(next) = version.checked_add(1).filter(|_| version == wish.expected) else {
            self.respond(id, EmbeddedResponse::Conflict { version });
            return false;
        };
        let stamp = Stamp { version: next, epoch: self.view.epoch };
        let record =
            Record { stamp, settled: false, token: wish.token, millis: wish.millis, value: wish.value };
        self.busy.insert(key.clone(), VecDeque::new());
        self.begin_op(id, key, OpKind::Write(record));
        true
    }

    fn begin_op(&mut self, request: u64, key: Key, kind: OpKind) {
        self.next += 1;
        let number = self.next;
        self.waiting += 1;
        let others = self.others_of(key.bucket());
        self.ops
            .insert(number, Op { request, key, kind, waiting: others.iter().copied().collect(), resends: 0 });
        for to in others {
            self.send_op(number, to);
        }
        self.advance_op(number);
    }

    /// The bucket's replicas but us.
    fn others_of(&self, bucket: Bucket) -> Vec<NodeId> {
        #[cfg(test)]
        if self.has_bug(super::PlantedBug::NoReplicas) {
            return Vec::new();
        }
        self.replicas_of(bucket).into_iter().filter(|node| *node != self.me).collect()
    }

    fn send_op(&mut self, number: u64, to: NodeId) {
        let ballot = self.ballot();
        let Some(op) = self.ops.get(&number) else { return };
        let request = match &op.kind {
            OpKind::Write(record) => {
                EmbeddedRequest::Write { ballot, records: vec![(op.key.clone(), record.clone())] }
            }
            OpKind::Absence { .. } => EmbeddedRequest::Confirm { ballot },
        };
        self.call(to, request, Purpose::Op(number, to));
    }

    pub(super) fn op_answered(&mut self, number: u64, from: NodeId, response: Option<EmbeddedResponse>) {
        let Some(op) = self.ops.get_mut(&number) else { return };
        match response {
            Some(EmbeddedResponse::Done) => {
                op.waiting.remove(&from);
                self.advance_op(number);
            }
            Some(EmbeddedResponse::Refused { promised }) => {
                let ours = promised.epoch == self.view.epoch && promised.round <= self.round;
                if ours && op.resends < RESENDS {
                    // We began a new round meanwhile, for another bucket.
                    op.resends += 1;
                    self.send_op(number, from);
                } else {
                    self.outdated = self.outdated.max(promised.epoch);
                    self.doubt(number);
                }
            }
            _ => self.doubt(number),
        }
    }

    /// All other replicas have answered: a write goes to our disk, an absence is sure.
    fn advance_op(&mut self, number: u64) {
        let Some(op) = self.ops.get(&number).filter(|op| op.waiting.is_empty()) else { return };
        match &op.kind {
            OpKind::Write(record) => {
                // Everybody else has it, so when it is here it is committed.
                let record = Record { settled: true, ..record.clone() };
                let key = op.key.clone();
                self.write(vec![(key, Some(record))], After::OpWritten(number), false);
            }
            OpKind::Absence { version } => {
                let (request, version) = (op.request, *version);
                self.end_op(number);
                self.respond(request, EmbeddedResponse::Record { version, value: None });
            }
        }
    }

    pub(super) fn op_written(&mut self, number: u64, ok: bool, disk: &impl Disk) {
        if !ok {
            return self.doubt(number);
        }
        let Some(op) = self.end_op(number) else { return };
        let OpKind::Write(record) = op.kind else { return };
        let stamp = record.stamp;
        self.respond(op.request, EmbeddedResponse::Committed { version: stamp.version });
        for to in self.others_of(op.key.bucket()) {
            let request = EmbeddedRequest::Settle { stamps: vec![(op.key.clone(), stamp)] };
            self.effects.push(Effect::Tell { to, request });
        }
        let mut queue = self.busy.remove(&op.key).unwrap_or_default();
        while let Some(next) = queue.pop_front() {
            if self.begin_write(next.id, op.key.clone(), next.wish, disk) {
                self.busy.insert(op.key, queue);
                break;
            }
        }
    }

    fn end_op(&mut self, number: u64) -> Option<Op> {
        let op = self.ops.remove(&number)?;
        self.waiting = self.waiting.saturating_sub(1);
        Some(op)
    }

    /// What became of an operation is not known: its bucket must be made level again.
    fn doubt(&mut self, number: u64) {
        let Some(op) = self.ops.get(&number) else { return };
        if matches!(op.kind, OpKind::Absence { .. }) {
            let request = op.request;
            self.end_op(number);
            return self.respond(request, unavailable("a replica does not answer"));
        }
        let bucket = op.key.bucket();
        self.levelled.remove(bucket);
        self.is_level = false;
        // An attempt under way may have looked already.
        self.abort_level_of(bucket);
        self.fail_ops(|other| other == bucket);
    }

    pub(super) fn fail_ops(&mut self, which: impl Fn(Bucket) -> bool) {
        let failed: Vec<u64> =
            self.ops.iter().filter(|(_, op)| which(op.key.bucket())).map(|(&number, _)| number).collect();
        for number in failed {
            let Some(op) = self.end_op(number) else { continue };
            self.respond(op.request, unavailable(UNKNOWN));
            for waiting in self.busy.remove(&op.key).unwrap_or_default() {
                self.respond(waiting.id, unavailable(LEVELLING));
            }
        }
    }

    pub(super) fn list(&mut self, id: u64, kind: Kind, after: Option<Bytes>, limit: u32, disk: &impl Disk) {
        let buckets: Vec<Bucket> = self.own_buckets().collect();
        if !buckets.iter().all(|&bucket| self.levelled.contains(bucket)) {
            return self.respond(id, unavailable(LEVELLING));
        }
        let limit = (limit as usize).clamp(1, limits::PAGE);
        let mut listed: BTreeMap<Bytes, (Key, u64, Bytes)> = BTreeMap::new();
        let mut occupied = Occupied::new(disk);
        for bucket in buckets {
            match occupied.has(bucket) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => return self.respond(id, unavailable(UNREADABLE)),
            }
            let prefix = Key::prefix(bucket, Some(kind));
            let mut from = after.as_ref().map(|after| [&prefix, &after[..]].concat());
            loop {
                let Ok(page) = disk.records(&prefix, from.as_deref(), limit) else {
                    return self.respond(id, unavailable(UNREADABLE));
                };
                from = page.last().map(|(key, _)| key.to_vec());
                let full = page.len() == limit;
                for (key, bytes) in page {
                    let (Some(key), Some(record)) = (Key::from_bytes(&key), Record::decode(&bytes)) else {
                        return self.respond(id, unavailable("a record cannot be read"));
                    };
                    let Some(value) = record.value else { continue };
                    // Profiles are long, and nobody lists what is in them.
                    let value = if kind == Kind::Profile { Bytes::new() } else { value };
                    listed.insert(Bytes::copy_from_slice(key.id()), (key, record.stamp.version, value));
                    if listed.len() > limit {
                        listed.pop_last();
                    }
                }
                if !full {
                    break;
                }
            }
        }
        self.respond(id, EmbeddedResponse::Listed(listed.into_values().collect()));
    }
}

const UNREADABLE: &str = "the disk cannot be read";
const LEVELLING: &str = "the user database is being brought up to date; try again";
const UNKNOWN: &str = "a replica does not answer, so the write may or may not have happened; try again";
