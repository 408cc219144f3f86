//! What users do: mail comes in, and each has sessions that look, flag, copy, move and expunge, through any
//! node. A session whose node is gone goes on through another, with what it remembers.

use crate::dice::Dice;
use crate::model::{Account, Model, SeenFolder};
use crate::work::{Done, Work};
use crate::world::{Ticket, World};
use cluster::{EntryId, Flag, FolderId, UserId};
use mailnode::wire::{FolderInfo, Message, UserOp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A client waits no longer for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

struct Session {
    account: usize,
    host: usize,
    folder: FolderId,
    opened: bool,
    seen: BTreeMap<FolderId, SeenFolder>,
    folders: Vec<FolderInfo>,
    next: Duration,
    waiting: Option<Ticket>,
}

/// What was asked, with what the answer will be measured by.
#[derive(Clone)]
enum Asked {
    Deliver { number: i64, accounts: Vec<usize> },
    Append { account: usize, number: i64 },
    Session { session: usize, work: Box<Work>, entries: Vec<(u32, EntryId, i64)> },
}

pub struct Clients {
    pub model: Model,
    dice: Dice,
    /// Which expunges are those of POP3.
    pop: Dice,
    /// Messages that somebody may have moved: gone from INBOX need not be gone for good.
    moved: BTreeSet<EntryId>,
    sessions: Vec<Session>,
    asked: BTreeMap<u64, (Ticket, Asked)>,
    next_delivery: Duration,
    number: i64,
    /// Whether new work begins.
    pub busy: bool,
}

fn flag(number: usize) -> Flag {
    match number {
        0 => Flag::Seen,
        1 => Flag::Flagged,
        2 => Flag::Answered,
        other => Flag::Keyword(format!("k{other}")),
    }
}

impl Clients {
    pub fn new(mut dice: Dice, users: &[UserId], hosts: usize) -> Self {
        let mut model = Model::default();
        let mut sessions = Vec::new();
        for (account, &user) in users.iter().enumerate() {
            model.accounts.push(Account::new(user));
            for _ in 0..2 {
                sessions.push(Session {
                    account,
                    host: dice.below(hosts),
                    folder: FolderId::INBOX,
                    opened: false,
                    seen: BTreeMap::new(),
                    folders: Vec::new(),
                    next: Duration::ZERO,
                    waiting: None,
                });
            }
        }
        Self {
            model,
            pop: dice.fork("pop"),
            moved: BTreeSet::new(),
            dice,
            sessions,
            asked: BTreeMap::new(),
            next_delivery: Duration::ZERO,
            number: 0,
            busy: true,
        }
    }

    pub fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    pub fn step(&mut self, world: &mut World) {
        for (id, done) in world.finished() {
            if let Some((ticket, asked)) = self.asked.remove(&id) {
                let what = done.summary();
                world.tell(format_args!("#{id} node-{} {what}", ticket.host));
                let before = self.model.violations.len();
                self.learn(asked, Some(done));
                for violation in self.model.violations.iter().skip(before) {
                    world.tell(format_args!("#{id} breaks {violation}"));
                }
            }
        }
        let lost: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, (ticket, _))| world.is_lost(ticket) || world.now > ticket.begun + PATIENCE)
            .map(|(&id, _)| id)
            .collect();
        for id in lost {
            if let Some((ticket, asked)) = self.asked.remove(&id) {
                world.tell(format_args!("#{id} node-{} does not answer", ticket.host));
                self.learn(asked, None);
            }
        }
        if !self.busy {
            return;
        }
        if world.now >= self.next_delivery {
            self.next_delivery = world.now + self.dice.millis(20, 700);
            self.deliver(world);
        }
        for session in 0..self.sessions.len() {
            if self.sessions[session].waiting.is_none() && world.now >= self.sessions[session].next {
                self.act(world, session);
            }
        }
    }

    fn ask(&mut self, world: &mut World, host: usize, work: Work, asked: Asked) -> Option<Ticket> {
        let told = told(&work);
        let ticket = world.begin(host, work)?;
        world.tell(format_args!("#{} node-{host} {told}", ticket.id));
        self.asked.insert(ticket.id, (ticket, asked));
        Some(ticket)
    }

    fn body(&mut self, number: i64) -> Vec<u8> {
        let text = if self.dice.one_in(4) {
            "Subject: the same for many\r\n\r\nHello\r\n".to_owned()
        } else if self.dice.one_in(3) {
            // Big enough to be kept apart (host.rs), some of them in many messages.
            let attachment = format!("attachment {} ", self.dice.below(6)).repeat(40);
            let other = "y".repeat(self.dice.below(400));
            let part = |body: &str| format!("--b\r\nContent-Type: text/plain\r\n\r\n{body}\r\n");
            format!(
                "Subject: {number}\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n{}{}--b--\r\n",
                part(&attachment),
                part(&other)
            )
        } else {
            let length = if self.dice.one_in(12) { 40_000 } else { 200 };
            format!("Subject: {number}\r\n\r\n{}\r\n", "x".repeat(self.dice.below(length)))
        };
        self.model.bodies.insert(number, text.clone().into_bytes());
        text.into_bytes()
    }

    fn deliver(&mut self, world: &mut World) {
        self.number += 1;
        let number = self.number;
        let all = self.model.accounts.len();
        let mut accounts: Vec<usize> = (0..all).filter(|_| self.dice.one_in(2)).collect();
        if accounts.is_empty() {
            accounts.push(self.dice.below(all));
        }
        let host = self.dice.below(world.hosts.len());
        let body = self.body(number);
        if self.dice.one_in(4) {
            let account = accounts[0];
            let user = self.model.accounts[account].user;
            self.model.accounts[account].sent.entry(number).or_default();
            let work = Work::Append { user, folder: FolderId::INBOX, number, body };
            self.ask(world, host, work, Asked::Append { account, number });
            return;
        }
        let users = accounts.iter().map(|&account| self.model.accounts[account].user).collect();
        for &account in &accounts {
            self.model.accounts[account].sent.entry(number).or_default();
        }
        self.ask(world, host, Work::Deliver { users, number, body }, Asked::Deliver { number, accounts });
    }

    /// The next thing that a session does.
    fn act(&mut self, world: &mut World, index: usize) {
        let pause = self.dice.millis(50, 1_500);
        let hosts = world.hosts.len();
        // In what order tokio wakes several watchers of one channel depends on random numbers of its own.
        let (account, host) = (self.sessions[index].account, self.sessions[index].host);
        let alone = !self.sessions.iter().enumerate().any(|(other, session)| {
            other != index && (session.account, session.host) == (account, host) && session.waiting.is_some()
        });
        let session = &mut self.sessions[index];
        session.next = world.now + pause;
        if !world.is_up(session.host) || self.dice.one_in(20) {
            session.host = self.dice.below(hosts);
            session.opened = false;
        }
        let user = self.model.accounts[session.account].user;
        let (account, host, folder) = (session.account, session.host, session.folder);
        let mut entries = Vec::new();
        let work = if !session.opened {
            Work::Open { user, folder }
        } else {
            let seen = session.seen.entry(folder).or_default();
            let messages: Vec<Message> = seen.messages.values().cloned().collect();
            let (since, shown) = (seen.mark, seen.shown());
            let mut chosen = Vec::new();
            for _ in 0..=self.dice.below(2) {
                chosen.extend(self.dice.pick(&messages).cloned());
            }
            chosen.sort_by_key(|message| message.uid);
            chosen.dedup_by_key(|message| message.uid);
            let uids: Vec<u32> = chosen.iter().map(|message| message.uid).collect();
            entries =
                chosen.iter().map(|message| (message.uid, message.entry, message.internal_date)).collect();
            match self.dice.below(24) {
                0..=5 => Work::Sync { user, folder, since, shown, watch: alone },
                6..=9 => Work::Sync { user, folder, since, shown, watch: false },
                10..=14 if !uids.is_empty() => {
                    let flags = vec![flag(self.dice.below(5))];
                    Work::Store { user, folder, uids, flags, set: !self.dice.one_in(3) }
                }
                15 | 16 if !uids.is_empty() => {
                    if folder == FolderId::INBOX && self.pop.one_in(3) {
                        Work::PopQuit { user, messages: chosen }
                    } else {
                        Work::Expunge { user, folder, uids }
                    }
                }
                17..=19 if !uids.is_empty() => {
                    let targets: Vec<FolderId> = session.folders.iter().map(|info| info.id).collect();
                    let target = self.dice.pick(&targets).copied().unwrap_or(FolderId::INBOX);
                    let remove = self.dice.one_in(2) && target != folder;
                    Work::Copy { user, folder, uids, target, remove }
                }
                20 => {
                    let name = format!("f{}", self.dice.below(4));
                    let to = format!("f{}", self.dice.below(4));
                    let op = match self.dice.below(5) {
                        0 | 1 => UserOp::CreateFolder { name, special_use: None },
                        2 => UserOp::DeleteFolder { name },
                        3 => UserOp::RenameFolder { from: name, to },
                        _ => UserOp::Subscribe { name, subscribed: self.dice.one_in(2) },
                    };
                    Work::Change { user, op }
                }
                21 => {
                    session.opened = false;
                    session.folder = FolderId::INBOX;
                    let targets: Vec<FolderId> = session.folders.iter().map(|info| info.id).collect();
                    session.folder = self.dice.pick(&targets).copied().unwrap_or(FolderId::INBOX);
                    let folder = session.folder;
                    Work::Open { user, folder }
                }
                22 if !chosen.is_empty() => Work::Body { user, message: Box::new(chosen.swap_remove(0)) },
                23 => Work::Quota {
                    address: format!("user{account}@sim.test"),
                    bytes: 1 << (30 + self.dice.below(4)),
                },
                _ => Work::Folders { user },
            }
        };
        self.begins(account, &work, &entries, index);
        let asked = Asked::Session { session: index, work: Box::new(work.clone()), entries };
        self.sessions[index].waiting = self.ask(world, host, work, asked);
    }

    /// Before the request leaves: from here on it may happen.
    fn begins(&mut self, account: usize, work: &Work, entries: &[(u32, EntryId, i64)], session: usize) {
        match work {
            Work::Expunge { .. } | Work::PopQuit { .. } => {
                for &(_, entry, _) in entries {
                    self.model.expunge_begins(account, entry);
                }
            }
            Work::Copy { target, remove, .. } => {
                let folders = &self.sessions[session].folders;
                let lasts = |info: &FolderInfo| info.id == *target && info.special_use.is_some();
                let lasts = *target == FolderId::INBOX || folders.iter().any(lasts);
                for &(_, entry, number) in entries {
                    if *remove {
                        self.moved.insert(entry);
                    }
                    if !lasts {
                        self.model.put_begins(account, number);
                    }
                    if let (false, Some(sent)) = (remove, self.model.accounts[account].sent.get_mut(&number))
                    {
                        sent.copies_tried += 1;
                    }
                }
            }
            Work::Store { flags, .. } => {
                for &(_, entry, _) in entries {
                    self.model.flags_begin(account, entry, flags);
                }
            }
            Work::Change { op: UserOp::DeleteFolder { .. }, .. } => self.model.deletion_begins(account),
            _ => {}
        }
    }

    fn learn(&mut self, asked: Asked, done: Option<Done>) {
        match (asked, done) {
            (Asked::Deliver { number, accounts }, Some(Done::Delivered(outcomes))) => {
                for (user, outcome) in outcomes {
                    let account = accounts.iter().find(|&&account| self.model.accounts[account].user == user);
                    if let (Some(&account), Ok(_)) = (account, outcome) {
                        self.acknowledge(account, number);
                    }
                }
            }
            (Asked::Append { account, number }, Some(Done::Appended(Ok(_)))) => {
                self.acknowledge(account, number)
            }
            (Asked::Session { session, work, entries }, done) => {
                self.sessions[session].waiting = None;
                self.learn_in_session(session, &work, &entries, done);
            }
            _ => self.model.uncertain += 1,
        }
    }

    fn acknowledge(&mut self, account: usize, number: i64) {
        self.model.acknowledged += 1;
        self.model.accounts[account].sent.entry(number).or_default().acknowledged = true;
    }

    fn learn_in_session(
        &mut self,
        index: usize,
        work: &Work,
        entries: &[(u32, EntryId, i64)],
        done: Option<Done>,
    ) {
        let session = &mut self.sessions[index];
        let account = session.account;
        match (work, done) {
            (Work::Open { folder, .. }, Some(Done::Opened(Ok(opened)))) => {
                session.opened = true;
                let seen = session.seen.entry(*folder).or_default();
                self.model.reopened(account, *folder, seen, &opened);
            }
            (Work::Open { .. }, Some(Done::Opened(Err(_)))) => session.folder = FolderId::INBOX,
            (Work::Sync { folder, .. }, Some(Done::Synced(Ok(changes)))) => {
                let seen = session.seen.entry(*folder).or_default();
                self.model.synced(account, *folder, seen, &changes);
            }
            (Work::Sync { .. }, Some(Done::Synced(Err(_)))) => session.opened = false,
            (Work::Store { flags, set, .. }, done) => {
                let changes = match done {
                    Some(Done::Stored(Ok((changes, _)))) => Some(changes),
                    _ => None,
                };
                for &(uid, entry, _) in entries {
                    let changed = changes.as_ref().is_some_and(|changes| {
                        changes.iter().any(|message| message.uid == uid && message.entry == entry)
                    });
                    self.model.flags_end(account, entry, flags, changed.then_some(*set));
                }
            }
            (Work::Expunge { .. }, Some(Done::Expunged(Ok(gone)))) => {
                for &(_, entry, _) in entries.iter().filter(|(uid, ..)| gone.contains(uid)) {
                    self.model.expunge_acknowledged(account, entry);
                }
            }
            (Work::PopQuit { .. }, Some(Done::PopQuit(true))) => {
                for &(_, entry, _) in entries.iter().filter(|(_, entry, _)| !self.moved.contains(entry)) {
                    self.model.expunge_acknowledged(account, entry);
                }
            }
            (Work::Copy { remove: false, .. }, done) if !matches!(done, Some(Done::Copied(Ok(_)))) => {
                for (_, _, number) in entries {
                    if let Some(sent) = self.model.accounts[account].sent.get_mut(number) {
                        sent.copy_failed = true;
                    }
                }
                if done.is_none() {
                    self.sessions[index].opened = false;
                }
            }
            (Work::Folders { .. }, Some(Done::Folders(Ok(folders)))) => session.folders = folders,
            (Work::Body { message, .. }, Some(Done::Body(Ok(body)))) => self.body_read(message, &body),
            (_, None) => session.opened = false,
            _ => {}
        }
    }

    pub fn body_read(&mut self, message: &Message, body: &[u8]) {
        if self.model.bodies.get(&message.internal_date).is_none_or(|sent| sent != body) {
            let what = format!("message {} has another body", message.internal_date);
            self.model.violate("isolation", what);
        }
    }

    /// Folders that sessions have seen, with the sessions' views; they sync for the last time.
    pub fn views(&mut self) -> Vec<(usize, FolderId, &mut SeenFolder)> {
        let sessions = self.sessions.iter_mut();
        sessions
            .flat_map(|session| {
                let account = session.account;
                session.seen.iter_mut().map(move |(&folder, seen)| (account, folder, seen))
            })
            .collect()
    }
}

/// For the trace.
fn told(work: &Work) -> String {
    match work {
        Work::Deliver { users, number, body } => {
            format!("deliver message {number} of {} bytes to {users:?}", body.len())
        }
        Work::Append { user, folder, number, .. } => {
            format!("append message {number} to {folder:?} of {user}")
        }
        Work::PopQuit { user, messages } => {
            let uids: Vec<u32> = messages.iter().map(|message| message.uid).collect();
            format!("POP3 QUIT of {user}, marked {uids:?}")
        }
        Work::Body { user, message } => format!("read message {} of {user}", message.internal_date),
        other => format!("{other:?}"),
    }
}
