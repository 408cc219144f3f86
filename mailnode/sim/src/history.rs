//! One history, from its seed to its verdict: a cluster begins, lives through its faults, is left in peace, and
//! must then keep every promise within a bounded time.

use crate::clients::Clients;
use crate::dice::Dice;
use crate::faults::{Faults, Kinds};
use crate::host::Times;
use crate::model::{SeenFolder, Violation, missed_change, same_view};
use crate::replicas::disagreement;
use crate::tamper::Tamper;
use crate::trace::{Print, Trace};
use crate::work::{Done, Work};
use crate::world::World;
use cluster::{FolderId, MemberState, UserId};
use directory::Credentials;
use mailnode::wire::Opened;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

/// Simulated time in which a cluster must be ready, and in which it must agree once failures stopped.
const READY: Duration = Duration::from_secs(30);
const AGREE: Duration = Duration::from_secs(240);
/// An answer when nothing is wrong, and one that is not to try again. A node whose clock was ahead is refused until
/// time has caught up.
const ANSWER: Duration = Duration::from_secs(15);
const SERVED: Duration = Duration::from_secs(60);
/// Copies of each message.
const COPIES: usize = 2;

/// What of a history does not follow from its seed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub print: Print,
    pub kinds: Option<Kinds>,
    pub tamper: Tamper,
}

impl Default for Options {
    fn default() -> Self {
        Self { print: Print::Nothing, kinds: None, tamper: Tamper::Nothing }
    }
}

#[derive(Clone, Debug)]
pub struct Verdict {
    pub seed: u64,
    pub violations: Vec<Violation>,
    /// Two runs of a seed have the same.
    pub hash: String,
    pub summary: String,
    /// The last lines of the trace.
    pub last: Vec<String>,
}

thread_local! {
    /// What panicked in this thread, since a node's own tasks swallow it.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes panics, for all threads, in place of printing them.
pub fn note_panics() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        std::panic::set_hook(Box::new(|info| PANICS.with_borrow_mut(|panics| panics.push(info.to_string()))));
    });
}

struct History {
    world: World,
    clients: Clients,
    users: Vec<UserId>,
}

pub fn run(seed: u64, options: Options) -> Verdict {
    note_panics();
    PANICS.with_borrow_mut(Vec::clear);
    let dice = Dice::new(seed);
    let mut trace = Trace::new(options.print);
    trace.tell(Duration::ZERO, format_args!("seed {seed}"));
    let mut shape = dice.fork("shape");
    let hosts = 3 + shape.below(3);
    let zones = shape.one_in(3);
    let accounts = 1 + shape.below(3);
    let kinds = [Kinds::Gentle, Kinds::Gentle, Kinds::Destructive, Kinds::None];
    let kinds = options.kinds.or(shape.pick(&kinds).copied()).unwrap_or(Kinds::Gentle);
    let length = shape.millis(8_000, 30_000);
    // A lost disk, and a machine that stays away for too long, may be both copies.
    let times = if kinds == Kinds::Destructive { Times::LONG } else { Times::SHORT };
    // The last one joins later.
    let first = hosts - usize::from(hosts > 3 && shape.one_in(3));
    let broken = |what: String| Verdict {
        seed,
        violations: vec![Violation { invariant: "available", what }],
        hash: String::new(),
        summary: String::new(),
        last: Vec::new(),
    };
    // Tampering begins with the faults: a cluster has to begin first.
    let mut world = match World::new(hosts, zones, times, &dice, Tamper::Nothing, trace) {
        Ok(world) => world,
        Err(error) => return broken(error),
    };
    let users = match begin(&mut world, first, accounts) {
        Ok(users) => users,
        Err(error) => return broken(format!("at the beginning: {error}")),
    };
    world.network.lock().tamper = options.tamper;
    let clients = Clients::new(dice.fork("clients"), &users, hosts);
    let mut history = History { world, clients, users };
    let mut faults = Faults::new(dice.fork("faults"), dice.fork("people"), kinds, &mut history.world);
    let end = history.world.now + length;
    while history.world.now < end {
        history.world.tick();
        faults.step(&mut history.world);
        history.clients.step(&mut history.world);
    }
    let count = faults.count;
    faults.end(&mut history.world);
    history.settle(&mut faults);
    let agreed = history.world.now;
    history.check();
    for panic in PANICS.take() {
        history.clients.model.violate("no panic", panic);
    }
    let model = &history.clients.model;
    let mut network = history.world.network.lock();
    let summary = format!(
        "{hosts} nodes, {accounts} users, {kinds:?}, {count} faults, {} acknowledged, {} not, agreed {:.1} s after the end; {} events",
        model.acknowledged,
        model.uncertain,
        agreed.saturating_sub(end).as_secs_f64(),
        network.trace.events,
    );
    let now = history.world.now;
    for violation in &model.violations {
        network.trace.tell(now, format_args!("VIOLATION {violation}"));
    }
    let last = network.trace.last().map(str::to_owned).collect();
    Verdict { seed, violations: model.violations.clone(), hash: network.trace.digest(), summary, last }
}

