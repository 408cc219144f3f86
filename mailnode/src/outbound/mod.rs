//! Mail to other servers: the shell around the crate `outbound` (docs/decisions/outbound.md). A queued message is an
//! entry of a queue user (`cluster::queue_user`), with its envelope in front of it in the blob; the manager of that
//! user's bucket is its *holder* and sends it.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`accept`] | puts a message into the queue: durable on `minCopies` disks, like any mail |
//! | [`holder`] | learns what this node has to send: from notices, and by asking after a change of view |
//! | [`scan`] | asks the members what is on their disks |
//! | [`dispatch`] | opens connections when something is due; gives up what is too old |
//! | [`worker`] | one connection's work: hosts in order, then message after message |
//! | [`conclude`] | makes outcomes durable |
//! | [`wrap`] | wraps keys anew when the cluster's secret is replaced |
//! | [`control`] | what administrators ask |
//! | [`report`] | delivers reports to senders |
//! | [`resolver`], [`connection`], [`tls`] | the DNS, and a dialogue on a socket |
//!
//! - At least once: whoever takes a message over sends it again if the server's 250 did not get onto disks before the
//!   last holder died. Recipients that are done are registers of the entry (`sent-3`, `failed-4`).
//! - A message leaves the queue when all its recipients are done, by a tombstone on `minCopies` disks.
//! - Everything in memory here is soft, and bounded by `outbound.messages` and `outbound.connections`.

pub mod accept;
mod conclude;
mod connection;
pub mod control;
mod dispatch;
mod holder;
mod report;
mod resolver;
mod scan;
mod settings;
mod tls;
mod unread;
mod worker;
mod wrap;

pub use conclude::note;
pub use dispatch::run;
pub use settings::Settings;
pub use wrap::wrap_anew;

use crate::metrics::QueueMetrics;
use crate::node::Node;
use cluster::{Entry, EntryId};
use outbound::{Envelope, Queue};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use unread::Unread;

/// Ids of messages that were dealt with, in memory.
const GONE: usize = 100_000;

/// What a node knows of the messages that it holds.
pub struct Outbound {
    pub settings: Settings,
    begun: Instant,
    state: Mutex<State>,
    /// Something may be due.
    news: Notify,
    /// An envelope waits to be read.
    unread_news: Notify,
    /// The members are to be asked again.
    doubt: Notify,
}

struct State {
    queue: Queue<EntryId>,
    held: BTreeMap<EntryId, Held>,
    unread: Unread,
    /// Entries that cannot be read, ever.
    damaged: BTreeMap<EntryId, Entry>,
    /// Messages that nobody is left to be sent.
    finished: BTreeMap<EntryId, Entry>,
    /// Messages that were dealt with: of those, older versions may yet be heard of. The latest [`GONE`].
    gone: BTreeSet<EntryId>,
    /// There are more on disk.
    overflowed: bool,
}

/// A message whose envelope is known.
#[derive(Clone)]
struct Held {
    entry: Entry,
    envelope: Arc<Envelope>,
}

/// A message for a list, for who brings it to the members ([`crate::lists`]).
pub struct Job {
    pub entry: Entry,
    pub envelope: Arc<Envelope>,
}

impl Outbound {
    pub fn new(settings: Settings) -> Self {
        let queue = Queue::new(settings.limits, settings.schedule.clone());
        Self {
            settings,
            begun: Instant::now(),
            state: Mutex::new(State {
                queue,
                held: BTreeMap::new(),
                unread: Unread::default(),
                damaged: BTreeMap::new(),
                finished: BTreeMap::new(),
                gone: BTreeSet::new(),
                overflowed: false,
            }),
            news: Notify::new(),
            unread_news: Notify::new(),
            doubt: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since this node began, for the queue.
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Before a scrape.
    pub fn update_gauges(&self, metrics: &QueueMetrics) {
        let state = self.lock();
        metrics.messages.set((state.queue.len() + state.unread.len()) as i64);
        metrics.connections.set(state.queue.connections() as i64);
        metrics.oldest_seconds.set(state.queue.oldest(self.now()).as_secs() as i64);
    }

    /// What is held may be incomplete, or somebody else's: the view changed, or notices were lost.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }
}

/// True if this node is to send the entry.
fn is_ours(node: &Node, entry: &Entry) -> bool {
    node.topology.is_manager(entry.user)
}

fn age(entry: &Entry) -> Duration {
    let seconds = crate::clock::wall_seconds().saturating_sub(entry.internal_date);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Other members of the cluster and ourselves, by the names of their nodes and our host name.
fn own_names(node: &Node) -> Vec<String> {
    let members = &node.topology.now().view.members;
    let name = |member: &cluster::Member| member.name.clone();
    let mut names: Vec<String> = members.iter().map(name).collect();
    names.push(node.settings.host_name.clone());
    names
}
