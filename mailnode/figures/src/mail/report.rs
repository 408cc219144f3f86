//! What a run did.

use super::machine::Machine;
use super::{Mailbox, Settings, Waiter};
use crate::{MILLISECOND, SECOND, Time, seconds};

/// Latencies are kept by the millisecond, up to here.
const LONGEST: usize = 20_000;

#[derive(Clone, Debug)]
pub struct Report {
    warm_up: Time,
    span: Time,
    /// Deliveries acknowledged after the warm-up.
    pub delivered: u64,
    /// Messages retrieved after the warm-up.
    pub retrieved: u64,
    /// By second of the run, from its beginning.
    pub delivered_by_second: Vec<u32>,
    pub retrieved_by_second: Vec<u32>,
    latencies: Vec<u32>,
    /// Replicas that were slow or failed and were replaced.
    pub replaced: u64,
    /// Operations that their client had to begin again.
    pub failed: u64,
    /// Messages that a retrieval left because no replica could be read.
    pub unreadable: u64,
    /// Nodes with mail of a user, on average over those that have any.
    pub fragments: f64,
    /// Busiest and mean machine, of 1.
    pub disk: Use,
    pub processor: Use,
    pub network: Use,
    /// Messages between nodes; each carries a load report.
    pub reports: u64,
    /// Flushes of all disks.
    pub flushes: u64,
    /// Rows of the update log that returned machines had to take.
    pub redelivered: u64,
    /// When the last of them was taken.
    pub redelivered_at: Time,
    /// Deliveries stored by the machines with fast disks, of 1, over copies.
    pub copies_by_machine: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Use {
    pub mean: f64,
    pub most: f64,
}

impl Use {
    fn of(shares: impl Iterator<Item = f64>) -> Self {
        let shares: Vec<f64> = shares.collect();
        let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        Self { mean, most: shares.into_iter().fold(0.0, f64::max) }
    }
}

impl Report {
    pub(super) fn new(settings: &Settings) -> Self {
        let whole = (settings.end / SECOND) as usize + 1;
        Self {
            warm_up: settings.warm_up,
            span: settings.end - settings.warm_up,
            delivered: 0,
            retrieved: 0,
            delivered_by_second: vec![0; whole],
            retrieved_by_second: vec![0; whole],
            latencies: vec![0; LONGEST + 1],
            replaced: 0,
            failed: 0,
            unreadable: 0,
            fragments: 0.0,
            disk: Use::default(),
            processor: Use::default(),
            network: Use::default(),
            reports: 0,
            flushes: 0,
            redelivered: 0,
            redelivered_at: 0,
            copies_by_machine: vec![0; settings.nodes],
        }
    }

    /// Messages acknowledged in a second.
    pub fn rate(&self) -> f64 {
        self.delivered as f64 / seconds(self.span)
    }

    /// Milliseconds that this share of deliveries took at most.
    pub fn latency(&self, share: f64) -> u64 {
        let all: u64 = self.latencies.iter().map(|&count| u64::from(count)).sum();
        let mut left = (all as f64 * share) as u64;
        for (millis, &count) in self.latencies.iter().enumerate() {
            match left.checked_sub(u64::from(count)) {
                Some(rest) => left = rest,
                None => return millis as u64,
            }
        }
        LONGEST as u64
    }

    pub(super) fn deliver(&mut self, began: Time, now: Time) {
        if let Some(count) = self.delivered_by_second.get_mut((now / SECOND) as usize) {
            *count += 1;
        }
        if now >= self.warm_up {
            self.delivered += 1;
            let millis = (now - began) / MILLISECOND;
            self.latencies[(millis as usize).min(LONGEST)] += 1;
        }
    }

    pub(super) fn retrieve(&mut self, messages: usize, now: Time) {
        if let Some(count) = self.retrieved_by_second.get_mut((now / SECOND) as usize) {
            *count += messages as u32;
        }
        if now >= self.warm_up {
            self.retrieved += messages as u64;
        }
    }

    pub(super) fn close(&mut self, machines: &[Machine<Waiter>], mailboxes: &[Mailbox], end: Time) {
        let end = end as f64;
        self.disk = Use::of(machines.iter().map(|machine| machine.disk.busy as f64 / end));
        self.processor = Use::of(machines.iter().map(|machine| machine.processor_share(end)));
        self.network =
            Use::of(machines.iter().map(|machine| machine.sent as f64 * 8.0 / seconds(end as Time)));
        self.flushes = machines.iter().map(|machine| machine.disk.flushes).sum();
        let used: Vec<usize> =
            mailboxes.iter().map(|mailbox| mailbox.map.len()).filter(|&len| len > 0).collect();
        self.fragments = used.iter().sum::<usize>() as f64 / used.len().max(1) as f64;
    }
}
