//! The embedded user database: records partitioned over the nodes by bucket (Porcupine), each on
//! `replicas` nodes ([`cluster::record_places`]: by rendezvous, in different zones where there are). One node's part in it, as a state machine: events
//! come in, effects go out; the node runs it on its log and peers, tests on simulated ones.
//!
//! The first node of the order is the bucket's *primary*. It serialises writes of a key; a write is committed
//! when all other replicas that the current view names have it on disk, and then the primary itself. So what a
//! level primary has on its disk is what was committed, and any replica that survives has every committed record.
//!
//! *Epochs.* Before the primary serves a bucket in a new view it *levels* it (`level`): every member that
//! answers in this view promises to take nothing from earlier ballots any more (durably), and tells what it has;
//! the newest state of each key goes to all replicas; then all members put down a *mark* that says when the
//! bucket was level. Two primaries of one bucket can never both commit, because the replicas of the earlier one
//! have promised the later one to refuse it.
//!
//! *States of a record.* Ordered by version, then epoch. A state that may not have been committed (its write
//! reached only some replicas) is written again under the new epoch before it counts, so that no copy of a
//! competing state that turns up later can beat it. What is known to be committed is marked *settled* and need
//! not be written again.
//!
//! *Marks* keep a node that was away from taking its old state for the newest: a bucket is levelled only with
//! enough of the replicas that were level last (`level`). Else it stays unlevelled: what is there can
//! be read, nothing can be written, and nothing is said to be absent. Whether what a node has of a bucket is all that was
//! committed is told by [`Embedded::is_certain`].
//!
//! *In doubt.* If a replica does not answer, the primary does not know what became of the write. It says so, and
//! levels the bucket again under a new round: then the write is either everywhere or nowhere, and a message of it
//! that is still on its way is refused.
//!
//! *Absence.* Only a level primary says that there is no record, and only after all other replicas have
//! confirmed that they did not promise a later epoch to somebody else.
//!
//! Disk: writes are effects, carried out in the order in which they were asked for; a read sees all writes that
//! were reported done.

mod bucket_set;
mod level;
mod message;
mod occupied;
mod primary;
mod replica;
mod stored;

pub use bucket_set::{BucketSet, Mark};
pub use message::{EmbeddedRequest, EmbeddedResponse, Report, limits};
pub use stored::{Ballot, Promises, Record, Stamp};

use crate::record::Key;
use bytes::Bytes;
use cluster::{Bucket, Epoch, NodeId, RecordPlace, UserMap, View, record_places, record_replicas};
use level::Level;
use primary::Op;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// A disk read failed. The node's other replicas are fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the disk cannot be read")]
pub struct DiskError;

/// This node's disk, for reading.
pub trait Disk {
    /// # Errors
    /// If the disk fails.
    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, DiskError>;

    /// Records whose keys begin with `prefix`, after a key, in order of keys, at most `limit`.
    ///
    /// # Errors
    /// If the disk fails.
    fn records(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, DiskError>;
}

#[derive(Clone, Debug)]
pub enum Event {
    /// A view was installed. Older ones are ignored.
    View(View),
    /// Somebody asks; `id` is the caller's name for it.
    Request { from: NodeId, id: u64, request: EmbeddedRequest },
    /// What came of [`Effect::Call`]; None: no answer.
    Answer { call: u64, response: Option<EmbeddedResponse> },
    /// [`Effect::Write`] is on disk, or could not be written.
    Written { write: u64, ok: bool },
    /// Time passed: failed attempts are repeated. Every 100 ms or so.
    Tick,
}

#[derive(Clone, Debug)]
pub enum Effect {
    /// Ask a peer, and report what comes of it. The caller limits the time.
    Call { call: u64, to: NodeId, request: EmbeddedRequest },
    /// Tell a peer; nobody minds if it is lost.
    Tell { to: NodeId, request: EmbeddedRequest },
    /// Write to disk (None deletes), all or nothing, after all writes asked for before. Lazy: no hurry.
    Write { write: u64, records: Vec<(Bytes, Option<Bytes>)>, lazy: bool },
    /// The answer to [`Event::Request`].
    Respond { id: u64, response: EmbeddedResponse },
}

/// Requests that wait at this node for disk or peers; more are refused.
const WAITING: usize = 10_000;

/// One node's part of the embedded database.
pub struct Embedded {
    me: NodeId,
    replicas: usize,
    promises: Promises,
    view: View,
    map: UserMap,
    places: Vec<RecordPlace>,
    /// Our buckets that are level in this view.
    levelled: BucketSet,
    /// Our buckets that cannot be made level with the members of this view.
    stuck: BucketSet,
    /// All others of our buckets are level.
    is_level: bool,
    level: Option<Level>,
    /// The round of our last attempt that is on disk; what we write carries it.
    round: u64,
    /// Somebody promised this epoch, so ours is over or soon will be.
    outdated: Epoch,
    ops: BTreeMap<u64, Op>,
    /// Keys with an operation under way, and those that wait for it.
    busy: HashMap<Key, VecDeque<primary::Waiting>>,
    waiting: usize,
    calls: HashMap<u64, Purpose>,
    writes: HashMap<u64, (After, Vec<Key>)>,
    /// Keys that are being written, for those who would write back what they read.
    writing: HashMap<Key, usize>,
    next: u64,
    effects: Vec<Effect>,
    #[cfg(test)]
    pub(crate) planted_bug: Option<PlantedBug>,
    /// Tests look at a few buckets only.
    #[cfg(test)]
    only: Vec<Bucket>,
}

/// Errors put in on purpose, to see that the tests would find them.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlantedBug {
    /// Replicas take writes from any epoch.
    AnyEpoch,
    /// A bucket is levelled with whoever answers, however old their state.
    NoMarks,
    /// Whoever answers counts, also if it has lost its disk.
    EmptyDisksCount,
    /// A write counts as committed when the primary has it.
    NoReplicas,
    /// Who was a replica once is taken to have all that was committed since.
    OldMarks,
}

