//! One machine: its cores, its network interface, its disk, and what it knows of its peers.

use crate::Time;
use crate::hardware::{Disk as DiskSpeed, Hardware};
use cluster::{Candidate, Load, NodeId, Redelivery};
use std::collections::{BTreeMap, VecDeque};

/// What the disk is asked for: who waits for it, and how many bytes.
#[derive(Clone, Copy, Debug)]
pub struct Request<T> {
    pub waiter: T,
    pub bytes: u64,
}

/// One server: in turn a group of all commits that wait (one flush for all of them), and some reads.
#[derive(Debug)]
pub struct Disk<T> {
    speed: DiskSpeed,
    reads_per_turn: usize,
    commits: VecDeque<Request<T>>,
    reads: VecDeque<Request<T>>,
    serving: Vec<T>,
    reads_left: usize,
    /// Moving average of a flush, as the node's storage keeps it.
    flush: Time,
    pub busy: Time,
    pub flushes: u64,
}

/// Most commits of one group, as in the node's storage.
const MOST_COMMITS: usize = 4_096;

impl<T: Copy> Disk<T> {
    pub fn new(speed: DiskSpeed, reads_per_turn: usize) -> Self {
        Self {
            speed,
            reads_per_turn,
            commits: VecDeque::new(),
            reads: VecDeque::new(),
            serving: Vec::new(),
            reads_left: 0,
            flush: 0,
            busy: 0,
            flushes: 0,
        }
    }

    /// When what was begun is done; None if the disk is busy already.
    pub fn commit(&mut self, request: Request<T>, now: Time) -> Option<Time> {
        self.commits.push_back(request);
        self.begin(now)
    }

    /// As [`Disk::commit`].
    pub fn read(&mut self, request: Request<T>, now: Time) -> Option<Time> {
        self.reads.push_back(request);
        self.begin(now)
    }

    /// Those whose wait is over.
    pub fn done(&mut self) -> Vec<T> {
        std::mem::take(&mut self.serving)
    }

    pub fn begin(&mut self, now: Time) -> Option<Time> {
        if !self.serving.is_empty() {
            return None;
        }
        let reading = !self.reads.is_empty() && (self.reads_left > 0 || self.commits.is_empty());
        let took = if reading {
            let request = self.reads.pop_front()?;
            self.reads_left = self.reads_left.saturating_sub(1);
            self.serving.push(request.waiter);
            self.speed.read + self.transfer(request.bytes)
        } else if self.commits.is_empty() {
            return None;
        } else {
            let group = self.commits.drain(..self.commits.len().min(MOST_COMMITS));
            let (mut bytes, serving) = (0, &mut self.serving);
            for request in group {
                bytes += request.bytes;
                serving.push(request.waiter);
            }
            self.reads_left = self.reads_per_turn;
            let took = self.speed.flush + self.transfer(bytes);
            self.flush = if self.flush == 0 { took } else { (self.flush * 7 + took) / 8 };
            self.flushes += 1;
            took
        };
        self.busy += took;
        Some(now + took)
    }

    const fn transfer(&self, bytes: u64) -> Time {
        bytes.saturating_mul(1_000_000_000) / self.speed.bytes_per_second
    }

    /// The load report that rides on every message.
    pub fn load(&self) -> Load {
        let pending = self.commits.len() + self.reads.len() + self.serving.len();
        let flush = self.flush / (100 * crate::MICROSECOND);
        Load {
            pending: u32::try_from(pending).unwrap_or(u32::MAX),
            fullness: 0,
            flush: u16::try_from(flush).unwrap_or(u16::MAX),
        }
    }

    /// The machine died: what waited is gone.
    pub fn lose(&mut self) {
        self.commits.clear();
        self.reads.clear();
        self.serving.clear();
        self.reads_left = 0;
    }
}

pub struct Machine<T> {
    pub id: NodeId,
    pub up: bool,
    /// Grows with every start.
    pub life: u32,
    cores: Vec<Time>,
    sending_until: Time,
    receiving_until: Time,
    pub disk: Disk<T>,
    /// Active nodes of the view, by id, with the loads that they reported.
    pub peers: Vec<Candidate>,
    /// Rows of the update log by peer.
    pub log: BTreeMap<usize, u64>,
    pub redelivery: Redelivery,
    /// Peers that pages of the update log are on their way to, and in which of their lives.
    pub pushing: BTreeMap<usize, u32>,
    pub processor_busy: Time,
    pub sent: u64,
}

