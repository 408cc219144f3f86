//! What a node says of itself.

use crate::metrics::set;
use crate::node::Node;
use crate::wire::NodeStatus;
use cluster::healing::{Judgement, Planner};
use cluster::{Bucket, Entry, MemberState, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Node {
    /// For `cluster status`. Counting under-replicated entries reads all entries here while a replica is away.
    pub async fn status(self: &Arc<Self>) -> NodeStatus {
        let node = self.clone();
        let counted = crate::environment::blocking(move || node.under_replicated()).await;
        let log = self.store.metrics();
        let view = &self.topology.now().view;
        NodeStatus {
            load: self.store.load(),
            under_replicated_entries: counted.unwrap_or_default(),
            pending_updates: self.pending_updates(),
            live_bytes: log.live_bytes,
            dead_bytes: log.dead_bytes,
            active_users: self.manager.active_users() as u64,
            healing: self.healing.status(self.id, view, self.users.buckets_left()),
            quarantined: self.log_heads.history().cloned(),
            secret: self.rotation.status(self),
        }
    }

    fn pending_updates(&self) -> u64 {
        // What is kept for nodes that left for good is nothing that anybody waits for.
        let state = self.topology.now();
        let members = state.view.members.iter().map(|member| self.store.pending_count(member.id));
        members.sum()
    }

    /// Live entries with too few replicas or one that does not serve, counted by the first of their replicas that
    /// does, or by who will see to it.
    fn under_replicated(&self) -> u64 {
        let state = self.topology.now();
        let serving: BTreeSet<NodeId> = state.view.serving().map(|member| member.id).collect();
        if self.healing.is_idle(state.view.epoch)
            && state.view.members.iter().all(|member| serving.contains(&member.id))
        {
            return 0;
        }
        let planner = Planner::new(self.id, self.settings.replication.factor, &state.view);
        let wanting = |entry: &Entry| {
            let replicas = &entry.replicas.value;
            let first = replicas.iter().find(|replica| serving.contains(replica));
            match planner.judge(entry) {
                Judgement::Mine(_) => true,
                Judgement::Others => false,
                Judgement::Whole => {
                    first == Some(&self.id) && replicas.iter().any(|replica| !serving.contains(replica))
                }
            }
        };
        let users = self.store.users(Bucket::all()).unwrap_or_default();
        users
            .into_iter()
            .filter_map(|user| self.store.fragment(user).ok())
            .map(|fragment| {
                let live = fragment.entries().filter(|entry| entry.is_live());
                live.filter(|entry| wanting(entry)).count() as u64
            })
            .sum()
    }

    /// Brings the gauges up to date before a scrape.
    pub fn update_gauges(&self) {
        let metrics = &self.metrics;
        let state = self.topology.now();
        metrics.epoch.set(state.view.epoch.0 as i64);
        for (label, kind) in [
            ("joining", MemberState::Joining),
            ("active", MemberState::Active),
            ("draining", MemberState::Draining),
            ("dead", MemberState::Dead),
        ] {
            let count = state.view.members.iter().filter(|member| member.state == kind).count();
            metrics.members.with_label_values(&[label]).set(count as i64);
        }
        let healing = self.healing.status(self.id, &state.view, 0);
        metrics.healing.entries_left.set(healing.entries_left as i64);
        metrics.healing.bytes_left.set(healing.bytes_left as i64);
        metrics.clock_ahead.set(self.clock.ahead());
        metrics.active_users.set(self.manager.active_users() as i64);
        metrics.encryption.to_rewrap.set(self.manager.to_rewrap() as i64);
        let secret = self.rotation.status(self);
        metrics.encryption.secret_version.set(i64::from(secret.current));
        metrics.encryption.wrapped_by_older.set(secret.wrapped_by_older.map_or(-1, |older| older as i64));
        metrics.pending_updates.set(self.pending_updates() as i64);
        let log = self.store.metrics();
        set(&metrics.log.commits, log.commits);
        set(&metrics.log.fsyncs, log.fsyncs);
        set(&metrics.log.bytes_written, log.bytes_written);
        set(&metrics.log.compacted_bytes, log.compacted_bytes);
        set(&metrics.log.corrupt_records, log.corrupt_records);
        metrics.log.live_bytes.set(log.live_bytes as i64);
        metrics.log.dead_bytes.set(log.dead_bytes as i64);
        metrics.log.quarantined_at.set(self.log_heads.history().map_or(0, |quarantine| quarantine.at));
        metrics.parts.here(log.parts);
        metrics.parts.missing.set(self.parts.status(self).missing as i64);
        let load = self.store.load();
        metrics.log.queue.set(i64::from(load.pending));
        metrics.log.disk_used.set(f64::from(load.fullness) / 1_000.0);
        self.outbound.update_gauges(&metrics.queue);
        self.update_rpc_metrics();
        self.update_user_database_metrics();
    }

    fn update_user_database_metrics(&self) {
        let Some(now) = self.users.remote_status() else { return };
        let metrics = &self.metrics.user_database;
        metrics.reachable.set(i64::from(now.reachable));
        set(&metrics.reads, now.reads);
        set(&metrics.writes, now.writes);
        set(&metrics.conflicts, now.conflicts);
        set(&metrics.in_doubt, now.in_doubt);
        set(&metrics.unavailable, now.unavailable);
        set(&metrics.stale, now.stale);
        set(&metrics.false_commits, now.false_commits);
    }

    fn update_rpc_metrics(&self) {
        let (metrics, now) = (&self.metrics.rpc, self.transport.metrics());
        set(&metrics.calls, now.calls);
        for (reason, total) in [
            ("unreachable", now.calls_unreachable),
            ("refused", now.calls_refused),
            ("connection-lost", now.calls_connection_lost),
            ("deadline", now.calls_deadline_exceeded),
            ("overloaded", now.calls_overloaded),
            ("too-large", now.calls_too_large),
            ("failed", now.calls_handler_failed),
        ] {
            set(&metrics.failed_calls.with_label_values(&[reason]), total);
        }
        set(&metrics.requests, now.requests);
        set(&metrics.bytes_sent, now.bytes_sent);
        set(&metrics.bytes_received, now.bytes_received);
        metrics.connections.set(now.connections as i64);
        set(&metrics.refused, now.refused_incoming + now.refused_outgoing);
        set(&metrics.protocol_errors, now.protocol_errors);
    }
}
