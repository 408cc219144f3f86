//! A running node: its parts put together, its tasks, and how it stops.

use crate::admin;
use crate::clock::NodeClock;
use crate::config::{Config, Listeners};
use crate::crypto::Keys;
use crate::manager::Manager;
use crate::manager::PASSWORD_CHECKS;
use crate::membership::{self, MembershipHandle};
use crate::metrics::Metrics;
use crate::node::{Node, Settings};
use crate::notices::Notices;
use crate::peer_server::{self, PeerServer};
use crate::replication::{self, Replication};
use crate::sessions::Watchers;
use crate::sessions::listener::{self, Protocol};
use crate::topology::Topology;
use crate::userdb::UserDatabase;
use cluster::{Addresses, Incarnation, NodeId, Policy};
use lease::LeaseService;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use storage::{FileDisk, FjallIndex, Store};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Why a node did not start. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

impl StartError {
    pub fn new(what: &str, error: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

/// Secrets and certificates, read from files or made by `mailnode dev`.
pub struct Credentials {
    pub cluster_secret: Vec<u8>,
    pub node: rpc::pki::NodeTls,
    pub mail: TlsAcceptor,
    pub admin_token: String,
}

pub struct RunningNode {
    pub node: Arc<Node>,
    /// Ends listeners and sessions.
    closing: watch::Sender<bool>,
    /// Ends everything else.
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// One permit a client connection: all are back when all sessions ended.
    slots: Arc<Semaphore>,
    connections: usize,
}

/// How long sessions and calls may take to end when the node stops.
const FAREWELL: Duration = Duration::from_secs(5);
/// Blocks of the index kept in memory, in bytes.
const INDEX_CACHE: u64 = 64 << 20;
/// How often idle soft state is dropped.
const SWEEP: Duration = Duration::from_secs(5);
/// Mail maps are asked for again so long after a change of view: a delivery that was on its way to the old
/// manager may have missed us.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// Opens the disk, binds the ports, joins the cluster.
///
/// # Errors
/// Names the file, port or field that is wrong.
pub async fn start<L: LeaseService>(
    config: &Config,
    credentials: Credentials,
    leases: L,
) -> Result<RunningNode, StartError> {
    let id = NodeId::of_name(&config.name);
    let incarnation = Incarnation(crate::clock::wall_millis());
    let metrics = Metrics::new().map_err(|error| StartError::new("metrics", error))?;
    let store = open_store(&config.data_directory)?;
    let keys = Keys::new(&credentials.cluster_secret)
        .map_err(|error| StartError::new("cluster.secretFile", error))?;
    let skew = Duration::from_secs(config.cluster.max_clock_skew_seconds);
    let (membership, driver) = MembershipHandle::new();
    let this = Arc::new(OnceLock::<Weak<Node>>::new());
    let endpoint = peer_server::endpoint(config, credentials.node, id, incarnation, this.clone())
        .map_err(|error| StartError::new("cluster", error))?;
    let node = Arc::new(Node {
        id,
        settings: Settings {
            name: config.name.clone(),
            host_name: config.host_name().to_owned(),
            replication: config.replication,
            placement: Policy::Spread(config.spread),
            limits: config.limits,
            clear_text_login: config.clear_text_login,
        },
        clock: NodeClock::new(id, skew),
        keys,
        users: UserDatabase::new(this.clone(), id, config.user_database.embedded.replicas, store.clone())
            .map_err(|error| StartError::new("dataDirectory", error))?,
        store,
        topology: Topology::new(id),
        manager: Manager::default(),
        replication: Replication::default(),
        notices: Notices::default(),
        watchers: Watchers::default(),
        membership,
        metrics,
        pool: rpc::Pool::new(endpoint.clone()),
        password_slots: Semaphore::new(PASSWORD_CHECKS),
        password_key: rand::random(),
    });
    let _ = this.set(Arc::downgrade(&node));
    let (stopping, stopped) = watch::channel(false);
    let (closing, closed) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let slots = Arc::new(Semaphore::new(config.limits.connections));
    let ports = Ports {
        endpoint,
        admin_token: credentials.admin_token,
        mail_tls: credentials.mail,
        slots: slots.clone(),
        closed,
    };
    bind(&node, &config.listeners, ports, &mut tasks, &stopped).await?;
    let member = lease_of(config, incarnation);
    tasks.spawn(membership::run(node.clone(), driver, leases, member, stopped.clone()));
    tasks.spawn(until(stopped.clone(), replication::retire_loop(node.clone())));
    tasks.spawn(until(stopped.clone(), replication::redelivery_loop(node.clone())));
    tasks.spawn(until(stopped.clone(), sweep_loop(node.clone())));
    tasks.spawn(until(stopped, view_loop(node.clone())));
    Ok(RunningNode { node, closing, stopping, tasks, slots, connections: config.limits.connections })
}

fn open_store(directory: &Path) -> Result<Store, StartError> {
    let wrong = |error: &dyn std::fmt::Display| StartError::new("dataDirectory", error);
    std::fs::create_dir_all(directory)
        .map_err(|error| StartError(format!("dataDirectory: {}: {error}", directory.display())))?;
    let disk = FileDisk::open(directory.join("log")).map_err(|error| wrong(&error))?;
    let index = FjallIndex::open(directory.join("index"), INDEX_CACHE).map_err(|error| wrong(&error))?;
    let (store, recovery) =
        Store::open(disk, index, storage::Options::default()).map_err(|error| wrong(&error))?;
    tracing::info!(?recovery, "log recovered");
    Ok(store)
}

fn lease_of(config: &Config, incarnation: Incarnation) -> lease::MemberLease {
    let addresses = Addresses { rpc: config.advertised_rpc(), http: config.listeners.http.to_string() };
    lease::MemberLease::new(&config.name, incarnation, addresses, config.zone.clone())
}

/// What the listeners need.
struct Ports {
    endpoint: rpc::Endpoint,
    admin_token: String,
    mail_tls: TlsAcceptor,
    slots: Arc<Semaphore>,
    closed: watch::Receiver<bool>,
}

async fn listen(field: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError(format!("{field}: {address}: {error}")))
}

async fn bind(
    node: &Arc<Node>,
    listeners: &Listeners,
    ports: Ports,
    tasks: &mut JoinSet<()>,
    stopped: &watch::Receiver<bool>,
) -> Result<(), StartError> {
    let rpc_listener = listen("listeners.rpc", listeners.rpc).await?;
    tasks.spawn(PeerServer::serve(node.clone(), rpc_listener, ports.endpoint, stopped.clone()));

    let http = listen("listeners.http", listeners.http).await?;
    let router = admin::router(node.clone(), &ports.admin_token);
    let mut stop_http = ports.closed.clone();
    tasks.spawn(async move {
        let stop = async move {
            let _ = stop_http.wait_for(|stopping| *stopping).await;
        };
        if let Err(error) = axum::serve(http, router).with_graceful_shutdown(stop).await {
            tracing::error!(%error, "HTTP");
        }
    });

    let protocols = [
        ("listeners.smtp", Protocol::Smtp, listeners.smtp),
        ("listeners.submission", Protocol::Submission, listeners.submission),
        ("listeners.submissions", Protocol::Submissions, listeners.submissions),
        ("listeners.lmtp", Protocol::Lmtp, listeners.lmtp),
        ("listeners.imap", Protocol::Imap, listeners.imap),
        ("listeners.imaps", Protocol::Imaps, listeners.imaps),
        ("listeners.pop3", Protocol::Pop3, listeners.pop3),
        ("listeners.pop3s", Protocol::Pop3s, listeners.pop3s),
    ];
    for (field, protocol, address) in protocols {
        let Some(address) = address else { continue };
        let port = listen(field, address).await?;
        let (tls, slots) = (ports.mail_tls.clone(), ports.slots.clone());
        tasks.spawn(listener::serve(node.clone(), port, protocol, tls, slots, ports.closed.clone()));
    }
    Ok(())
}

async fn until(mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stopped.wait_for(|stopping| *stopping) => {}
    }
}

