//! The parameters of the model, all in one place.
//!
//! A node is a small machine with one magnetic disk, because the papers' machines were limited by their disks and the
//! questions of their figures are about that. Costs of the processor were measured: `docs/figures/first-look.md`
//! gives CPU seconds per 1,000 messages for one node with R=1 (0.255) and for three with R=2 (0.948), from which the
//! cost of a call between two nodes follows; [`tests`] keeps the sum in place.

use crate::{MICROSECOND, MILLISECOND, Time};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disk {
    /// One flush of a group of commits, besides writing its bytes.
    pub flush: Time,
    /// One read of a body that is not in memory.
    pub read: Time,
    pub bytes_per_second: u64,
}

impl Disk {
    pub const MAGNETIC: Self =
        Self { flush: 8 * MILLISECOND, read: 8 * MILLISECOND, bytes_per_second: 100_000_000 };
    /// Four times as fast in all.
    pub const FAST: Self =
        Self { flush: 2 * MILLISECOND, read: 2 * MILLISECOND, bytes_per_second: 400_000_000 };
}

/// Processor time of the steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Processor {
    pub cores: usize,
    /// Taking a message from a client: protocol, TLS, hash, encryption, answer.
    pub take: Time,
    /// A manager's look at a recipient.
    pub verify: Time,
    /// Storing one copy.
    pub store: Time,
    /// A call to another node, at the caller and at the called: frame, TLS, wake-ups.
    pub ask: Time,
    pub answer: Time,
    /// A replica's notice to a manager, at either end.
    pub notice: Time,
    /// A client's log-in, and giving it one message.
    pub login: Time,
    pub give: Time,
    /// One entry listed, changed or deleted.
    pub entry: Time,
}

impl Processor {
    pub const SMALL: Self = Self {
        cores: 2,
        take: 180 * MICROSECOND,
        verify: 20 * MICROSECOND,
        store: 70 * MICROSECOND,
        ask: 90 * MICROSECOND,
        answer: 100 * MICROSECOND,
        notice: 50 * MICROSECOND,
        login: 300 * MICROSECOND,
        give: 50 * MICROSECOND,
        entry: 10 * MICROSECOND,
    };
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// One way, between any two machines.
    pub latency: Time,
    /// Of each machine, in either direction.
    pub bytes_per_second: u64,
}

impl Network {
    /// One gigabit a second.
    pub const GIGABIT: Self = Self { latency: 100 * MICROSECOND, bytes_per_second: 125_000_000 };
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hardware {
    pub disk: Disk,
    pub processor: Processor,
    pub network: Network,
    /// Bodies read that are not in memory, of 1.
    pub cold: f64,
    /// Reads that the disk does in one turn, between two groups of commits.
    pub reads_per_turn: usize,
}

impl Hardware {
    pub const SMALL: Self = Self {
        disk: Disk::MAGNETIC,
        processor: Processor::SMALL,
        network: Network::GIGABIT,
        cold: 0.1,
        reads_per_turn: 4,
    };
}

/// Bytes of a request or answer without bodies and lists.
pub const FRAME: u64 = 120;
/// Bytes of one entry, in a frame and in the log.
pub const ENTRY: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of processor time for 1,000 deliveries.
    fn seconds_per_thousand(nodes: f64, copies: f64) -> f64 {
        let cpu = Processor::SMALL;
        let remote = (nodes - 1.0) / nodes;
        let call = (cpu.ask + cpu.answer) as f64;
        let local = (cpu.take + cpu.verify) as f64 + copies * cpu.store as f64;
        let calls = remote * (1.0 + copies) * call + copies * remote * 2.0 * cpu.notice as f64;
        (local + calls) * 1_000.0 / 1e9
    }

    #[test]
    fn processor_times_add_up_to_about_what_was_measured() {
        let measured = [(1.0, 1.0, 0.255), (3.0, 2.0, 0.948)];
        for (nodes, copies, seconds) in measured {
            let model = seconds_per_thousand(nodes, copies);
            assert!((model / seconds - 1.0f64).abs() < 0.15, "{nodes} nodes: {model} for {seconds}");
        }
    }
}