fn ready(world: &World, first: usize) -> bool {
    world.hosts.iter().take(first).all(|host| {
        let Some(node) = host.node() else { return false };
        let state = node.topology.now();
        let active = state.view.members.iter().filter(|member| member.state == MemberState::Active);
        active.count() == first && node.users.buckets_left() == 0
    })
}

/// The first nodes start, a domain and the accounts are made.
fn begin(world: &mut World, first: usize, accounts: usize) -> Result<Vec<UserId>, String> {
    for host in 0..first {
        if !world.start(host) {
            return Err(format!("node-{host} does not start"));
        }
    }
    while !ready(world, first) {
        if world.now > READY {
            return Err("the cluster does not form".into());
        }
        world.tick();
    }
    world.tell("the cluster is ready");
    // Nobody logs in, and a hashed password would be another each time.
    let credentials = Credentials::Locked;
    let (sender, receiver) = std::sync::mpsc::channel();
    let node = world.hosts.first().and_then(|host| host.node()).cloned().ok_or("no node")?;
    if let Some(host) = world.hosts.first() {
        host.spawn(async move {
            let made = async {
                node.users.add_domain("sim.test").await?;
                let mut users = Vec::new();
                for number in 0..accounts {
                    let address = format!("user{number}@sim.test");
                    users.push(node.users.add_account(&address, credentials.clone(), 0).await?.id);
                }
                Ok::<_, mailnode::wire::Failure>(users)
            };
            let _ = sender.send(made.await);
        });
    }
    let begun = world.now;
    loop {
        world.tick();
        if let Ok(outcome) = receiver.try_recv() {
            return outcome.map_err(|failure| format!("accounts: {failure}"));
        }
        if world.now > begun + READY {
            return Err("accounts cannot be made".into());
        }
    }
}

impl History {
    /// Runs until clients have their answers and the nodes agree.
    fn settle(&mut self, faults: &mut Faults) {
        self.clients.busy = false;
        let begun = self.world.now;
        let mut look = begun;
        loop {
            self.world.tick();
            faults.step(&mut self.world);
            self.clients.step(&mut self.world);
            if self.world.now < look {
                continue;
            }
            look = self.world.now + Duration::from_secs(1);
            let why = disagreement(&self.world, &self.users, COPIES);
            match why {
                None if self.clients.is_idle() => {
                    self.world.tell("the nodes agree");
                    return;
                }
                Some(why) if self.world.now > begun + AGREE => {
                    self.clients.model.violate("convergent", format!("after {AGREE:?}: {why}"));
                    return;
                }
                _ => {}
            }
        }
    }

    /// One thing done while nothing is wrong, again if the node says so.
    fn ask(&mut self, host: usize, work: Work) -> Option<Done> {
        let told = shortened(&format!("{work:?}"));
        let begun = self.world.now;
        loop {
            let done = self.ask_once(host, work.clone(), &told)?;
            if done.is_to_be_repeated() && self.world.now < begun + SERVED {
                self.pause(Duration::from_secs(1));
                continue;
            }
            let summary = done.summary();
            self.world.tell(format_args!("check: node-{host} {told}: {summary}"));
            if summary.starts_with("NO") {
                self.clients.model.violate("available", format!("node-{host}: {told}: {summary}"));
            }
            return Some(done);
        }
    }

    fn ask_once(&mut self, host: usize, work: Work, told: &str) -> Option<Done> {
        let ticket = self.world.begin(host, work)?;
        let begun = self.world.now;
        while self.world.now < begun + ANSWER {
            self.world.tick();
            if let Some((_, done)) = self.world.finished().into_iter().find(|(id, _)| *id == ticket.id) {
                return Some(done);
            }
        }
        let what = format!("node-{host}: {told}: no answer in {ANSWER:?}");
        self.clients.model.violate("available", what);
        None
    }

    fn pause(&mut self, time: Duration) {
        let begun = self.world.now;
        while self.world.now < begun + time {
            self.world.tick();
        }
    }

    /// All of an account's mail, as a client at this node sees it.
    fn mailbox(&mut self, host: usize, user: UserId) -> Option<BTreeMap<FolderId, Opened>> {
        let Some(Done::Folders(Ok(folders))) = self.ask(host, Work::Folders { user }) else { return None };
        let mut opened = BTreeMap::new();
        for folder in folders {
            let folder = folder.id;
            let Some(Done::Opened(Ok(view))) = self.ask(host, Work::Open { user, folder }) else {
                return None;
            };
            opened.insert(folder, view);
        }
        Some(opened)
    }

    fn check(&mut self) {
        for account in 0..self.users.len() {
            self.check_account(account);
        }
        self.check_sessions();
        self.check_deliveries();
    }

