//! A mailbox's index and how it is brought up to date: fragments fetched ([`reading`]), UIDs reserved and given, changes made durable,
//! watchers told ([`numbering`]).

mod numbering;
mod reading;

pub use numbering::{admit_unread, make_durable, reserve, settle_and_notify};

use super::{UserCell, lock, rewrap};
use crate::crypto::Wrapping;
use crate::environment;
use crate::node::Node;
use crate::wire::{Failure, Numbered};
use cluster::{Bucket, Entry, Epoch, FolderId, Incarnation, MailboxIndex, NodeId, Timestamp, UserId};
use directory::Profile;
use reading::{HEARSAY, fetch_fragments, is_refilling, learn_certain};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// UIDs reserved at once; an unused rest is lost, which costs nothing.
const UID_BLOCK: u32 = 1_000;
/// A node that stands in for the manager cannot know what the manager does: it looks again this often.
const STAND_IN_FRESHNESS: Duration = Duration::from_millis(500);
/// How long an operation waits for what it needs to number new messages (a reservation needs the user
/// database, which may be waiting for a change of view).
pub const PATIENCE: Duration = Duration::from_secs(4);
pub const ANOTHER: &str = "another node manages this mailbox, too; try again";
/// Between two looks whether what is waited for is there.
const PAUSE: Duration = Duration::from_millis(100);

pub struct Mailbox {
    pub index: MailboxIndex,
    /// The fragments in the index, by node and life of the node.
    built_from: BTreeMap<NodeId, Incarnation>,
    /// The highest number that was read in each folder.
    met: BTreeMap<FolderId, u32>,
    /// Nodes whose fragment is not in the index, if they may have all copies of a message.
    unread: Vec<NodeId>,
    /// UIDs could not be made durable: not before this is it tried again.
    number_again: Option<Instant>,
    fetched: Option<Instant>,
    /// The profile whose reservations the index knows.
    profile: Option<Arc<Profile>>,
    /// When it was asked for, no newer state of it could be elsewhere.
    is_certain: bool,
    /// Live entries whose keys are wrapped otherwise than the account's mode asks for.
    pub misfits: rewrap::Misfits,
    /// How they should be wrapped.
    wanted: Option<Wrapping>,
    /// The view in which the index was last brought up to date.
    epoch: Option<Epoch>,
    begun: Instant,
}

impl Mailbox {
    pub fn new(user: UserId) -> Self {
        Self {
            index: MailboxIndex::new(user, environment::random()),
            built_from: BTreeMap::new(),
            met: BTreeMap::new(),
            unread: Vec::new(),
            number_again: None,
            fetched: None,
            profile: None,
            is_certain: false,
            misfits: rewrap::Misfits::default(),
            wanted: None,
            epoch: None,
            begun: Instant::now(),
        }
    }

    /// True if what was expunged since it was read, by others, may be forgotten soon: it has to be read anew before that.
    fn is_outdated(&self, node: &Node) -> bool {
        self.begun.elapsed() > node.healing.tombstone_lifetime() / 2
    }

    /// Lowest UIDs first: what comes together must not be shown in another order, or the lower ones would have to be
    /// renumbered.
    fn learn(&mut self, mut entries: Vec<Entry>) {
        entries.sort_by_key(|entry| entry.location.uid.map_or(u32::MAX, |uid| uid.number));
        for entry in entries {
            let id = entry.id;
            self.index.learn(entry);
            if let (Some(entry), Some(wanted)) = (self.index.entry(id), self.wanted) {
                self.misfits.look_at(entry, wanted);
            }
        }
    }

    /// True if one of these has a number above all that were met, given after `lately` (Unix milliseconds).
    fn meet_numbers(&mut self, told: &[Entry], lately: u64) -> bool {
        let mut news = false;
        for (folder, uid) in
            told.iter().filter_map(|entry| Some((entry.location.folder, entry.location.uid?)))
        {
            let met = self.met.entry(folder).or_default();
            news |= uid.number > *met && uid.assigned.unix_millis() > lately;
            *met = uid.number.max(*met);
        }
        news
    }

    /// True if every acknowledged change is in the index.
    pub const fn is_complete(&self) -> bool {
        self.unread.is_empty()
    }

    /// True if all reservations are known: what has numbers may be shown with them.
    pub const fn knows_reservations(&self) -> bool {
        self.is_certain
    }

    /// True if this node was not read and could tell more: one whose disk is being refilled will in a while only.
    fn waits_for(&self, node: &Node, id: NodeId) -> bool {
        self.unread.contains(&id) && !is_refilling(node, id)
    }

    /// A stamp for changes: above every MODSEQ that was shown.
    pub fn stamp(&self, node: &Node) -> Timestamp {
        let shown = Timestamp { ticks: self.index.highest_modseq(), node: node.id };
        if let Err(error) = node.clock.observe(shown) {
            tracing::error!(%error, "a MODSEQ is far in the future");
        }
        node.clock.now()
    }

    /// If another manager has reserved UIDs since we last heard, what it has numbered is only in the fragments.
    fn know(&mut self, node: &Node, profile: &Arc<Profile>) {
        let wanted = rewrap::wanted(node, profile);
        if self.wanted.replace(wanted).is_some_and(|before| before != wanted) {
            // Every entry is looked at once.
            self.misfits.clear();
            self.built_from.clear();
        }
        if self.profile.as_ref().is_some_and(|known| Arc::ptr_eq(known, profile)) {
            return;
        }
        for folder in profile.folders.values() {
            if self.index.set_reservations(folder.id, &folder.uid_blocks, folder.next_uid) {
                tracing::debug!(me = %node.id, user = %self.index.user(), folder = ?folder.id, next = folder.next_uid, "somebody has reserved UIDs");
                self.built_from.clear();
            }
        }
        self.profile = Some(profile.clone());
    }
}

