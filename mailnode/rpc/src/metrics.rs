//! Counters of everything the transport does, for the node to export. Counts only grow, gauges are named so.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The live counters of an [`Endpoint`](crate::Endpoint), both as client and as server.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
        }

        /// The counters at one moment (each exact, not all of the same instant).
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct MetricsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Metrics {
            pub fn snapshot(&self) -> MetricsSnapshot {
                MetricsSnapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

metrics! {
    /// Calls and one-way messages begun here.
    calls,
    /// Calls ended with `Unreachable`.
    calls_unreachable,
    /// Calls ended with `Refused`.
    calls_refused,
    /// Calls ended with `ConnectionLost`.
    calls_connection_lost,
    /// Calls ended with `DeadlineExceeded`.
    calls_deadline_exceeded,
    /// Calls ended with `Overloaded`.
    calls_overloaded,
    /// Calls ended with `TooLarge`.
    calls_too_large,
    /// Calls ended with `HandlerFailed`.
    calls_handler_failed,
    /// Calls whose future was dropped before an answer.
    calls_dropped,
    /// Gauge: calls begun here and not ended.
    calls_in_flight,
    /// Requests that peers sent whole.
    requests,
    /// Gauge: requests from peers whose handler runs or waits to run.
    requests_in_flight,
    /// Requests that the peer cancelled before the answer was ready.
    requests_cancelled,
    /// Requests dropped because their deadline had passed.
    requests_expired,
    /// Requests whose handler panicked or answered above the limits.
    requests_failed,
    /// Bytes of frames sent, before encryption.
    bytes_sent,
    /// Bytes of frames received, after decryption.
    bytes_received,
    /// Connections that were established by this node.
    connections_opened,
    /// Connections that were accepted by this node, from peers that proved who they are.
    connections_accepted,
    /// Gauge: connections established now, in both directions.
    connections,
    /// Attempts to connect that failed in the network.
    connect_failures,
    /// Handshakes that failed here as client: TLS, name, cluster or version.
    refused_outgoing,
    /// Handshakes that failed here as server: TLS, name, cluster, version, or too many connections.
    refused_incoming,
    /// Connections closed because the peer broke the protocol.
    protocol_errors,
    /// Connections closed because the peer fell silent.
    silent_connections,
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// A gauge that is one higher while this lives.
#[derive(Debug)]
pub(crate) struct GaugeGuard<F: Fn(&Metrics) -> &AtomicU64> {
    metrics: std::sync::Arc<Metrics>,
    gauge: F,
}

impl<F: Fn(&Metrics) -> &AtomicU64> GaugeGuard<F> {
    pub(crate) fn new(metrics: std::sync::Arc<Metrics>, gauge: F) -> Self {
        gauge(&metrics).fetch_add(1, Ordering::Relaxed);
        Self { metrics, gauge }
    }
}

impl<F: Fn(&Metrics) -> &AtomicU64> Drop for GaugeGuard<F> {
    fn drop(&mut self) {
        (self.gauge)(&self.metrics).fetch_sub(1, Ordering::Relaxed);
    }
}
