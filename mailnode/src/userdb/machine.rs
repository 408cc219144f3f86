//! Runs [`directory::embedded::Embedded`]: peers' requests in, calls and disk writes out.

use crate::node::Node;
use crate::wire::{Failure, Request, Response};
use bytes::Bytes;
use cluster::{Bucket, NodeId, View};
use directory::embedded::{
    Disk, DiskError, Effect, Embedded, EmbeddedRequest, EmbeddedResponse, Event, Promises,
};
use directory::record::Key;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use storage::{Durability, Store, Write};
use tokio::sync::{mpsc, oneshot};

/// A replica that has not answered by then leaves the write in doubt.
const DEADLINE: Duration = Duration::from_millis(1_500);
const TICK: Duration = Duration::from_millis(100);
/// Writes on their way to the log; the machine itself begins no more than 10,000.
const WRITES: usize = 20_000;
/// Writes in one commit.
const GROUP: usize = 256;
/// What need not be on disk soon waits so long for a commit that is made anyway.
const LAZY: Duration = Duration::from_secs(1);

pub struct Machine {
    node: Arc<OnceLock<Weak<Node>>>,
    store: Store,
    state: Mutex<State>,
}

struct State {
    core: Embedded,
    requests: BTreeMap<u64, oneshot::Sender<EmbeddedResponse>>,
    next_request: u64,
    /// Filled under the lock, so that writes keep their order.
    writes: mpsc::Sender<DiskWrite>,
}

struct DiskWrite {
    number: u64,
    records: Vec<(Bytes, Option<Bytes>)>,
    lazy: bool,
}

struct StoreDisk<'a>(&'a Store);

impl Disk for StoreDisk<'_> {
    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        self.0.record(key).map_err(failed)
    }

    fn records(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, DiskError> {
        self.0.records(prefix, after, limit).map_err(failed)
    }
}

fn failed(error: storage::Error) -> DiskError {
    tracing::error!(%error, "user database");
    DiskError
}

impl Machine {
    /// # Errors
    /// If what this node promised in earlier lives cannot be read.
    pub fn start(
        node: Arc<OnceLock<Weak<Node>>>,
        me: NodeId,
        replicas: usize,
        store: Store,
    ) -> Result<Arc<Self>, String> {
        let promises = match store.record(Promises::KEY).map_err(|error| error.to_string())? {
            Some(bytes) => Promises::decode(&bytes).ok_or(
                "the user database's promises are damaged, or written by a newer version of this program",
            )?,
            None => Promises::default(),
        };
        let (writes, pending) = mpsc::channel(WRITES);
        let core = Embedded::new(me, replicas, promises);
        let state = State { core, requests: BTreeMap::new(), next_request: 0, writes };
        let machine = Arc::new(Self { node, store: store.clone(), state: Mutex::new(state) });
        tokio::spawn(write_loop(Arc::downgrade(&machine), store, pending));
        tokio::spawn(tick_loop(Arc::downgrade(&machine)));
        Ok(machine)
    }

    /// # Errors
    /// If the node is starting or stopping.
    pub fn node(&self) -> Result<Arc<Node>, Failure> {
        let node = self.node.get().and_then(Weak::upgrade);
        node.ok_or_else(|| Failure::Temporary("the node is not running".into()))
    }

    pub async fn serve(self: &Arc<Self>, from: NodeId, request: EmbeddedRequest) -> EmbeddedResponse {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut state = self.lock();
            state.next_request += 1;
            let id = state.next_request;
            state.requests.insert(id, sender);
            id
        };
        // Should the caller give up, what was begun goes on, and its answer falls on the floor.
        self.handle(Event::Request { from, id, request });
        answer.await.unwrap_or_else(|_| EmbeddedResponse::Unavailable("the node stops".into()))
    }

    pub fn install(self: &Arc<Self>, view: View) {
        self.handle(Event::View(view));
    }

    /// How many of our buckets are level, of how many.
    pub fn progress(&self) -> (usize, usize) {
        self.lock().core.progress()
    }

    pub fn is_certain(&self, bucket: Bucket) -> bool {
        self.lock().core.is_certain(bucket)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(self: &Arc<Self>, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut peers = Vec::new();
            {
                let mut guard = self.lock();
                let state = &mut *guard;
                for effect in state.core.handle(event, &StoreDisk(&self.store)) {
                    match effect {
                        Effect::Write { write: number, records, lazy } => {
                            if state.writes.try_send(DiskWrite { number, records, lazy }).is_err() {
                                events.push(Event::Written { write: number, ok: false });
                            }
                        }
                        Effect::Respond { id, response } => {
                            if let Some(sender) = state.requests.remove(&id) {
                                let _ = sender.send(response);
                            }
                        }
                        Effect::Call { .. } | Effect::Tell { .. } => peers.push(effect),
                    }
                }
            }
            peers.into_iter().for_each(|effect| self.send(effect));
        }
    }

    fn send(self: &Arc<Self>, effect: Effect) {
        let node = self.node();
        match effect {
            Effect::Call { call, to, request } => {
                let machine = self.clone();
                tokio::spawn(async move {
                    let response = match node {
                        Ok(node) => match node.call(to, Request::Directory(request), DEADLINE).await {
                            Ok(Response::Directory(response)) => Some(response),
                            _ => None,
                        },
                        Err(_) => None,
                    };
                    machine.handle(Event::Answer { call, response });
                });
            }
            Effect::Tell { to, request } => {
                if let Ok(node) = node {
                    node.tell(to, Request::Directory(request));
                }
            }
            Effect::Write { .. } | Effect::Respond { .. } => {}
        }
    }
}

async fn tick_loop(machine: Weak<Machine>) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        let Some(machine) = machine.upgrade() else { return };
        machine.handle(Event::Tick);
    }
}

/// One commit after the other, so that they keep their order; all that waits goes into one.
async fn write_loop(machine: Weak<Machine>, store: Store, mut pending: mpsc::Receiver<DiskWrite>) {
    let mut group: Vec<DiskWrite> = Vec::new();
    loop {
        let only_lazy = !group.is_empty();
        let received = if only_lazy {
            tokio::time::timeout(LAZY, pending.recv_many(&mut group, GROUP)).await.unwrap_or(usize::MAX)
        } else {
            pending.recv_many(&mut group, GROUP).await
        };
        if received == 0 {
            return;
        }
        let patient = received != usize::MAX && group.len() < GROUP;
        if patient && group.iter().all(|write| write.lazy) {
            continue;
        }
        let writes = group.iter().flat_map(|write| {
            write.records.iter().map(|(key, value)| Write::Record { key: key.to_vec(), value: value.clone() })
        });
        let outcome = store.commit(writes.collect(), Durability::Synced).await;
        if let Err(error) = &outcome {
            tracing::error!(%error, "user database");
        }
        let Some(machine) = machine.upgrade() else { return };
        if let Ok(node) = machine.node() {
            let keys =
                group.iter().flat_map(|write| &write.records).filter_map(|(key, _)| Key::from_bytes(key));
            keys.filter_map(|key| key.user()).for_each(|user| node.manager.profile_written(user));
        }
        for write in group.drain(..) {
            machine.handle(Event::Written { write: write.number, ok: outcome.is_ok() });
        }
    }
}
