//! One machine: a disk that outlives its processes, a clock that may be wrong, and a real node on a runtime of
//! its own, whose time the world drives. To drop the runtime is to kill the process: every task ends where it
//! waits.

use crate::dice::Dice;
use crate::leases::SimLeases;
use crate::network::{Delivery, Port, SharedNetwork};
use bytes::Bytes;
use cluster::{Incarnation, Load, NodeId};
use mailnode::assembly::Assembly;
use mailnode::config::{Config, Identity};
use mailnode::crypto::Secrets;
use mailnode::disk;
use mailnode::environment::{self, Environment};
use mailnode::log_heads::Signer;
use mailnode::node::Node;
use mailnode::peer_server;
use mailnode::running::StartError;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use storage::disk::Crash;
use storage::{MemoryDisk, MemoryIndex, Store};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Unix milliseconds at the beginning of every history.
const BEGINNING: u64 = 1_800_000_000_000;
const KEEP_HOUSE: Duration = Duration::from_secs(3);
const SECRET: &[u8] = b"the simulated cluster's own secret";

/// A machine's clock and random numbers.
pub struct Machine {
    /// The world's time.
    now: Cell<Duration>,
    /// How far the wall clock is ahead, in milliseconds.
    pub ahead: Cell<i64>,
    dice: RefCell<Dice>,
}

impl Environment for Machine {
    fn unix_millis(&self) -> u64 {
        let now = self.now.get().as_millis() as u64;
        (BEGINNING + now).saturating_add_signed(self.ahead.get())
    }

    fn random(&self) -> u64 {
        self.dice.borrow_mut().roll()
    }
}

/// What a node of these histories signs with.
struct Seal(NodeId);

impl Signer for Seal {
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let key = blake3::derive_key("prickle simulator seal", &self.0.0.to_be_bytes());
        Some(blake3::keyed_hash(&key, message).as_bytes().to_vec())
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.sign(message).as_deref() == Some(signature)
    }
}

struct Process {
    runtime: Runtime,
    node: Arc<Node>,
    /// The runtime's time when the process began, and the world's.
    base: (Instant, Duration),
    /// Keeps the node's tasks from ending.
    _stopping: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

/// A process that ran for so long was a member, and its disk says so (`healing::outdated` notes it every tenth of the lifetime).
const MEMBER_AFTER: Duration = Duration::from_secs(10);

pub struct Host {
    pub index: usize,
    pub name: String,
    pub id: NodeId,
    pub machine: Rc<Machine>,
    pub disk: MemoryDisk,
    /// Parts per million by which this machine's monotonic clock is fast.
    pub drift: i64,
    /// Counts processes, so that what was asked of one is not expected of the next.
    pub life: u64,
    /// When it was last a member, and not only for a moment.
    pub last_member: Duration,
    started: Duration,
    config: Config,
    process: Option<Process>,
}

/// How long things are kept, in seconds: a node that returns within `lifetime` must find everything (`config::check`).
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub trash: u64,
    pub lifetime: u64,
}

impl Times {
    /// A machine that stays away (`faults`) is back in time, although both copies of a message were away meanwhile.
    pub const LONG: Self = Self { trash: 80, lifetime: 95 };
    /// It is too late, and starts empty.
    pub const SHORT: Self = Self { trash: 15, lifetime: 30 };
}

fn config(name: &str, zone: Option<&str>, replicas: usize, times: Times) -> Result<Config, String> {
    let Times { trash, lifetime } = times;
    let text = format!(
        "name: {name}\n\
         dataDirectory: /nowhere\n\
         cluster:\n  name: sim\n  secretFile: /nowhere\n  leases: {{ directory: /nowhere }}\n\
         \x20 tls: {{ ca: /nowhere, certificate: /nowhere, key: /nowhere }}\n  advertise: {name}:1\n\
         healing: {{ replaceAfterSeconds: 30, tombstoneLifetimeSeconds: {lifetime} }}\n\
         storage:\n  bodyLeaseSeconds: 8\n\
         \x20 parts: {{ enabled: true, thresholdBytes: 64, renewSeconds: 10, leaseSeconds: 25, trashSeconds: {trash} }}\n\
         userDatabase: {{ embedded: {{ replicas: {replicas} }} }}\n\
         listeners: {{ rpc: 127.0.0.1:1, http: 127.0.0.1:2 }}\n\
         admin: {{ tokenFile: /nowhere }}\n"
    );
    let identity = Identity { name: None, zone: zone.map(str::to_owned), advertise: None };
    Config::parse(&text, &identity).map_err(|error| error.to_string())
}

/// What the store's own thread does on a real machine.
async fn keep_house(store: Store) {
    loop {
        tokio::time::sleep(KEEP_HOUSE).await;
        if let Err(error) = store.maintain() {
            tracing::debug!(%error, "maintenance");
        }
    }
}

impl Host {
    pub fn new(
        index: usize,
        dice: &Dice,
        zone: Option<&str>,
        replicas: usize,
        times: Times,
    ) -> Result<Self, String> {
        let name = format!("node-{index}");
        let machine = Machine {
            now: Cell::new(Duration::ZERO),
            ahead: Cell::new(0),
            dice: RefCell::new(dice.fork(&name)),
        };
        Ok(Self {
            index,
            id: NodeId::of_name(&name),
            machine: Rc::new(machine),
            disk: MemoryDisk::new(),
            drift: 0,
            life: 0,
            last_member: Duration::ZERO,
            started: Duration::ZERO,
            config: config(&name, zone, replicas, times)?,
            process: None,
            name,
        })
    }