/// What a call was for.
enum Purpose {
    Op(u64, NodeId),
    Level(NodeId),
}

/// What happens when a write is on disk.
enum After {
    Nothing,
    Respond {
        id: u64,
        response: EmbeddedResponse,
    },
    /// Answer a promise: what is here is read only now, behind all earlier writes.
    Promised {
        id: u64,
        buckets: Vec<Bucket>,
    },
    OpWritten(u64),
    /// Of the attempt of this round.
    LevelBegun(u64),
    LevelWritten(u64),
}

impl Embedded {
    /// `promises` is what [`Promises::KEY`] holds on this node's disk.
    pub fn new(me: NodeId, replicas: usize, promises: Promises) -> Self {
        let view = View::default();
        Self {
            me,
            replicas: replicas.max(1),
            promises,
            map: UserMap::new(&view),
            places: record_places(&view),
            view,
            levelled: BucketSet::default(),
            stuck: BucketSet::default(),
            is_level: false,
            level: None,
            round: 0,
            outdated: Epoch(0),
            ops: BTreeMap::new(),
            busy: HashMap::new(),
            waiting: 0,
            calls: HashMap::new(),
            writes: HashMap::new(),
            writing: HashMap::new(),
            next: 0,
            effects: Vec::new(),
            #[cfg(test)]
            planted_bug: None,
            #[cfg(test)]
            only: Vec::new(),
        }
    }

    pub fn handle(&mut self, event: Event, disk: &impl Disk) -> Vec<Effect> {
        match event {
            Event::View(view) => {
                self.install(view);
                self.begin_level();
            }
            Event::Request { from, id, request } => self.request(from, id, request, disk),
            Event::Answer { call, response } => match self.calls.remove(&call) {
                Some(Purpose::Op(op, from)) => self.op_answered(op, from, response),
                Some(Purpose::Level(from)) => self.level_answered(from, response, disk),
                None => {}
            },
            Event::Written { write, ok } => self.written(write, ok, disk),
            Event::Tick => self.begin_level(),
        }
        std::mem::take(&mut self.effects)
    }

    /// How many of our buckets are level, and how many we have.
    pub fn progress(&self) -> (usize, usize) {
        (self.levelled.len(), self.own_buckets().count())
    }

    /// True if everything that was committed in a bucket is on this disk: we have levelled it, or are one of its replicas and were one
    /// when it was level last, in this view or the one before: then nothing was committed without us. What is committed in a later
    /// view, of which we do not know yet, does not count.
    pub fn is_certain(&self, bucket: Bucket) -> bool {
        let epoch = self.view.epoch;
        let lately = |mark: &&Mark| mark.firm && self.is_recent(mark.epoch) && mark.buckets.contains(bucket);
        let is_replica =
            |places: &[RecordPlace]| record_replicas(places, bucket, self.replicas).contains(&self.me);
        self.levelled.contains(bucket)
            || self.promises.epoch <= epoch
                && self.promises.marks.iter().filter(lately).any(|mark| is_replica(&mark.places))
                && is_replica(&self.places)
    }

    fn is_recent(&self, mark: Epoch) -> bool {
        #[cfg(test)]
        if self.has_bug(PlantedBug::OldMarks) {
            return true;
        }
        mark.next() >= self.view.epoch
    }

    /// The buckets whose primary we are.
    #[cfg(not(test))]
    fn own_buckets(&self) -> impl Iterator<Item = Bucket> {
        self.map.buckets_of(self.me)
    }