impl<T: Copy> Machine<T> {
    pub fn new(id: NodeId, hardware: &Hardware, disk: DiskSpeed) -> Self {
        Self {
            id,
            up: true,
            life: 0,
            cores: vec![0; hardware.processor.cores.max(1)],
            sending_until: 0,
            receiving_until: 0,
            disk: Disk::new(disk, hardware.reads_per_turn),
            peers: Vec::new(),
            log: BTreeMap::new(),
            redelivery: Redelivery::default(),
            pushing: BTreeMap::new(),
            processor_busy: 0,
            sent: 0,
        }
    }

    /// Work for the core that is free first; when it is done.
    pub fn work(&mut self, now: Time, took: Time) -> Time {
        self.processor_busy += took;
        match self.cores.iter_mut().min() {
            Some(core) => {
                *core = now.max(*core) + took;
                *core
            }
            None => now + took,
        }
    }

    /// When the last byte has left, if they are ready to go at `at`.
    pub fn send(&mut self, at: Time, bytes: u64, bytes_per_second: u64) -> Time {
        self.sent += bytes;
        self.sending_until = at.max(self.sending_until) + bytes * 1_000_000_000 / bytes_per_second;
        self.sending_until
    }

    /// When the last byte is here. Receiving overlaps with sending: only what other senders take adds to it.
    pub fn receive(&mut self, at: Time, bytes: u64, bytes_per_second: u64) -> Time {
        let took = bytes * 1_000_000_000 / bytes_per_second;
        self.receiving_until = at.max(self.receiving_until + took);
        self.receiving_until
    }

    /// Busy cores until `end`, of all.
    pub fn processor_share(&self, end: f64) -> f64 {
        self.processor_busy as f64 / self.cores.len() as f64 / end
    }

    /// Where a peer is in `peers`; `hint` is where it is while all machines are active.
    pub fn find(&self, hint: usize, peer: NodeId) -> Option<usize> {
        if self.peers.get(hint).is_some_and(|candidate| candidate.node == peer) {
            return Some(hint);
        }
        self.peers.binary_search_by_key(&peer, |candidate| candidate.node).ok()
    }

    pub fn report(&mut self, hint: usize, peer: NodeId, load: Load) {
        if let Some(at) = self.find(hint, peer) {
            self.peers[at].load = load;
        }
    }

    pub fn die(&mut self) {
        self.up = false;
        self.disk.lose();
    }

    pub fn start(&mut self, now: Time) {
        self.up = true;
        self.life += 1;
        self.cores.fill(now);
        self.sending_until = now;
        self.receiving_until = now;
        self.redelivery = Redelivery::default();
        self.pushing.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MILLISECOND;

    fn disk() -> Disk<u32> {
        Disk::new(DiskSpeed { flush: 10, read: 7, bytes_per_second: 1_000_000_000 }, 2)
    }

    #[test]
    fn what_waits_while_a_group_is_flushed_becomes_the_next_group() {
        let mut disk = disk();
        let request = |waiter| Request { waiter, bytes: 5 };
        assert_eq!(disk.commit(request(1), 100), Some(115));
        assert_eq!(disk.commit(request(2), 101), None);
        assert_eq!(disk.commit(request(3), 102), None);
        assert_eq!(disk.load().pending, 3);
        assert_eq!(disk.done(), [1]);
        assert_eq!(disk.begin(115), Some(135));
        assert_eq!(disk.done(), [2, 3]);
        assert_eq!((disk.begin(135), disk.flushes), (None, 2));
    }

    #[test]
    fn reads_and_groups_take_turns() {
        let mut disk = disk();
        for waiter in 0..4 {
            disk.read(Request { waiter, bytes: 0 }, 0);
        }
        for waiter in 10..12 {
            disk.commit(Request { waiter, bytes: 0 }, 0);
        }
        let mut order = vec![disk.done()];
        while disk.begin(0).is_some() {
            order.push(disk.done());
        }
        assert_eq!(order, [vec![0], vec![10, 11], vec![1], vec![2], vec![3]]);
    }

    #[test]
    fn cores_work_side_by_side_and_the_interface_one_byte_after_the_other() {
        let mut machine: Machine<u32> = Machine::new(NodeId(1), &Hardware::SMALL, DiskSpeed::MAGNETIC);
        let ends: Vec<Time> = (0..3).map(|_| machine.work(0, MILLISECOND)).collect();
        assert_eq!(ends, [MILLISECOND, MILLISECOND, 2 * MILLISECOND]);
        assert_eq!(machine.send(0, 1_000, 1_000_000_000), 1_000);
        assert_eq!(machine.send(0, 1_000, 1_000_000_000), 2_000);
        assert_eq!(machine.receive(5_000, 1_000, 1_000_000_000), 5_000);
        assert_eq!(machine.receive(5_000, 1_000, 1_000_000_000), 6_000);
    }
}
