//! What befalls a cluster: each fault begins at a random time, lasts a random while and ends. Anything may
//! overlap with anything, except that in one history only one machine's disk loses or forgets what it had
//! synced: the promises hold while fewer than `minCopies` disks are lost at a time.

use crate::dice::Dice;
use crate::leases::LeaseConditions;
use crate::network::Conditions;
use crate::world::World;
use std::collections::BTreeMap;
use std::time::Duration;
use storage::MemoryDisk;
use storage::disk::{Crash, Fault};

enum Act {
    /// Something else goes wrong.
    Next,
    Start(usize),
    Resume(usize),
    Join(Vec<(usize, usize)>),
    Calm,
    Hurry(usize),
    LeasesBack,
    Room(usize),
    /// The machine whose disk stopped in the middle of a write goes down, too.
    Down(usize),
    /// Somebody looks after logs that take no more writes.
    Rounds,
    /// Somebody wants a node drained, and some time later does not.
    Drain,
    Undrain(usize),
}

/// What kinds of faults a history has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    None,
    /// All that leaves synced bytes alone.
    Gentle,
    /// One machine's disk is also lost, rots or goes back to an older state.
    Destructive,
}

pub struct Faults {
    dice: Dice,
    /// Of joins and drains, which were there later than the others: a change of one part must not shuffle the rest.
    people: Dice,
    kinds: Kinds,
    agenda: BTreeMap<(Duration, u64), Act>,
    serial: u64,
    victim: usize,
    destroyed: bool,
    snapshot: Option<MemoryDisk>,
    pub count: usize,
}

impl Faults {
    pub fn new(mut dice: Dice, people: Dice, kinds: Kinds, world: &mut World) -> Self {
        let victim = dice.below(world.hosts.len());
        for host in &mut world.hosts {
            host.drift = dice.below(400) as i64 - 200;
            host.machine.ahead.set(dice.below(1_000) as i64 - 500);
        }
        let duplicate = if dice.one_in(2) { 50 } else { 0 };
        world.network.lock().conditions.duplicate = duplicate;
        let agenda = BTreeMap::new();
        let mut faults = Self {
            dice,
            people,
            kinds,
            agenda,
            serial: 0,
            victim,
            destroyed: false,
            snapshot: None,
            count: 0,
        };
        faults.plan(world.now, Duration::from_millis(500), Act::Next);
        faults.plan(world.now, Duration::from_secs(1), Act::Rounds);
        let joining: Vec<usize> = (0..world.hosts.len()).filter(|&host| !world.is_up(host)).collect();
        for host in joining {
            let pause = faults.people.millis(500, 15_000);
            faults.plan(world.now, pause, Act::Start(host));
        }
        if faults.people.one_in(3) {
            let pause = faults.people.millis(500, 10_000);
            faults.plan(world.now, pause, Act::Drain);
        }
        faults
    }

    fn plan(&mut self, now: Duration, after: Duration, act: Act) {
        self.serial += 1;
        self.agenda.insert((now + after, self.serial), act);
    }

