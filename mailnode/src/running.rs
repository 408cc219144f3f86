//! A running node: its parts put together, its tasks, and how it stops.

use crate::admin;
use crate::assembly::Assembly;
use crate::config::{Config, Listeners};
use crate::crypto::Secrets;
use crate::disk;
use crate::log_heads;
use crate::node::Node;
use crate::outbound;
use crate::peer_server::{self, PeerServer};
use crate::rotation;
use crate::sessions::listener::{self, Protocol};
use crate::tending;
use cluster::{Incarnation, NodeId};
use lease::LeaseService;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
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
    pub secrets: Secrets,
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
    let store = disk::open(config, id, &leases).await?;
    let this = Arc::new(OnceLock::<Weak<Node>>::new());
    let signer = Arc::new(credentials.node.key().clone());
    let endpoint = peer_server::endpoint(config, credentials.node, id, incarnation, this.clone())
        .map_err(|error| StartError::new("cluster", error))?;
    let transport = Arc::new(rpc::Pool::new(endpoint.clone()));
    let assembly = Assembly::new(config, &credentials.secrets, store, transport, signer, incarnation, &this)?;
    let node = assembly.node.clone();
    let (stopping, stopped) = watch::channel(false);
    let (closing, closed) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let slots = Arc::new(Semaphore::new(config.limits.connections));
    let ports = Ports {
        endpoint,
        admin_token: credentials.admin_token,
        mail_tls: credentials.mail,
        slots: slots.clone(),
        farewell: farewell(closed.clone(), node.healing.watch_draining(), &mut tasks),
        closed: closed.clone(),
    };
    bind(&node, &config.listeners, ports, &mut tasks, &stopped).await?;
    assembly.start(leases, &mut tasks, &stopped);
    tasks.spawn(rotation::watch(
        node.clone(),
        config.cluster.secret_file.clone(),
        credentials.secrets,
        stopped.clone(),
    ));
    // Until the sessions end: what is being sent needs the peers, too.
    tasks.spawn(outbound::run(node.clone(), closed));
    Ok(RunningNode { node, closing, stopping, tasks, slots, connections: config.limits.connections })
}

/// What the listeners need.
struct Ports {
    endpoint: rpc::Endpoint,
    admin_token: String,
    mail_tls: TlsAcceptor,
    slots: Arc<Semaphore>,
    closed: watch::Receiver<bool>,
    /// True while sessions are to end: the node stops, or drains.
    farewell: watch::Receiver<bool>,
}

/// True while either is.
fn farewell(
    mut closed: watch::Receiver<bool>,
    mut draining: watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(*draining.borrow());
    tasks.spawn(async move {
        loop {
            let ends = *closed.borrow_and_update();
            let _ = sender.send_replace(ends || *draining.borrow_and_update());
            if ends {
                return;
            }
            tokio::select! {
                biased;
                changed = closed.changed() => if changed.is_err() { return },
                changed = draining.changed() => if changed.is_err() { return },
            }
        }
    });
    receiver
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
    let tended = Arc::downgrade(node);
    let mut stopping = stopped.clone();
    tasks.spawn(async move {
        tokio::select! {
            biased;
            () = tending::tend(tended) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    });
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
        let stop = listener::Stop { accepting: ports.closed.clone(), sessions: ports.farewell.clone() };
        tasks.spawn(listener::serve(node.clone(), port, protocol, tls, slots, stop));
    }
    Ok(())
}

impl RunningNode {
    /// Resolves when the node found its log to be another than its peers saw: it is to be stopped and started again.
    pub async fn quarantined(&self) {
        self.node.log_heads.quarantined().await;
    }

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
        log_heads::sign_down(&self.node).await;
        self.node.store.close();
    }
}
