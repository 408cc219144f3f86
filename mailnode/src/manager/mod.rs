//! The manager of the users that the user map names this node for (DESIGN 1): profile soft state, mail maps,
//! mailbox indexes, subscribers. All of it soft: built on demand from profiles and fragments, dropped when idle or
//! when a view gives the users to somebody else.
//!
//! Operations on one mailbox are done one after the other under the user's lock; that is what sequences UIDs
//! and MODSEQs. Whatever they change is durable on replicas before it is visible.

pub mod account;
mod events;
mod fragments;
mod mailbox;
mod operations;
mod recipients;
mod rewrap;

pub use account::PASSWORD_CHECKS;
pub use fragments::BucketKnowledge;
pub use rewrap::wrap_keys;

use crate::locking::lock;
use crate::node::Node;
use crate::wire::{Failure, Numbered, UserOp, UserReply};
use account::ProfileCache;
use cluster::{Entry, NodeId, UserId, is_queue_user};
use events::Subscribers;
use mailbox::Mailbox;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// A mailbox that nobody used for so long is dropped from memory.
const IDLE: Duration = Duration::from_secs(300);
/// Entries waiting to be indexed; beyond it the index is rebuilt instead.
const INBOX_LIMIT: usize = 10_000;
/// What another node asked us to do for a manager that it did not reach takes no longer.
const ASKED_TO_ACT: Duration = Duration::from_secs(10);

/// One user's soft state.
pub struct UserCell {
    user: UserId,
    profile: ProfileCache,
    /// Entries that deliveries told us of, not yet in the index.
    incoming: Mutex<Incoming>,
    subscribers: Subscribers,
    /// A task is indexing what came in.
    settling: AtomicBool,
    /// A task is wrapping keys anew.
    rewrapping: AtomicBool,
    mailbox: tokio::sync::Mutex<Mailbox>,
    used: Mutex<Instant>,
    /// When another node last asked us to stand in for the manager.
    asked_to_act: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Incoming {
    /// False while there is no index: then there is no need to keep entries.
    wanted: bool,
    entries: Vec<Entry>,
    overflowed: bool,
}

impl UserCell {
    fn new(user: UserId) -> Self {
        Self {
            user,
            profile: ProfileCache::default(),
            incoming: Mutex::default(),
            subscribers: Subscribers::default(),
            settling: AtomicBool::new(false),
            rewrapping: AtomicBool::new(false),
            mailbox: tokio::sync::Mutex::new(Mailbox::new(user)),
            used: Mutex::new(Instant::now()),
            asked_to_act: Mutex::default(),
        }
    }

    /// Refuses to go on standing in for a manager that answers us: it and we would number the same messages. Another node may
    /// not reach it though we do, so for that we go on.
    fn check_acting(&self, node: &Node) -> Result<(), Failure> {
        let state = node.topology.now();
        let manager = state.user_map.manager_of(self.user).filter(|&manager| manager != node.id);
        let is_away = manager.is_none_or(|manager| node.topology.is_avoided(manager));
        if is_away || lock(&self.asked_to_act).is_some_and(|at| at.elapsed() < ASKED_TO_ACT) {
            return Ok(());
        }
        Err(Failure::NotManager(state.view.epoch))
    }

    /// Notes entries for the index. False if there is none: then they will be found in the fragments.
    fn incoming(&self, entries: Vec<Entry>) -> bool {
        let mut incoming = lock(&self.incoming);
        if incoming.wanted {
            if incoming.entries.len() + entries.len() > INBOX_LIMIT {
                incoming.overflowed = true;
                incoming.entries.clear();
            } else {
                incoming.entries.extend(entries);
            }
        }
        incoming.wanted
    }

    /// True if sessions watch the mailbox and nobody is indexing it already.
    fn begin_settling(&self) -> bool {
        self.subscribers.are_there() && !self.settling.swap(true, Ordering::AcqRel)
    }
}

/// All users that this node manages, or stands in for.
#[derive(Default)]
pub struct Manager {
    users: Mutex<BTreeMap<UserId, Arc<UserCell>>>,
    pub knowledge: BucketKnowledge,
    /// Users of whom a task tells the manager, for whom we stand in, that we reserved UIDs.
    telling: Mutex<BTreeSet<UserId>>,
}

impl Manager {
    fn cell(&self, user: UserId) -> Arc<UserCell> {
        let cell = lock(&self.users).entry(user).or_insert_with(|| Arc::new(UserCell::new(user))).clone();
        *lock(&cell.used) = Instant::now();
        cell
    }