/// Brings the index up to date: all fragments that can be reached, all deliveries we were told of, UIDs for all
/// as far as they can be reserved. Called at the start of every operation, under the user's lock.
///
/// # Errors
/// If nothing can be read of a mailbox that should be there, or the profile cannot be had; [`Failure::NotManager`] if we stood in for
/// a manager that answers again.
pub async fn refresh(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
) -> Result<Arc<Profile>, Failure> {
    cell.check_acting(node)?;
    if mailbox.is_outdated(node) {
        *mailbox = Mailbox::new(cell.user);
        // As old as that, and in the fragments, which are read next, unless they are gone from there and that is forgotten.
        lock(&cell.incoming).entries.clear();
    }
    {
        let mut incoming = lock(&cell.incoming);
        if std::mem::take(&mut incoming.overflowed) {
            mailbox.built_from.clear();
        }
        // From here on deliveries are noted; those from before are in the fragments that are fetched next.
        incoming.wanted = true;
    }
    let epoch = node.topology.now().view.epoch;
    let other_view = mailbox.epoch != Some(epoch);
    let standing_in = !node.topology.is_manager(cell.user);
    let is_old = mailbox.fetched.is_none_or(|at| at.elapsed() > STAND_IN_FRESHNESS);
    if other_view || standing_in && is_old {
        // Somebody else may have been, or be, at work: told of deliveries, and numbering them.
        mailbox.built_from.clear();
        if standing_in {
            node.manager.knowledge.doubt(Bucket::of_user(cell.user));
        }
        cell.profile.doubt();
    }
    let is_certain = node.users.is_certain(cell.user);
    if is_certain && !mailbox.is_certain {
        cell.profile.doubt();
    }
    let mut profile = cell.profile.current(node, cell.user).await?;
    mailbox.is_certain = is_certain;
    mailbox.know(node, &profile);
    fetch_fragments(node, cell, mailbox).await?;
    mailbox.epoch = Some(epoch);
    let incoming = std::mem::take(&mut lock(&cell.incoming).entries);
    learn_certain(node, mailbox, incoming, HEARSAY).await;
    if mailbox.index.is_behind() {
        // Which of our numbers count is in the profile only.
        profile = cell.profile.refreshed(node, cell.user).await?;
        mailbox.know(node, &profile);
        fetch_fragments(node, cell, mailbox).await?;
        // The state of the profile that we were given is old, or what was reserved is lost with a disk: nobody else is
        // given those numbers.
        for folder in mailbox.index.folders_behind() {
            if !profile.folders.contains_key(&folder) {
                continue;
            }
            profile = reserve(node, cell, mailbox, folder, UID_BLOCK).await?;
        }
    }
    let profile = settle_and_notify(node, cell, mailbox, profile).await;
    cell.check_acting(node)?;
    rewrap::begin(node, cell, mailbox, &profile);
    Ok(profile)
}

/// As [`refresh`], before messages are changed, or shown to a new session. Who stands in reads what the manager did just now: a flag
/// that is cleared is one that was set a moment ago, and a client that comes was shown what the manager shows.
///
/// # Errors
/// As [`refresh`].
pub async fn refresh_now(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
) -> Result<Arc<Profile>, Failure> {
    if !node.topology.is_manager(cell.user) {
        mailbox.fetched = None;
    }
    refresh(node, cell, mailbox).await
}

/// As [`refresh_now`], before a whole folder is shown: what was acknowledged, and waits for a number that could not be had or made
/// durable just now, is waited for, but not for longer than [`PATIENCE`]. A client that comes would take the folder for empty. So is
/// a profile that is surely the last one.
///
/// # Errors
/// As [`refresh`].
pub async fn refresh_whole(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    folder: FolderId,
) -> Result<Arc<Profile>, Failure> {
    let begun = Instant::now();
    loop {
        let profile = refresh_now(node, cell, mailbox).await?;
        let waits = mailbox.is_complete() && mailbox.index.is_incomplete(folder, true);
        if !waits && mailbox.knows_reservations() || begun.elapsed() > PATIENCE {
            return Ok(profile);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A delivery for a mailbox that sessions watch: index it now, so that they are told.
pub async fn settle_in_background(node: &Arc<Node>, cell: &UserCell) {
    for _ in 0..5 {
        let mut mailbox = cell.mailbox.lock().await;
        // Before the look: what comes in from here on begins a task of its own.
        cell.settling.store(false, Ordering::Release);
        if let Ok(profile) = refresh(node, cell, &mut mailbox).await
            && !mailbox.index.has_unsettled(&profile.folder_table())
        {
            return;
        }
        drop(mailbox);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The UID that an entry has got (APPENDUID).
pub async fn uid_of(node: &Arc<Node>, cell: &UserCell, entry: &Entry) -> Result<Option<Numbered>, Failure> {
    let mut mailbox = cell.mailbox.lock().await;
    mailbox.index.learn(entry.clone());
    let profile = refresh(node, cell, &mut mailbox).await?;
    let Some(known) = mailbox.index.entry(entry.id) else { return Ok(None) };
    let folder = profile.folders.get(&known.location.folder);
    Ok(known
        .location
        .uid
        .zip(folder)
        .map(|(uid, folder)| Numbered { uid_validity: folder.uid_validity, uid: uid.number }))
}
