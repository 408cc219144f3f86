//! A node put together from its disk, its Leases and its way to other nodes, and the tasks that make it live.
//! Whoever runs it opens the disk and brings the requests of peers ([`peer_server::answer`]) and clients: the
//! binary from sockets ([`crate::running`]), the simulator from its own network.

use crate::clock::NodeClock;
use crate::config::Config;
use crate::crypto::{Keys, Secrets};
use crate::environment;
use crate::healing::{self, Healing};
use crate::log_heads::{self, LogHeads, Signer};
use crate::manager::{Manager, PASSWORD_CHECKS};
use crate::membership::{self, Driver, MembershipHandle};
use crate::metrics::Metrics;
use crate::node::{Node, Settings};
use crate::notices::Notices;
use crate::outbound::{self, Outbound};
use crate::parts::{self, Parts};
use crate::peer_server::ThisNode;
use crate::replication::{self, Replication};
use crate::rotation::{self, Rotation};
use crate::running::StartError;
use crate::sessions::Watchers;
use crate::sessions::recent;
use crate::signed_accounts::SignedAccounts;
use crate::topology::Topology;
use crate::transport::Transport;
use crate::userdb::UserDatabase;
use cluster::{Addresses, Incarnation, NodeId, Policy};
use lease::{LeaseService, MemberLease};
use std::sync::Arc;
use std::time::Duration;
use storage::Store;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// How often idle soft state is dropped.
const SWEEP: Duration = Duration::from_secs(5);
/// Mail maps are asked for again so long after a change of view: a delivery that was on its way to the old
/// manager may have missed us.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// A node whose tasks do not run yet.
pub struct Assembly {
    pub node: Arc<Node>,
    driver: Driver,
    lease: MemberLease,
}

impl Assembly {
    /// # Errors
    /// Names the part that is wrong.
    pub fn new(
        config: &Config,
        secrets: &Secrets,
        store: Store,
        transport: Arc<dyn Transport>,
        signer: Arc<dyn Signer>,
        incarnation: Incarnation,
        this: &ThisNode,
    ) -> Result<Self, StartError> {
        let id = NodeId::of_name(&config.name);
        let keys = Keys::new(secrets).map_err(|error| StartError::new("cluster.secretFile", error))?;
        let skew = Duration::from_secs(config.cluster.max_clock_skew_seconds);
        let (membership, driver) = MembershipHandle::new();
        let node = Arc::new(Node {
            id,
            settings: Settings {
                name: config.name.clone(),
                incarnation,
                host_name: config.host_name().to_owned(),
                replication: config.replication,
                placement: Policy::Spread(config.spread),
                limits: config.limits,
                clear_text_login: config.clear_text_login,
            },
            clock: NodeClock::new(id, incarnation, skew),
            keys,
            rotation: Rotation::default(),
            signed_accounts: SignedAccounts::load(&config.cluster)?,
            users: UserDatabase::new(this.clone(), id, &config.user_database, store.clone())?,
            outbound: Outbound::new(outbound::Settings::load(&config.outbound)?),
            healing: Healing::new(
                config.healing,
                healing::remembers_draining(&store),
                healing::refill::remembered(&store),
            ),
            log_heads: LogHeads::new(signer, &store),
            parts: Parts::new(config.storage.parts),
            store,
            topology: Topology::new(id),
            manager: Manager::default(),
            replication: Replication::default(),
            notices: Notices::default(),
            watchers: Watchers::default(),
            membership,
            metrics: Metrics::new().map_err(|error| StartError::new("metrics", error))?,
            transport,
            recent_bodies: recent::Room::default(),
            password_slots: Semaphore::new(PASSWORD_CHECKS),
            password_key: environment::random_bytes(),
        });
        let _ = this.set(Arc::downgrade(&node));
        let addresses = Addresses { rpc: config.advertised_rpc(), http: config.advertised_http() };
        let lease = MemberLease::new(&config.name, incarnation, addresses, config.zone.clone());
        Ok(Self { node, driver, lease })
    }

    /// Joins the cluster: begins the tasks, which end when `stopped` says so.
    pub fn start<L: LeaseService>(self, leases: L, tasks: &mut JoinSet<()>, stopped: &watch::Receiver<bool>) {
        let Self { node, driver, lease } = self;
        tasks.spawn(membership::run(node.clone(), driver, leases, lease, stopped.clone()));
        tasks.spawn(until(stopped.clone(), replication::retire_loop(node.clone())));
        tasks.spawn(until(stopped.clone(), replication::redelivery_loop(node.clone())));
        tasks.spawn(until(stopped.clone(), healing::run(node.clone())));
        tasks.spawn(until(stopped.clone(), parts::run(node.clone())));
        tasks.spawn(until(stopped.clone(), rotation::run(node.clone())));
        tasks.spawn(until(stopped.clone(), sweep_loop(node.clone())));
        tasks.spawn(until(stopped.clone(), log_heads::announce(node.clone())));
        tasks.spawn(until(stopped.clone(), view_loop(node)));
    }
}

async fn until(mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
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
    let mut epoch = node.topology.now().view.epoch;
    loop {
        let state = node.topology.newer_than(epoch).await;
        epoch = state.view.epoch;
        tracing::info!(epoch = state.view.epoch.0, members = state.view.members.len(), "view installed");
        node.users.install_view(&state).await;
        node.manager.knowledge.rebuild(&node, false).await;
        node.outbound.doubt();
        node.watchers.wake_all();
        let node = node.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ASK_AGAIN).await;
            if node.topology.now().view.epoch == state.view.epoch {
                node.manager.notices_lost();
                node.manager.knowledge.rebuild(&node, true).await;
                node.outbound.doubt();
                node.watchers.wake_all();
            }
        });
    }
}
