//! The node's metrics, by Prometheus conventions (crate `prometheus`): base units, `_total` for counters,
//! prefix `prickle_`. Gauges of other parts (log, transport) are read when they are scraped.

use crate::crypto::Wrapping;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

pub struct Metrics {
    registry: Registry,
    /// Copies acknowledged to senders, one a recipient.
    pub delivered: IntCounter,
    pub delivery_failures: IntCounter,
    pub delivery_seconds: Histogram,
    pub replaced_replicas: IntCounter,
    pub redelivered: IntCounter,
    pub clock_refusals: IntCounter,
    pub clock_ahead: IntGauge,
    pub manager_retries: IntCounter,
    pub blob_fallbacks: IntCounter,
    pub lost_bodies: IntCounter,
    pub events: IntCounterVec,
    pub recent_bodies: IntCounter,
    pub commands: IntCounterVec,
    pub connections: IntGaugeVec,
    pub connections_refused: IntCounterVec,
    pub logins: IntCounterVec,
    pub epoch: IntGauge,
    pub members: IntGaugeVec,
    pub active_users: IntGauge,
    pub pending_updates: IntGauge,
    pub log: LogMetrics,
    pub healing: HealingMetrics,
    pub parts: PartMetrics,
    pub encryption: EncryptionMetrics,
    pub lists: ListMetrics,
    pub queue: QueueMetrics,
    pub rpc: RpcMetrics,
    pub user_database: UserDatabaseMetrics,
}

/// The storage log, as of the last scrape.
pub struct LogMetrics {
    pub commits: IntCounter,
    pub fsyncs: IntCounter,
    pub bytes_written: IntCounter,
    pub compacted_bytes: IntCounter,
    pub live_bytes: IntGauge,
    pub dead_bytes: IntGauge,
    pub corrupt_records: IntCounter,
    pub quarantined_at: IntGauge,
    pub queue: IntGauge,
    pub disk_used: Gauge,
}

/// The transport between nodes, as of the last scrape.
pub struct HealingMetrics {
    pub comparisons: IntCounter,
    pub repaired_entries: IntCounter,
    pub repaired_bodies: IntCounter,
    pub moved_entries: IntCounter,
    pub copied_bytes: IntCounter,
    pub entries_left: IntGauge,
    pub bytes_left: IntGauge,
}

/// MIME parts that are kept apart.
pub struct PartMetrics {
    pub cut: IntCounter,
    pub stored: IntCounter,
    pub reused: IntCounter,
    pub renewed: IntCounter,
    pub lease_bytes: IntCounter,
    pub fetched: IntCounter,
    pub discarded: IntCounter,
    pub missing: IntGauge,
    here: IntGaugeVec,
    bytes: IntGaugeVec,
}

impl PartMetrics {
    pub fn here(&self, totals: storage::PartTotals) {
        for (state, parts, bytes) in
            [("live", totals.live, totals.live_bytes), ("trash", totals.trash, totals.trash_bytes)]
        {
            self.here.with_label_values(&[state]).set(parts as i64);
            self.bytes.with_label_values(&[state]).set(bytes as i64);
        }
    }
}

/// Per-user encryption.
pub struct EncryptionMetrics {
    accounts: IntGaugeVec,
    accounts_rewrapping: IntGauge,
    pub to_rewrap: IntGauge,
    pub secret_version: IntGauge,
    pub wrapped_by_older: IntGauge,
    rewrapped: IntCounterVec,
    unlocked: IntCounterVec,
}

impl EncryptionMetrics {
    /// Known to the node that manages bucket 0.
    pub fn accounts(&self, cluster: u64, user: u64, rewrapping: u64) {
        self.accounts.with_label_values(&["cluster"]).set(cluster as i64);
        self.accounts.with_label_values(&["user"]).set(user as i64);
        self.accounts_rewrapping.set(rewrapping as i64);
    }

    pub fn rewrapped(&self, wrapping: Wrapping, count: usize) {
        let label = match wrapping {
            Wrapping::User => "user",
            Wrapping::Cluster(_) => "cluster",
        };
        self.rewrapped.with_label_values(&[label]).inc_by(count as u64);
    }

    pub fn unlocked(&self, partly: bool) {
        self.unlocked.with_label_values(&[if partly { "partly" } else { "all" }]).inc();
    }
}

