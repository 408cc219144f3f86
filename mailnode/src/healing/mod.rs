//! Self-healing: the shell around [`cluster::anti_entropy`] and [`cluster::healing`] (DESIGN 4).
//!
//! | module | what it does |
//! | --- | --- |
//! | [`compare`] | compares with peers, repairs what differs |
//! | [`relocate`] | gives entries another replica set: after a loss, in a drain, for balance |
//! | [`tombstones`] | an empty disk asks for what was expunged |
//! | [`copy`] | brings bodies to a peer, throttled, after those who read and send mail |
//! | [`bodies`] | fetches bodies that are missing or damaged here; reads everything once in a while |
//! | [`drain`] | takes this node out of service without losing anything |
//! | [`refill`] | says that a new disk lacks what others have, until it does not |
//! | [`outdated`] | a disk that was away too long starts empty |
//!
//! Nothing here decides what is right: versions are joined (`Entry::merge`), and every step may be done twice.

mod bodies;
mod compare;
pub mod copy;
mod drain;
pub mod outdated;
pub mod refill;
mod relocate;
mod tombstones;

pub use drain::{DrainProgress, remembered as remembers_draining, set as set_draining};

use crate::config::HealingConfig;
use crate::locking::lock;
use crate::node::Node;
use crate::replica::blocking;
use crate::wire::{Failure, Request, Response};
use cluster::healing::Throttle;
use cluster::{BlobId, Epoch, NodeId, View};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// So long after a client asked for something, clients are being served.
const SERVING: Duration = Duration::from_secs(1);
/// Missing bodies remembered at a time; scrubbing finds the others.
const MISSING: usize = 10_000;

pub struct Healing {
    pub settings: HealingConfig,
    started: Instant,
    draining: watch::Sender<bool>,
    throttle: Mutex<Throttle>,
    /// When a client last asked for something here.
    served: Mutex<Option<Instant>>,
    progress: Mutex<Progress>,
    /// Peers that were found equal since they returned and since this epoch began.
    level: Mutex<(Epoch, BTreeSet<NodeId>)>,
    missing: Mutex<BTreeSet<BlobId>>,
    /// Members whose tombstones this disk has.
    tombstones_of: Mutex<BTreeSet<NodeId>>,
    news_of_missing: Notify,
    /// This disk may lack what its predecessor had ([`refill`]).
    refilling: AtomicBool,
}

/// What re-replication has yet to do and has done.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    entries_left: u64,
    bytes_left: u64,
    /// The view that it was found out by.
    epoch: Epoch,
}

/// Healing as a node reports it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HealingStatus {
    pub draining: bool,
    /// Entries that this node has to see to, because a replica is lost, is leaving, or was never there.
    pub entries_left: u64,
    /// Of their bodies.
    pub bytes_left: u64,
    /// How long that will take at the configured rate.
    pub seconds_left: u64,
    /// Records of the user database that this node should have and has not caught up with, in buckets.
    pub buckets_left: u64,
    /// Members that this node (of two, the one with the lower id) has not found equal since they returned or the
    /// view changed, and those whose tombstones it has not fetched. While any node has some, a disk may yet lack what
    /// it should hold.
    pub peers_to_compare: u64,
}

impl Healing {
    /// `draining`, `refilling`: as an earlier life of this node left it ([`drain::remembered`], [`refill::remembered`]).
    pub fn new(settings: HealingConfig, draining: bool, refilling: bool) -> Self {
        Self {
            settings,
            started: Instant::now(),
            draining: watch::Sender::new(draining),
            throttle: Mutex::new(Throttle::new(settings.bytes_per_second)),
            served: Mutex::default(),
            progress: Mutex::default(),
            level: Mutex::default(),
            missing: Mutex::default(),
            tombstones_of: Mutex::default(),
            news_of_missing: Notify::new(),
            refilling: AtomicBool::new(refilling),
        }
    }

    pub const fn tombstone_lifetime(&self) -> Duration {
        Duration::from_secs(self.settings.tombstone_lifetime_seconds)
    }

    pub fn is_refilling(&self) -> bool {
        self.refilling.load(Ordering::Acquire)
    }

    pub fn set_refilling(&self, refilling: bool) {
        self.refilling.store(refilling, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// To be told when this node begins or ends to drain.
    pub fn watch_draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// There is nothing to see to by this view, as of the last look.
    pub fn is_idle(&self, epoch: Epoch) -> bool {
        let progress = lock(&self.progress);
        progress.entries_left == 0 && progress.epoch == epoch
    }

    /// A body that should be here is not: it will be fetched from another replica.
    pub fn body_missing(&self, id: BlobId) {
        let mut missing = lock(&self.missing);
        if missing.len() < MISSING && missing.insert(id) {
            self.news_of_missing.notify_one();
        }
    }

    /// A client asks for something: healing is in its way.
    pub fn client_served(&self) {
        *lock(&self.served) = Some(Instant::now());
    }

    /// Waits until so many bytes may be copied.
    pub async fn throttle(&self, bytes: u64) {
        let serving = lock(&self.served).is_some_and(|at| at.elapsed() < SERVING);
        let wait = lock(&self.throttle).spend(bytes, serving, self.started.elapsed());
        tokio::time::sleep(wait).await;
    }

    /// Before the first view that is everybody who will be in it, and at least one.
    fn peers_to_compare(&self, me: NodeId, view: &View) -> u64 {
        let level = lock(&self.level);
        let open = |id: &NodeId| level.0 != view.epoch || !level.1.contains(id);
        let partners = view.members.iter().map(|member| member.id).filter(|&id| id > me);
        let tombstones = tombstones::left(&lock(&self.tombstones_of), me, view);
        partners.filter(open).count() as u64 + tombstones + u64::from(view.members.is_empty())
    }

    pub fn status(&self, me: NodeId, view: &View, buckets_left: u64) -> HealingStatus {
        let Progress { entries_left, bytes_left, .. } = *lock(&self.progress);
        HealingStatus {
            draining: self.is_draining(),
            entries_left,
            bytes_left,
            seconds_left: lock(&self.throttle).estimate(bytes_left).as_secs(),
            buckets_left,
            peers_to_compare: self.peers_to_compare(me, view),
        }
    }
}

/// Everything that heals, until the node stops.
pub async fn run(node: Arc<Node>) {
    tokio::join!(
        compare::run(&node),
        tombstones::run(&node),
        refill::run(&node),
        relocate::run(&node),
        bodies::fetch_missing(&node),
        bodies::scrub(&node),
        outdated::keep_watch(&node),
    );
}

/// Answers what peers ask for healing.
///
/// # Errors
/// If the disk fails, or the request is not for this module.
pub async fn serve(node: &Arc<Node>, from: NodeId, request: Request) -> Result<Response, Failure> {
    match request {
        Request::Compare(question) => Ok(Response::Compared(compare::answer(node, from, question).await?)),
        Request::Entries { ids } => compare::entries(node, ids).await,
        Request::Tombstones { after } => tombstones::answer(node, from, after).await,
        Request::Drain { draining } => drain::set_here(node, draining).await.map(|()| Response::Done),
        Request::DrainProgress => Ok(Response::DrainProgress(drain::progress(node).await)),
        other => Err(Failure::Invalid(format!("{} is not a request for healing", other.name()))),
    }
}

/// A little time, different each time.
fn about(time: Duration) -> Duration {
    time.mul_f64(0.75 + crate::environment::random_fraction() / 2.0)
}