    pub fn node(&self) -> Option<&Arc<Node>> {
        self.process.as_ref().map(|process| &process.node)
    }

    fn enter(&self) -> environment::Entered {
        environment::enter(self.machine.clone())
    }

    /// Starts a process on the disk as it is.
    ///
    /// # Errors
    /// Why the node refuses to start.
    pub fn start(
        &mut self,
        now: Duration,
        network: &SharedNetwork,
        leases: &SimLeases,
    ) -> Result<(), String> {
        self.machine.now.set(now);
        self.started = now;
        let _entered = self.enter();
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| error.to_string())?;
        let port = Port { network: network.clone(), host: self.index, load: AtomicU64::new(0) };
        let begun = runtime.block_on(async {
            let store = self.open_store(leases).await.map_err(|error| error.to_string())?;
            let incarnation = Incarnation(environment::unix_millis());
            let this = Arc::new(OnceLock::new());
            let (port, signer) = (Arc::new(port), Arc::new(Seal(self.id)));
            let assembly =
                Assembly::new(&self.config, &Secrets::one(SECRET), store, port, signer, incarnation, &this)
                    .map_err(|error| error.to_string())?;
            let node = assembly.node.clone();
            let (stopping, stopped) = watch::channel(false);
            let mut tasks = JoinSet::new();
            assembly.start(leases.clone(), &mut tasks, &stopped);
            tasks.spawn(keep_house(node.store.clone()));
            Ok::<_, String>((node, stopping, tasks, Instant::now()))
        });
        let (node, stopping, tasks, base) = begun?;
        self.life += 1;
        self.process = Some(Process { runtime, node, base: (base, now), _stopping: stopping, _tasks: tasks });
        network.lock().came_up(self.index);
        Ok(())
    }

    async fn open_store(&mut self, leases: &SimLeases) -> Result<Store, StartError> {
        let lifetime = Duration::from_secs(self.config.healing.tombstone_lifetime_seconds);
        let me = self.id;
        let configured = self.config.storage.options();
        let open = |disk: MemoryDisk| {
            let options = storage::Options {
                node: Some(me),
                tombstone_lifetime: lifetime,
                threads: false,
                segment_bytes: 256 << 10,
                clock: storage::Clock(Arc::new(|| environment::unix_millis() / 1_000)),
                ..configured.clone()
            };
            let opened = Store::open(disk, MemoryIndex::default(), options);
            opened.map(|(store, _)| store).map_err(|error| StartError(error.to_string()))
        };
        let store = open(self.disk.clone())?;
        // The simulated Lease service answers in time or not at all, as it does for a pod that starts.
        disk::usable(store, me, lifetime, leases, |store, _| {
            drop(store);
            self.disk = MemoryDisk::new();
            open(self.disk.clone())
        })
        .await
    }

    /// Lets the process run until the world's time.
    pub fn run(&mut self, now: Duration) {
        self.machine.now.set(now);
        let _entered = self.enter();
        let Some(Process { runtime, base: (base, begun), .. }) = &self.process else { return };
        let lived = now.saturating_sub(*begun).as_nanos() as i128;
        let local = lived + lived * i128::from(self.drift) / 1_000_000;
        let target = *base + Duration::from_nanos(u64::try_from(local).unwrap_or_default());
        runtime.block_on(async {
            let behind = target.saturating_duration_since(Instant::now());
            if behind > Duration::from_millis(100) {
                // It was stopped: all that should have happened meanwhile happens now.
                tokio::time::advance(behind).await;
            }
            tokio::task::yield_now().await;
            tokio::time::sleep_until(target).await;
        });
    }

    /// Begins work in the process, as a session would.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) {
        let _entered = self.enter();
        if let Some(process) = &self.process {
            process.runtime.spawn(work);
        }
    }

    /// A peer's request.
    pub fn serve(&self, delivery: Delivery, from: NodeId, network: &SharedNetwork) {
        let Some(node) = self.node().cloned() else { return };
        self.report(from, delivery.load);
        let (network, me) = (network.clone(), self.index);
        self.spawn(async move {
            let answer: (Bytes, Bytes) =
                peer_server::answer(node.clone(), from, delivery.head, delivery.body).await;
            if let Some(call) = delivery.call {
                network.lock().answer(me, call, answer, node.load().to_bits());
            }
        });
    }

    pub fn report(&self, about: NodeId, load: u64) {
        let _entered = self.enter();
        if let Some(process) = &self.process {
            let _inside = process.runtime.enter();
            process.node.topology.report_load(about, Load::from_bits(load));
        }
    }

    /// The process ends, here and now; the disk is left as such a crash leaves it.
    pub fn crash(&mut self, crash: Crash, network: &SharedNetwork) {
        let Some(process) = self.process.take() else { return };
        let now = self.machine.now.get();
        if now.saturating_sub(self.started) >= MEMBER_AFTER {
            self.last_member = now;
        }
        // Before anything is dropped: nothing that ends may still write.
        self.disk = self.disk.after(crash);
        network.lock().went_down(self.index);
        let _entered = self.enter();
        let Process { runtime, node, _stopping, _tasks, .. } = process;
        {
            let _inside = runtime.enter();
            drop(_tasks);
        }
        drop(runtime);
        drop(node);
    }

    /// Whether the log refuses writes, or is not to be used any more: the node has to be started again.
    pub fn has_failed(&self) -> bool {
        self.node().is_some_and(|node| node.store.failed().is_some() || node.log_heads.is_quarantined())
    }
}

/// Which host is which node.
pub fn directory(hosts: &[Host]) -> BTreeMap<NodeId, usize> {
    hosts.iter().map(|host| (host.id, host.index)).collect()
}