    /// All nodes show the same, all of what was promised, and its bodies.
    fn check_account(&mut self, account: usize) {
        let user = self.users[account];
        let begun = self.world.now;
        let shown = loop {
            let hosts = 0..self.world.hosts.len();
            let shown: Vec<_> = hosts.filter_map(|host| Some((host, self.mailbox(host, user)?))).collect();
            let Some(difference) = difference(&shown) else { break shown };
            if self.world.now > begun + SERVED {
                self.clients.model.violate("convergent", format!("of {user}, {difference}"));
                break shown;
            }
            self.pause(Duration::from_secs(1));
        };
        let Some((_, first)) = shown.into_iter().next() else { return };
        self.clients.model.check(account, &first);
        let hosts = self.world.hosts.len();
        for (number, message) in first.into_values().flat_map(|opened| opened.messages).enumerate() {
            let work = Work::Body { user, message: Box::new(message.clone()) };
            if let Some(Done::Body(Ok(body))) = self.ask(number % hosts, work) {
                self.clients.body_read(&message, &body);
            }
        }
    }

    /// Clients that only synced since long ago see what new ones see.
    fn check_sessions(&mut self) {
        let views: Vec<(usize, FolderId, SeenFolder)> = self
            .clients
            .views()
            .into_iter()
            .map(|(account, folder, seen)| (account, folder, seen.clone()))
            .collect();
        for (account, folder, mut seen) in views {
            let user = self.users[account];
            let Some(Done::Folders(Ok(folders))) = self.ask(0, Work::Folders { user }) else { continue };
            if !folders.iter().any(|info| info.id == folder) || seen.uid_validity == 0 {
                continue;
            }
            let modseq = seen.highest_modseq;
            if let Some(Done::Opened(Ok(opened))) = self.ask(0, Work::Open { user, folder })
                && opened.uid_validity == seen.uid_validity
                && let Some(Done::CertainlyTold(Ok(told))) =
                    self.ask(0, Work::CertainlyTold { user, folder, modseq })
                && let Some(what) = missed_change(&seen, &opened, told)
            {
                let what = format!("a client that comes back to folder {folder:?} of {user}: {what}");
                self.clients.model.violate("IMAP order", what);
            }
            if let Some(what) = self.sync_until_same(account, folder, &mut seen) {
                let what = format!("a session's view of folder {folder:?} of {user}: {what}");
                self.clients.model.violate("IMAP order", what);
            }
        }
    }

    /// What is between a session's view and a new one's. Messages may get other UIDs between two looks, when a manager
    /// hears of numbers that another one had reserved; so it looks again.
    fn sync_until_same(&mut self, account: usize, folder: FolderId, seen: &mut SeenFolder) -> Option<String> {
        let user = self.users[account];
        let begun = self.world.now;
        loop {
            let (since, shown) = (seen.mark, seen.shown());
            let synced = self.ask(0, Work::Sync { user, folder, since, shown, watch: false });
            let Some(Done::Synced(Ok(changes))) = synced else { return None };
            self.clients.model.synced(account, folder, seen, &changes);
            let Some(Done::Opened(Ok(opened))) = self.ask(0, Work::Open { user, folder }) else {
                return None;
            };
            match same_view(seen, &opened) {
                Ok(()) => return None,
                Err(what) if self.world.now > begun + SERVED => return Some(what),
                Err(_) => self.pause(Duration::from_secs(1)),
            }
        }
    }

    /// Every node takes mail for everybody.
    fn check_deliveries(&mut self) {
        for host in 0..self.world.hosts.len() {
            let users = self.users.clone();
            let number = 1_000_000 + host as i64;
            let body = b"Subject: after all\r\n\r\n".to_vec();
            let Some(Done::Delivered(outcomes)) = self.ask(host, Work::Deliver { users, number, body })
            else {
                continue;
            };
            for (user, outcome) in outcomes {
                if let Err(failure) = outcome {
                    let what = format!("node-{host} takes no mail for {user}: {failure}");
                    self.clients.model.violate("available", what);
                }
            }
        }
    }
}

/// What clients see of a mailbox.
fn shape(mailbox: &BTreeMap<FolderId, Opened>) -> Vec<(FolderId, u32, Vec<String>)> {
    let line =
        |message: &mailnode::wire::Message| format!("{} {} {:?}", message.uid, message.entry, message.flags);
    let folders = mailbox.iter();
    folders
        .map(|(&id, opened)| (id, opened.uid_validity, opened.messages.iter().map(line).collect()))
        .collect()
}

/// How a node's mail differs from the first one's.
fn difference(shown: &[(usize, BTreeMap<FolderId, Opened>)]) -> Option<String> {
    let (_, first) = shown.first()?;
    let first = shape(first);
    shown.iter().find_map(|(host, mailbox)| {
        let mailbox = shape(mailbox);
        let (was, now) = first.iter().zip(&mailbox).find(|(was, now)| was != now)?;
        Some(format!("node-{host} shows {now:?}, not {was:?}"))
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(1200).collect()
}