/// Mailing lists.
pub struct ListMetrics {
    pub accepted: IntCounter,
    pub delivered: IntCounter,
    pub undelivered: IntCounter,
}

/// Mail to other servers.
pub struct QueueMetrics {
    pub accepted: IntCounter,
    pub attempts: IntCounterVec,
    pub reports: IntCounter,
    pub messages: IntGauge,
    pub connections: IntGauge,
    pub oldest_seconds: IntGauge,
}

pub struct RpcMetrics {
    pub calls: IntCounter,
    pub failed_calls: IntCounterVec,
    pub requests: IntCounter,
    pub bytes_sent: IntCounter,
    pub bytes_received: IntCounter,
    pub connections: IntGauge,
    pub refused: IntCounter,
    pub protocol_errors: IntCounter,
}

/// A user database that is elsewhere (TiKV), as of the last scrape. All 0 if it is embedded.
pub struct UserDatabaseMetrics {
    pub reachable: IntGauge,
    pub reads: IntCounter,
    pub writes: IntCounter,
    pub conflicts: IntCounter,
    pub in_doubt: IntCounter,
    pub unavailable: IntCounter,
    pub stale: IntCounter,
    pub false_commits: IntCounter,
}

/// Takes a total that another part counts.
pub fn set(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn registered<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> prometheus::Result<M> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

impl Metrics {
    /// # Errors
    /// Only if two metrics have one name, which a test excludes.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| registered(&registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help));
        let ratio = |name: &str, help: &str| registered(&registry, Gauge::new(name, help));
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let buckets = vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
        let delivery_seconds = Histogram::with_opts(
            HistogramOpts::new("prickle_delivery_seconds", "Time from the end of the data to the answer.")
                .buckets(buckets),
        );
        let delivery_seconds = registered(&registry, delivery_seconds)?;
        Ok(Self {
            delivered: counter(
                "prickle_delivered_total",
                "Copies acknowledged to senders, one a recipient.",
            )?,
            delivery_failures: counter(
                "prickle_delivery_failures_total",
                "Copies that could not be stored on minCopies nodes.",
            )?,
            delivery_seconds,
            replaced_replicas: counter(
                "prickle_replaced_replicas_total",
                "Calls to nodes that stood in for a slow or dead replica.",
            )?,
            redelivered: counter("prickle_redelivered_updates_total", "Updates pushed from the update log.")?,
            clock_refusals: counter(
                "prickle_clock_refusals_total",
                "Updates refused because their clock was further ahead than maxClockSkew.",
            )?,
            clock_ahead: gauge(
                "prickle_clock_ahead_milliseconds",
                "How far this machine's clock is ahead of what the nodes agree on; 0 if it is among them.",
            )?,
            manager_retries: counter(
                "prickle_manager_retries_total",
                "Requests that a user's manager did not answer, so that the next node was asked.",
            )?,
            lost_bodies: counter(
                "prickle_lost_bodies_total",
                "Messages that no disk has any more, given up.",
            )?,
            events: counters(
                "prickle_events_total",
                "Events for sessions on other nodes and here: told, and not answered, so that they are told again.",
                &["outcome"],
            )?,
            recent_bodies: counter(
                "prickle_recent_bodies_total",
                "Large bodies that a session had just read, so that they were not fetched again.",
            )?,
            blob_fallbacks: counter(
                "prickle_blob_fallbacks_total",
                "Bodies that one replica could not give, so that another was asked.",
            )?,
            commands: counters(
                "prickle_commands_total",
                "Commands of clients.",
                &["protocol", "command", "outcome"],
            )?,
            connections: gauges("prickle_connections", "Client connections now.", &["listener"])?,
            connections_refused: counters(
                "prickle_connections_refused_total",
                "Client connections refused because of limits.connections.",
                &["listener"],
            )?,
            logins: counters("prickle_logins_total", "Log-ins.", &["protocol", "outcome"])?,
            epoch: gauge("prickle_view_epoch", "Epoch of the membership view.")?,
            members: gauges("prickle_members", "Members of the view by state.", &["state"])?,
            active_users: gauge("prickle_active_users", "Users whose soft state this node holds.")?,
            pending_updates: gauge(
                "prickle_pending_updates",
                "Update log rows that a peer has not acknowledged.",
            )?,
            log: LogMetrics {
                commits: counter("prickle_log_commits_total", "Commits.")?,
                fsyncs: counter("prickle_log_fsyncs_total", "Flushes of the log.")?,
                bytes_written: counter("prickle_log_written_bytes_total", "Bytes appended.")?,
                compacted_bytes: counter(
                    "prickle_log_compacted_bytes_total",
                    "Bytes that compaction freed.",
                )?,
                live_bytes: gauge("prickle_log_live_bytes", "Bytes of live records.")?,
                dead_bytes: gauge("prickle_log_dead_bytes", "Bytes of dead records, not yet compacted.")?,
                corrupt_records: counter("prickle_log_corrupt_records_total", "Records found damaged.")?,
                quarantined_at: gauge(
                    "prickle_log_quarantine_timestamp_seconds",
                    "When this node's log was last found rolled back, cut or altered, and replaced; 0: never.",
                )?,
                queue: gauge("prickle_log_queue", "Writes that wait for the disk now.")?,
                disk_used: ratio(
                    "prickle_disk_used_ratio",
                    "Share of the data directory's disk in use, 0 to 1.",
                )?,
            },
            healing: HealingMetrics {
                comparisons: counter("prickle_healing_comparisons_total", "Comparisons begun with peers.")?,
                repaired_entries: counter(
                    "prickle_healing_repaired_entries_total",
                    "Entries that a comparison found to differ, and repaired.",
                )?,
                repaired_bodies: counter(
                    "prickle_healing_repaired_bodies_total",
                    "Bodies missing or damaged here that were fetched from another replica.",
                )?,
                moved_entries: counter(
                    "prickle_healing_moved_entries_total",
                    "Entries that this node gave another replica set.",
                )?,
                copied_bytes: counter(
                    "prickle_healing_copied_bytes_total",
                    "Bytes of bodies copied to or from peers to heal.",
                )?,
                entries_left: gauge(
                    "prickle_healing_entries_left",
                    "Entries that want another replica set.",
                )?,
                bytes_left: gauge("prickle_healing_bytes_left", "Bytes of their bodies.")?,
            },
            parts: PartMetrics {
                cut: counter("prickle_parts_cut_total", "MIME parts cut out of new messages, each time.")?,
                stored: counter("prickle_parts_stored_total", "Parts of new messages stored on this node.")?,
                reused: counter(
                    "prickle_parts_reused_total",
                    "Copies of parts of new messages that needed no transfer: a node had them.",
                )?,
                renewed: counter("prickle_parts_renewed_total", "Leases of parts renewed on this node.")?,
                lease_bytes: counter(
                    "prickle_parts_lease_bytes_total",
                    "Bytes of names of parts that this node sent to renew their leases.",
                )?,
                fetched: counter(
                    "prickle_parts_fetched_total",
                    "Parts that this node should have had and got from another.",
                )?,
                discarded: counter("prickle_parts_discarded_total", "Parts dropped from the trash.")?,
                missing: gauge(
                    "prickle_parts_missing",
                    "Copies of parts that this node knows to be missing at their owners.",
                )?,
                here: gauges("prickle_parts", "Parts on this node.", &["state"])?,
                bytes: gauges("prickle_part_bytes", "What parts take of this node's log.", &["state"])?,
            },
            encryption: EncryptionMetrics {
                accounts: gauges(
                    "prickle_encryption_accounts",
                    "Accounts by who can read their mail, as the node that manages bucket 0 counted them last.",
                    &["mode"],
                )?,
                accounts_rewrapping: gauge(
                    "prickle_encryption_rewrapping_accounts",
                    "Accounts of which mail may be wrapped as before their mode was changed.",
                )?,
                to_rewrap: gauge(
                    "prickle_encryption_messages_to_rewrap",
                    "Messages in mailboxes in this node's memory whose keys wait to be wrapped anew.",
                )?,
                secret_version: gauge(
                    "prickle_cluster_secret_version",
                    "Version of the cluster's secret with which this node makes new keys.",
                )?,
                wrapped_by_older: gauge(
                    "prickle_cluster_secret_older_keys",
                    "Copies of messages on this node whose keys an older version of the cluster's secret wraps; -1 while they are counted.",
                )?,
                rewrapped: counters(
                    "prickle_encryption_rewrapped_total",
                    "Keys of messages wrapped anew, by who can open them now.",
                    &["mode"],
                )?,
                unlocked: counters(
                    "prickle_encryption_unlocked_total",
                    "Sessions that were logged in to with a secret that opened all, or part, of the user's keys.",
                    &["keys"],
                )?,
            },
            lists: ListMetrics {
                accepted: counter(
                    "prickle_list_messages_total",
                    "Messages for mailing lists that were queued.",
                )?,
                delivered: counter("prickle_list_copies_total", "Copies of them that members of ours have.")?,
                undelivered: counter(
                    "prickle_list_undelivered_total",
                    "Members that cannot get a message: over quota, or gone. Their list's owners were told.",
                )?,
            },
            queue: QueueMetrics {
                accepted: counter(
                    "prickle_queue_accepted_total",
                    "Messages for other servers that were queued.",
                )?,
                attempts: counters(
                    "prickle_queue_attempts_total",
                    "Attempts to deliver to a recipient at another server, by what came of them; unreachable: to a \
                     destination none of whose hosts could be used.",
                    &["outcome"],
                )?,
                reports: counter("prickle_queue_reports_total", "Reports of failures delivered to senders.")?,
                messages: gauge("prickle_queue_messages", "Queued messages that this node holds.")?,
                connections: gauge("prickle_queue_connections", "Connections to other servers now.")?,
                oldest_seconds: gauge(
                    "prickle_queue_oldest_seconds",
                    "Age of the oldest message that this node holds.",
                )?,
            },
            rpc: RpcMetrics {
                calls: counter("prickle_rpc_calls_total", "Calls to other nodes.")?,
                failed_calls: counters(
                    "prickle_rpc_failed_calls_total",
                    "Calls to other nodes that brought no answer.",
                    &["reason"],
                )?,
                requests: counter("prickle_rpc_requests_total", "Requests from other nodes.")?,
                bytes_sent: counter("prickle_rpc_sent_bytes_total", "Bytes sent to other nodes.")?,
                bytes_received: counter(
                    "prickle_rpc_received_bytes_total",
                    "Bytes received from other nodes.",
                )?,
                connections: gauge("prickle_rpc_connections", "Connections with other nodes now.")?,
                refused: counter(
                    "prickle_rpc_refused_total",
                    "Handshakes that failed: certificate, name, cluster or version.",
                )?,
                protocol_errors: counter(
                    "prickle_rpc_protocol_errors_total",
                    "Connections closed because the peer broke the protocol.",
                )?,
            },
            user_database: UserDatabaseMetrics {
                reachable: gauge(
                    "prickle_user_database_reachable",
                    "1 while TiKV answers; 0 also if the user database is embedded.",
                )?,
                reads: counter("prickle_user_database_reads_total", "Records read from TiKV.")?,
                writes: counter("prickle_user_database_writes_total", "Records written to TiKV.")?,
                conflicts: counter(
                    "prickle_user_database_conflicts_total",
                    "Writes to TiKV that others were faster with.",
                )?,
                in_doubt: counter(
                    "prickle_user_database_in_doubt_total",
                    "Writes of which it is not known whether TiKV made them.",
                )?,
                unavailable: counter(
                    "prickle_user_database_unavailable_total",
                    "Operations that TiKV gave no answer to.",
                )?,
                stale: counter(
                    "prickle_user_database_stale_reads_total",
                    "Reads answered from memory because TiKV did not.",
                )?,
                false_commits: counter(
                    "prickle_user_database_false_commits_total",
                    "Commits that TiKV's client called done and that were not there.",
                )?,
            },
            registry,
        })
    }

    /// Client connections of all listeners together.
    pub fn open_connections(&self) -> u64 {
        let families = prometheus::core::Collector::collect(&self.connections);
        let gauges = families.iter().flat_map(prometheus::proto::MetricFamily::get_metric);
        gauges.map(|metric| metric.get_gauge().get_value().max(0.0) as u64).sum()
    }

    /// The text format.
    ///
    /// # Errors
    /// If a metric cannot be written as text.
    pub fn render(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let metrics = Metrics::new().unwrap();
        metrics.delivered.inc();
        metrics.commands.with_label_values(&["imap", "FETCH", "ok"]).inc();
        let text = metrics.render().unwrap();
        assert!(text.contains("prickle_delivered_total 1"));
        assert!(text.lines().filter(|line| line.starts_with("# TYPE")).all(|line| line.contains("prickle_")));
    }
}
