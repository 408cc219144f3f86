//! This node as its peers see it: identity, certificates, limits and load, shared by the client and server side.

use crate::metrics::Metrics;
use crate::pki::NodeTls;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Messages (head and body together) up to this size take no bulk credit and go ahead of larger ones, in bytes.
pub const SMALL_MESSAGE: usize = 16 * 1024;

/// Who this node is. The name is what its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Only nodes with the same cluster id talk to each other. At most 255 bytes.
    pub cluster: String,
    pub node_id: u64,
    /// As in the node's certificate: see [`crate::pki::check_node_name`].
    pub name: String,
    /// Higher after every start of the node.
    pub incarnation: u64,
}

/// Limits and times. The defaults suit a mail node; [`Endpoint::new`] refuses what cannot work.
#[derive(Clone, Debug)]
pub struct Options {
    /// Versions of the application's protocol that this node speaks; the highest common one is used.
    pub versions: RangeInclusive<u16>,
    /// Largest head in either direction, in bytes (default 4 MiB).
    pub max_head: u32,
    /// Largest body in either direction, in bytes (default 64 MiB).
    pub max_body: u32,
    /// Connections to one peer: 1, or 2 to give messages above [`SMALL_MESSAGE`] their own (default 1).
    pub connections: usize,
    /// Calls in flight on one connection, in both roles; the lower limit of the two sides holds (default 1024).
    pub max_calls: u32,
    /// Handlers that run at one time for one connection; other requests wait (default 256).
    pub max_handlers: u32,
    /// Bytes of messages above [`SMALL_MESSAGE`] that may be in flight on one connection in each direction, the
    /// lower limit of the two sides again. At least `max_head + max_body` (default 96 MiB).
    pub window: u32,
    /// To resolve, connect, and finish the handshakes (default 500 ms).
    pub connect_timeout: Duration,
    /// For a peer that connects to finish its handshakes (default 5 s).
    pub accept_timeout: Duration,
    /// After a failure no new attempt is made for this long, doubled with every further failure ...
    pub backoff_min: Duration,
    /// ... up to this (defaults 10 ms and 1 s).
    pub backoff_max: Duration,
    /// A connection on which nothing came for this long is probed (default 2 s).
    pub ping_interval: Duration,
    /// A connection on which nothing came for this long is closed (default 6 s).
    pub silence_limit: Duration,
    /// Accepted connections at one time (default 4096).
    pub max_connections: usize,
    /// Peers that a [`crate::Pool`] remembers (default 4096).
    pub max_peers: usize,
    /// How long `serve` waits for running requests when it is told to stop (default 5 s).
    pub drain_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            versions: 1..=1,
            max_head: 4 << 20,
            max_body: 64 << 20,
            connections: 1,
            max_calls: 1024,
            max_handlers: 256,
            window: 96 << 20,
            connect_timeout: Duration::from_millis(500),
            accept_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
            ping_interval: Duration::from_secs(2),
            silence_limit: Duration::from_secs(6),
            max_connections: 4096,
            max_peers: 4096,
            drain_limit: Duration::from_secs(5),
        }
    }
}

/// What cannot work in [`Options`] or [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("{0}")]
    Name(#[from] crate::pki::NameError),
    #[error("the cluster id must have 1 to 255 bytes")]
    Cluster,
    #[error("{0}")]
    Option(&'static str),
}

/// Told of every load report that a peer sent: node id, load. Runs on the connection's task: it must be quick.
pub type LoadCallback = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// This node on the network. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) inner: Arc<EndpointInner>,
}

pub(crate) struct EndpointInner {
    pub(crate) identity: Identity,
    pub(crate) tls: NodeTls,
    pub(crate) options: Options,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) load: AtomicU64,
    pub(crate) on_load: Option<LoadCallback>,
}

impl Endpoint {
    /// # Errors
    /// If a limit cannot work or the node name is not one.
    pub fn new(identity: Identity, tls: NodeTls, options: Options) -> Result<Self, OptionsError> {
        Self::build(identity, tls, options, None)
    }

    /// Like [`Endpoint::new`], and `on_load` hears the load that peers report with every message.
    ///
    /// # Errors
    /// As [`Endpoint::new`].
    pub fn with_load_callback(
        identity: Identity,
        tls: NodeTls,
        options: Options,
        on_load: LoadCallback,
    ) -> Result<Self, OptionsError> {
        Self::build(identity, tls, options, Some(on_load))
    }

    fn build(
        identity: Identity,
        tls: NodeTls,
        options: Options,
        on_load: Option<LoadCallback>,
    ) -> Result<Self, OptionsError> {
        crate::pki::check_node_name(&identity.name)?;
        if identity.cluster.is_empty() || identity.cluster.len() > 255 {
            return Err(OptionsError::Cluster);
        }
        options.check()?;
        let inner = EndpointInner {
            identity,
            tls,
            options,
            metrics: Arc::default(),
            load: AtomicU64::new(0),
            on_load,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// Sets the load report that travels with every request and response from now on.
    pub fn set_load(&self, load: u64) {
        self.inner.load.store(load, Ordering::Relaxed);
    }
}

impl EndpointInner {
    pub(crate) fn load(&self) -> u64 {
        self.load.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("identity", &self.inner.identity).finish_non_exhaustive()
    }
}

impl Options {
    fn check(&self) -> Result<(), OptionsError> {
        let rules = [
            (self.versions.is_empty(), "the range of versions is empty"),
            (self.max_head.checked_add(self.max_body).is_none_or(|sum| sum > self.window), {
                "the window is smaller than the largest head and body together"
            }),
            (self.window > 1 << 30, "the window is above 1 GiB"),
            (!(1..=2).contains(&self.connections), "connections must be 1 or 2"),
            (!(1..=65_536).contains(&self.max_calls), "max_calls must be 1 to 65536"),
            (self.max_handlers == 0, "max_handlers is 0"),
            (self.max_connections == 0 || self.max_peers == 0, "max_connections or max_peers is 0"),
            (
                self.backoff_min.is_zero() || self.backoff_min > self.backoff_max,
                "backoff_min is 0 or above max",
            ),
            (
                self.ping_interval.is_zero() || self.ping_interval >= self.silence_limit,
                "ping_interval is 0 or not below silence_limit",
            ),
        ];
        match rules.iter().find(|(broken, _)| *broken) {
            Some((_, why)) => Err(OptionsError::Option(why)),
            None => Ok(()),
        }
    }
}