    #[cfg(test)]
    fn own_buckets(&self) -> impl Iterator<Item = Bucket> {
        self.only.iter().copied().filter(|bucket| self.map.manager(*bucket) == Some(self.me))
    }

    /// The nodes that have a bucket's records by the current view, the primary first.
    pub fn replicas_of(&self, bucket: Bucket) -> Vec<NodeId> {
        record_replicas(&self.places, bucket, self.replicas)
    }

    fn install(&mut self, view: View) {
        if view.epoch <= self.view.epoch {
            return;
        }
        self.map = UserMap::new(&view);
        self.places = record_places(&view);
        self.view = view;
        self.step_down();
    }

    /// There is a later view than the one that we were primary in: nothing is level, nothing goes on.
    fn step_down(&mut self) {
        self.levelled.clear();
        self.stuck.clear();
        self.is_level = false;
        self.level = None;
        self.fail_ops(|_| true);
        self.calls.clear();
    }

    fn request(&mut self, from: NodeId, id: u64, request: EmbeddedRequest, disk: &impl Disk) {
        if self.waiting >= WAITING {
            let response = EmbeddedResponse::Unavailable("too many requests at once".into());
            return self.respond(id, response);
        }
        match request {
            EmbeddedRequest::Read { key, stale } => self.read(id, key, stale, disk),
            EmbeddedRequest::CompareAndSet { key, expected, token, millis, value } => {
                let wish = primary::Wish { expected, token, millis, value };
                self.compare_and_set(id, key, wish, disk);
            }
            EmbeddedRequest::List { kind, after, limit } => self.list(id, kind, after, limit, disk),
            request => self.serve_primary(from, id, request, disk),
        }
    }

    fn respond(&mut self, id: u64, response: EmbeddedResponse) {
        self.effects.push(Effect::Respond { id, response });
    }

    fn call(&mut self, to: NodeId, request: EmbeddedRequest, purpose: Purpose) {
        self.next += 1;
        self.calls.insert(self.next, purpose);
        self.effects.push(Effect::Call { call: self.next, to, request });
    }

    fn write(&mut self, records: Vec<(Key, Option<Record>)>, after: After, lazy: bool) {
        let keys: Vec<Key> = records.iter().map(|(key, _)| key.clone()).collect();
        for key in &keys {
            *self.writing.entry(key.clone()).or_default() += 1;
        }
        let coded = records
            .into_iter()
            .map(|(key, record)| (key.as_bytes().clone(), record.map(|record| record.encode())));
        let records = coded.collect();
        self.push_write(records, keys, after, lazy);
    }

    /// Everything asked for before is on disk when this is.
    fn write_promises(&mut self, after: After) {
        let record = (Bytes::from_static(Promises::KEY), Some(self.promises.encode()));
        self.push_write(vec![record], Vec::new(), after, false);
    }

    fn push_write(&mut self, records: Vec<(Bytes, Option<Bytes>)>, keys: Vec<Key>, after: After, lazy: bool) {
        self.next += 1;
        self.waiting += 1;
        self.writes.insert(self.next, (after, keys));
        self.effects.push(Effect::Write { write: self.next, records, lazy });
    }

    fn written(&mut self, write: u64, ok: bool, disk: &impl Disk) {
        let Some((after, keys)) = self.writes.remove(&write) else { return };
        self.waiting = self.waiting.saturating_sub(1);
        for key in keys {
            if let Some(count) = self.writing.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.writing.remove(&key);
                }
            }
        }
        let failed = || EmbeddedResponse::Unavailable("the disk takes no writes".into());
        match after {
            After::Nothing => {}
            After::Respond { id, response } => self.respond(id, if ok { response } else { failed() }),
            After::Promised { id, buckets } => {
                let response = if ok { self.report(&buckets, disk) } else { failed() };
                self.respond(id, response);
            }
            After::OpWritten(op) => self.op_written(op, ok, disk),
            After::LevelBegun(round) => self.level_begun(round, ok, disk),
            After::LevelWritten(round) => self.level_written(round, ok, disk),
        }
    }

    fn get(disk: &impl Disk, key: &Key) -> Result<Option<Record>, DiskError> {
        match disk.record(key.as_bytes())? {
            // A record that cannot be read is an error, not an absence.
            Some(bytes) => Record::decode(&bytes).map(Some).ok_or(DiskError),
            None => Ok(None),
        }
    }

    /// The ballot under which we write now.
    fn ballot(&self) -> Ballot {
        Ballot { epoch: self.view.epoch, round: self.round }
    }

    #[cfg(test)]
    fn has_bug(&self, bug: PlantedBug) -> bool {
        self.planted_bug == Some(bug)
    }
}

/// The user map that a view with just these active members had.
#[cfg(test)]
mod tests;