    pub fn step(&mut self, world: &mut World) {
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= world.now) {
            let act = entry.remove();
            self.carry_out(world, act);
        }
    }

    fn carry_out(&mut self, world: &mut World, act: Act) {
        let now = world.now;
        match act {
            Act::Next => {
                if self.kinds != Kinds::None {
                    self.count += 1;
                    self.begin(world);
                }
                let pause = self.dice.millis(200, 4_000);
                self.plan(now, pause, Act::Next);
            }
            Act::Start(host) => {
                if !world.start(host) {
                    self.plan(now, Duration::from_secs(2), Act::Start(host));
                }
            }
            Act::Resume(host) => {
                if world.stopped.remove(&host) {
                    world.tell(format_args!("node-{host} goes on"));
                }
            }
            Act::Join(links) => {
                world.tell(format_args!("links are whole again: {links:?}"));
                let mut network = world.network.lock();
                for link in links {
                    network.conditions.cut.remove(&link);
                }
            }
            Act::Calm => {
                world.tell("the network is calm");
                let mut network = world.network.lock();
                (network.conditions.lose, network.conditions.delay) = (0, 0);
            }
            Act::Hurry(host) => {
                world.tell(format_args!("node-{host} is fast again"));
                world.network.lock().conditions.slow.remove(&host);
            }
            Act::LeasesBack => {
                world.tell("the Lease service is well");
                world.leases.set(LeaseConditions::default());
            }
            Act::Room(host) => {
                world.tell(format_args!("the disk of node-{host} has room"));
                if let Some(host) = world.hosts.get(host) {
                    host.disk.set_capacity(None);
                }
            }
            Act::Down(host) => {
                let seed = self.dice.roll();
                world.crash(host, Crash::Tear { seed });
                let pause = self.dice.millis(200, 8_000);
                self.plan(now, pause, Act::Start(host));
            }
            Act::Rounds => {
                self.restart_failed(world);
                self.plan(now, Duration::from_secs(1), Act::Rounds);
            }
            Act::Drain => {
                let host = self.people.below(world.hosts.len());
                world.drain(host, true);
                let pause = self.people.millis(1_000, 30_000);
                self.plan(now, pause, Act::Undrain(host));
            }
            Act::Undrain(host) => {
                // A node that is down has its wish on its disk.
                if !world.drain(host, false) {
                    self.plan(now, Duration::from_secs(1), Act::Undrain(host));
                }
            }
        }
    }

    fn restart_failed(&mut self, world: &mut World) {
        for host in 0..world.hosts.len() {
            if world.hosts[host].has_failed() {
                world.tell(format_args!("the log of node-{host} takes no more writes, or is put aside"));
                world.crash(host, Crash::LoseUnsynced);
                self.plan(world.now, Duration::from_millis(500), Act::Start(host));
            }
        }
    }

    #[allow(clippy::too_many_lines)]
    fn begin(&mut self, world: &mut World) {
        let now = world.now;
        let hosts = world.hosts.len();
        let host = self.dice.below(hosts);
        let kinds = if self.kinds == Kinds::Destructive { 15 } else { 13 };
        match self.dice.below(kinds) {
            0 | 1 => {
                let seed = self.dice.roll();
                let crashes = [Crash::LoseUnsynced, Crash::KeepAll, Crash::Tear { seed }];
                let crash = self.dice.pick(&crashes).copied().unwrap_or(Crash::KeepAll);
                let again = self.dice.millis(100, 12_000);
                world.crash(host, crash);
                self.plan(now, again, Act::Start(host));
            }
            2 => {
                let disk = &world.hosts[host].disk;
                disk.inject(Some(Fault::DownAt(disk.calls() + self.dice.below(12) as u64)));
                world.tell(format_args!("the disk of node-{host} will stop in the middle of a write"));
                let pause = self.dice.millis(100, 2_000);
                self.plan(now, pause, Act::Down(host));
            }
            3 => {
                let disk = &world.hosts[host].disk;
                disk.inject(Some(Fault::SyncAt(disk.calls() + self.dice.below(12) as u64)));
                world.tell(format_args!("a sync of node-{host} will fail"));
            }
            4 | 5 => {
                if world.is_up(host) && world.stopped.insert(host) {
                    world.tell(format_args!("node-{host} stops"));
                    let pause = self.dice.millis(100, 9_000);
                    self.plan(now, pause, Act::Resume(host));
                }
            }
            6 => {
                let side = 1 + self.dice.below((1 << hosts) - 2);
                let left = |host: usize| side >> host & 1 == 1;
                let mut links = Vec::new();
                for from in 0..hosts {
                    links.extend((0..hosts).filter(|&to| left(from) != left(to)).map(|to| (from, to)));
                }
                self.cut(world, links);
            }
            7 => {
                let other = self.dice.below(hosts);
                let mut links = vec![(host, other)];
                if self.dice.one_in(2) {
                    links.push((other, host));
                }
                self.cut(world, links);
            }
            8 => {
                let (lose, delay) = (20 + self.dice.below(200), 4 + self.dice.below(40));
                world.tell(format_args!("one message in {lose} is lost, one in {delay} late"));
                let mut network = world.network.lock();
                (network.conditions.lose, network.conditions.delay) = (lose, delay);
                drop(network);
                let pause = self.dice.millis(500, 10_000);
                self.plan(now, pause, Act::Calm);
            }
            9 => {
                let slow = self.dice.millis(10, 600);
                world.tell(format_args!("node-{host} is slow: {slow:?}"));
                world.network.lock().conditions.slow.insert(host, slow);
                let pause = self.dice.millis(500, 10_000);
                self.plan(now, pause, Act::Hurry(host));
            }
            10 => {
                let large = self.dice.one_in(6);
                let range = if large { 40_000 } else { 4_000 };
                let ahead = self.dice.below(range) as i64 - range as i64 / 2;
                world.tell(format_args!("the clock of node-{host} is {ahead} ms ahead"));
                world.hosts[host].machine.ahead.set(ahead);
            }
            11 => {
                let conditions = match self.dice.below(3) {
                    0 => LeaseConditions { away: true, ..LeaseConditions::default() },
                    1 => LeaseConditions { slow: self.dice.millis(100, 1_500), ..LeaseConditions::default() },
                    _ => LeaseConditions { stale: true, ..LeaseConditions::default() },
                };
                world.tell(format_args!("Lease service: {conditions:?}"));
                world.leases.set(conditions);
                let pause = self.dice.millis(500, 12_000);
                self.plan(now, pause, Act::LeasesBack);
            }
            12 => {
                let used: u64 = {
                    let space = storage::Disk::space(&world.hosts[host].disk).unwrap_or_default();
                    space.total.saturating_sub(space.available)
                };
                let left = self.dice.below(4_000) as u64;
                world.tell(format_args!("the disk of node-{host} is full but for {left} bytes"));
                world.hosts[host].disk.set_capacity(Some(used + left));
                let pause = self.dice.millis(500, 8_000);
                self.plan(now, pause, Act::Room(host));
            }
            _ => self.destroy(world),
        }
    }

    fn cut(&mut self, world: &mut World, links: Vec<(usize, usize)>) {
        world.tell(format_args!("links are cut: {links:?}"));
        world.network.lock().conditions.cut.extend(links.iter().copied());
        let pause = self.dice.millis(300, 12_000);
        self.plan(world.now, pause, Act::Join(links));
    }

    /// Something that only a disk of which there are other copies may suffer, and once.
    fn destroy(&mut self, world: &mut World) {
        let victim = self.victim;
        if self.destroyed {
            return;
        }
        let again = self.dice.millis(200, 8_000);
        match self.dice.below(4) {
            0 => {
                world.tell(format_args!("the disk of node-{victim} is copied"));
                self.snapshot = Some(world.hosts[victim].disk.after(Crash::LoseUnsynced));
                return;
            }
            1 => {
                let disk = &world.hosts[victim].disk;
                let mut names = storage::Disk::list(disk).unwrap_or_default();
                names.sort();
                let Some(name) = self.dice.pick(&names) else { return };
                let length = disk.contents(name).map_or(0, |bytes| bytes.len());
                let at = self.dice.below(length) as u64;
                let flipped = disk.flip(name, at, (self.dice.roll() % 8) as u8);
                world.tell(format_args!("a bit of node-{victim} rots: {name} at {at}: {flipped}"));
            }
            2 => {
                world.crash(victim, Crash::LoseUnsynced);
                world.hosts[victim].disk = MemoryDisk::new();
                world.tell(format_args!("the disk of node-{victim} is lost"));
                self.plan(world.now, again, Act::Start(victim));
            }
            _ => {
                let Some(snapshot) = self.snapshot.take() else { return };
                world.crash(victim, Crash::LoseUnsynced);
                world.hosts[victim].disk = snapshot;
                world.tell(format_args!("the disk of node-{victim} is an old copy of itself"));
                self.plan(world.now, again, Act::Start(victim));
            }
        }
        self.destroyed = true;
    }

    /// Failures stop: everything is repaired and switched on, but sometimes one machine only after a time in which it is replaced,
    /// and in which leases of parts run out and the trash is emptied.
    pub fn end(&mut self, world: &mut World) {
        world.tell("failures stop");
        self.agenda.clear();
        world.network.lock().conditions = Conditions::default();
        world.leases.set(LeaseConditions::default());
        world.stopped.clear();
        let absent = self.people.one_in(8).then(|| self.people.below(world.hosts.len()));
        for host in 0..world.hosts.len() {
            world.hosts[host].machine.ahead.set(0);
            world.hosts[host].disk.set_capacity(None);
            // A disk that was to stop, or to fail, is replaced by a whole one, with the process.
            world.hosts[host].disk.inject(None);
            if absent == Some(host) {
                let away = self.people.millis(60_000, 84_000);
                world.crash(host, Crash::KeepAll);
                let already = world.now.saturating_sub(world.hosts[host].last_member);
                let again = away.saturating_sub(already);
                world.tell(format_args!("node-{host} stays away for {again:?}"));
                self.plan(world.now, again, Act::Start(host));
            } else if !world.start(host) {
                self.plan(world.now, Duration::from_secs(2), Act::Start(host));
            }
            self.plan(world.now, Duration::from_secs(1), Act::Undrain(host));
        }
        self.kinds = Kinds::None;
        self.plan(world.now, Duration::from_secs(1), Act::Rounds);
    }
}