    /// Users whose soft state is in memory.
    pub fn active_users(&self) -> usize {
        lock(&self.users).len()
    }

    /// Forgets everything about a user: the account is gone, or the index may not be trusted.
    pub fn forget(&self, user: UserId) {
        lock(&self.users).remove(&user);
    }

    /// This node, as a replica of the embedded user database, has written a profile, perhaps for somebody who stands in for
    /// us: of UIDs that were reserved we must know before we show anything.
    pub fn profile_written(&self, user: UserId) {
        if let Some(cell) = lock(&self.users).get(&user) {
            cell.profile.doubt();
        }
    }

    /// Notices did not reach us, or somebody else: what we know of fragments may be incomplete.
    pub fn notices_lost(&self) {
        for cell in lock(&self.users).values() {
            lock(&cell.incoming).overflowed = true;
        }
    }

    /// Drops what is idle, and what another node manages by the new view. Called every few seconds.
    pub fn sweep(&self, node: &Node) {
        let state = node.topology.now();
        lock(&self.users).retain(|user, cell| {
            let ours = state.user_map.manager_of(*user) == Some(node.id);
            let idle = lock(&cell.used).elapsed();
            Arc::strong_count(cell) > 1 || (ours && idle < IDLE) || idle < Duration::from_secs(5)
        });
    }

    /// Refuses users that somebody else manages, unless the caller could not reach the manager.
    fn check(&self, node: &Node, from: NodeId, user: UserId, acting: bool) -> Result<(), Failure> {
        if acting && from != node.id {
            *lock(&self.cell(user).asked_to_act) = Some(Instant::now());
        }
        if acting || node.topology.is_manager(user) {
            return Ok(());
        }
        Err(Failure::NotManager(node.topology.now().view.epoch))
    }

    /// An operation on a user's account, from a session at `from`.
    ///
    /// # Errors
    /// In the terms of [`Failure`].
    pub async fn operate(
        &self,
        node: &Arc<Node>,
        from: NodeId,
        user: UserId,
        op: UserOp,
        acting: bool,
    ) -> Result<UserReply, Failure> {
        node.membership.after_stop().await;
        self.check(node, from, user, acting)?;
        operations::run(node, &self.cell(user), from, op).await
    }

    /// Entries that are on disk now (DESIGN 2, step 7). With `number`, waits for their UIDs.
    ///
    /// # Errors
    /// [`Failure::NotManager`]; with `number` also what keeps the mailbox from being indexed.
    pub async fn notice(
        &self,
        node: &Arc<Node>,
        from: NodeId,
        entries: Vec<Entry>,
        number: bool,
        acting: bool,
    ) -> Result<Vec<Option<Numbered>>, Failure> {
        let mut by_user: BTreeMap<UserId, Vec<Entry>> = BTreeMap::new();
        for entry in &entries {
            self.check(node, from, entry.user, acting)?;
            self.knowledge.add(entry);
            if is_queue_user(entry.user) {
                node.outbound.heard(entry);
                continue;
            }
            by_user.entry(entry.user).or_default().push(entry.clone());
        }
        for (user, entries) in by_user {
            let known = lock(&self.users).get(&user).cloned();
            let Some(cell) = known.or_else(|| number.then(|| self.cell(user))) else { continue };
            if cell.incoming(entries) && !number && cell.begin_settling() {
                let node = node.clone();
                tokio::spawn(async move { mailbox::settle_in_background(&node, &cell).await });
            }
        }
        if !number {
            return Ok(Vec::new());
        }
        let mut numbered = Vec::with_capacity(entries.len());
        for entry in &entries {
            numbered.push(mailbox::uid_of(node, &self.cell(entry.user), entry).await?);
        }
        Ok(numbered)
    }
}