async fn sweep_loop(node: Arc<Node>) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        node.manager.sweep(&node);
        node.watchers.sweep();
    }
}

/// What follows from a new view: records and mail maps of our buckets, and sessions that look for their manager.
async fn view_loop(node: Arc<Node>) {
    let mut views = node.topology.watch();
    while views.changed().await.is_ok() {
        let state = views.borrow_and_update().clone();
        tracing::info!(epoch = state.view.epoch.0, members = state.view.members.len(), "view installed");
        node.users.install_view(&state).await;
        node.manager.knowledge.rebuild(&node, false).await;
        node.watchers.wake_all();
        let node = node.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ASK_AGAIN).await;
            if node.topology.now().view.epoch == state.view.epoch {
                node.manager.knowledge.rebuild(&node, true).await;
            }
        });
    }
}

impl RunningNode {
    /// Says goodbye to clients and peers, flushes, releases the Lease.
    pub async fn stop(mut self) {
        let _ = self.closing.send(true);
        // Sessions first: what they are doing needs the tasks and the peers.
        let connections = u32::try_from(self.connections).unwrap_or(u32::MAX);
        if tokio::time::timeout(FAREWELL, self.slots.acquire_many(connections)).await.is_err() {
            tracing::warn!("some sessions did not end in time");
        }
        let _ = self.stopping.send(true);
        let farewell = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        self.node.store.close();
    }
}
