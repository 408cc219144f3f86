//! A mailbox's index and how it is brought up to date: fragments fetched, UIDs reserved and given, changes made
//! durable, watchers told.

use super::{UserCell, events, lock, rewrap};
use crate::crypto::Wrapping;
use crate::environment;
use crate::node::{CallError, Node};
use crate::wire::{Failure, Numbered, Request, Response, UserOp};
use cluster::{Bucket, Entry, Epoch, FolderId, Incarnation, MailboxIndex, NodeId, Timestamp, UserId};
use directory::Profile;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

const FRAGMENT_DEADLINE: Duration = Duration::from_secs(5);
/// Fragments are read one after another, and numbers that another manager gives meanwhile may be in one and lower ones not yet in
/// the other: all are read again, so many times, while there are new numbers that were given so lately.
const READ_AGAIN: usize = 3;
const JUST_NUMBERED: Duration = Duration::from_secs(30);
/// That a message is gone may be known to one disk only, if an expunge failed or a delivery was taken back. Replicas tell each other
/// within seconds, or as soon as they are back; a tombstone that is older is not looked at.
const JUST_EXPUNGED: Duration = Duration::from_secs(600);
/// Of what is told in passing nobody knows on how many disks it is.
const HEARSAY: usize = usize::MAX;
/// UIDs reserved at once; an unused rest is lost, which costs nothing.
const UID_BLOCK: u32 = 1_000;
/// A node that stands in for the manager cannot know what the manager does: it looks again this often.
const STAND_IN_FRESHNESS: Duration = Duration::from_millis(500);
/// A manager that is stood in for is not waited for longer, so many times; then it is told in the background, this often.
const TELL_DEADLINE: Duration = Duration::from_millis(300);
const TELL_TRIES: usize = 3;
const TELL_AGAIN: Duration = Duration::from_millis(500);
const NUMBER_AGAIN: Duration = Duration::from_millis(500);
/// How long numbers are not reserved because members that serve in the view are routed around and were not read. After a partition
/// they are back some time before a probe finds it out.
const READ_FIRST: Duration = Duration::from_secs(1);
pub const ANOTHER: &str = "another node manages this mailbox, too; try again";
/// How long an operation waits for what it needs to number new messages (a reservation needs the user
/// database, which may be waiting for a change of view).
pub const PATIENCE: Duration = Duration::from_secs(4);
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

/// UIDs and MODSEQs for what waits for them; watchers are told. Returns the profile, which may be newer.
pub async fn settle_and_notify(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    profile: Arc<Profile>,
) -> Arc<Profile> {
    let (profile, changed) = settle(node, cell, mailbox, profile).await;
    if !changed.is_empty() {
        events::publish(node, cell);
    }
    profile
}

async fn fetch_fragments(node: &Arc<Node>, cell: &UserCell, mailbox: &mut Mailbox) -> Result<(), Failure> {
    for _ in 0..READ_AGAIN {
        if !fetch_missing(node, cell, mailbox).await? {
            return Ok(());
        }
        mailbox.built_from.clear();
        if !node.topology.is_manager(cell.user) {
            node.manager.knowledge.doubt(Bucket::of_user(cell.user));
        }
    }
    Err(Failure::Temporary(ANOTHER.into()))
}

/// True if there are numbers that somebody gave just now: what has a lower one may not be among what was read.
async fn fetch_missing(node: &Arc<Node>, cell: &UserCell, mailbox: &mut Mailbox) -> Result<bool, Failure> {
    let (map, answered) = node.manager.knowledge.mail_map_and_answered(node, cell.user).await;
    let missing: Vec<(NodeId, Incarnation)> = node
        .topology
        .readable()
        .into_iter()
        .filter(|(member, life)| map.contains(*member) && mailbox.built_from.get(member) != Some(life))
        .collect();
    let fetched = join_all(missing.iter().map(|(member, _)| fragment(node, *member, cell.user))).await;
    let mut failed = 0;
    let mut news = Vec::new();
    for ((member, life), fragment) in missing.iter().zip(fetched) {
        match fragment {
            Ok(entries) => {
                news.extend(entries);
                mailbox.built_from.insert(*member, *life);
            }
            Err(_) => failed += 1,
        }
    }
    for entry in &news {
        // What we write from here on is later than what is written there.
        let _ = node.clock.observe(entry.latest());
    }
    let lately = node.clock.millis_ago(JUST_NUMBERED);
    let just_numbered = mailbox.meet_numbers(&news, lately);
    let doubtful = learn_certain(node, mailbox, news, node.settings.replication.min_copies).await;
    if !missing.is_empty() || mailbox.fetched.is_none() {
        mailbox.fetched = Some(Instant::now());
    }
    let view = &node.topology.now().view;
    let unread = view.members.iter().map(|member| member.id).filter(|&id| {
        let holds_nothing = answered.contains(&id) && !map.contains(id);
        is_refilling(node, id) || !mailbox.built_from.contains_key(&id) && !holds_nothing
    });
    mailbox.unread = unread.collect();
    if mailbox.unread.len() < node.settings.replication.min_copies {
        mailbox.unread.clear();
    }
    if failed > 0 && mailbox.built_from.is_empty() {
        return Err(Failure::Temporary("the nodes that hold this mailbox do not answer; try again".into()));
    }
    if !doubtful.is_empty() {
        if mailbox.is_complete() {
            mailbox.built_from.clear();
            return Err(Failure::Temporary("it is not certain yet that messages are gone; try again".into()));
        }
        // With too many nodes away it is shown without those messages, and that is written down (`admit_unread`).
        mailbox.index.doubt(doubtful);
    }
    Ok(just_numbered)
}

/// Takes what was told, by each node of each message once at most. A tombstone that fewer than `proof` nodes told of is made durable
/// before it is taken: were its disk lost, the message would be back, below what was shown without it. Returns what could not be made
/// durable.
async fn learn_certain(
    node: &Arc<Node>,
    mailbox: &mut Mailbox,
    told: Vec<Entry>,
    proof: usize,
) -> Vec<Entry> {
    let lately = node.clock.millis_ago(JUST_EXPUNGED);
    let (certain, doubtful) = mailbox.index.split_doubtful(told, proof, lately);
    mailbox.learn(certain);
    if doubtful.is_empty() {
        return doubtful;
    }
    let pushed = node.replication.push(node, doubtful).await;
    let failed: Vec<Entry> = pushed.failed().cloned().collect();
    mailbox.learn(pushed.durable.into_iter().chain(pushed.newer).collect());
    mailbox.index.abandon(&failed);
    failed
}

/// What is on its disk may be less than what was there.
fn is_refilling(node: &Node, id: NodeId) -> bool {
    if id == node.id { node.healing.is_refilling() } else { node.topology.is_refilling(id) }
}

/// All entries of a user on one node.
async fn fragment(node: &Arc<Node>, member: NodeId, user: UserId) -> Result<Vec<Entry>, Failure> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let request = Request::Fragment { user, after: entries.last().map(|entry| entry.id) };
        match node.call(member, request, FRAGMENT_DEADLINE).await {
            Ok(Response::Fragment { entries: page, more }) => {
                let done = !more || page.is_empty();
                entries.extend(page);
                if done {
                    return Ok(entries);
                }
            }
            Ok(_) => return Err(Failure::Temporary("unexpected answer".into())),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Gives UIDs and MODSEQs to what waits for them. Returns the folders that changed.
async fn settle(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    mut profile: Arc<Profile>,
) -> (Arc<Profile>, BTreeSet<FolderId>) {
    let mut changed = BTreeSet::new();
    if mailbox.number_again.is_some_and(|at| Instant::now() < at) {
        return (profile, changed);
    }
    for _ in 0..3 {
        let mut table = profile.folder_table();
        if !mailbox.index.has_unsettled(&table) {
            break;
        }
        if mailbox.index.names_unknown_folder(&table) {
            match cell.profile.refreshed(node, cell.user).await {
                Ok(fresh) => {
                    profile = fresh;
                    table = profile.folder_table();
                }
                // Without a fresh profile we cannot tell a new folder from a deleted one: wait.
                Err(_) => break,
            }
        }
        let wanted = mailbox.index.uids_wanted(&table);
        for (&folder, &count) in &wanted {
            if let Ok(fresh) = reserve(node, cell, mailbox, folder, count.max(UID_BLOCK)).await {
                profile = fresh;
            }
        }
        if !wanted.is_empty() && fetch_fragments(node, cell, mailbox).await.is_err() {
            break;
        }
        let plan = mailbox.index.number(mailbox.stamp(node), &table);
        if plan.is_empty() {
            break;
        }
        let (shown, complete) = make_durable(node, mailbox, plan).await;
        changed.extend(shown);
        if !complete {
            // Each try costs a block of UIDs.
            mailbox.number_again = Some(Instant::now() + NUMBER_AGAIN);
            break;
        }
    }
    (profile, changed)
}

/// Reserves a block of UIDs in the user database, waiting out a change of view, and reading what another manager
/// numbered meanwhile.
pub async fn reserve(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    folder: FolderId,
    count: u32,
) -> Result<Arc<Profile>, Failure> {
    read_first(node, cell, mailbox).await?;
    let begun = Instant::now();
    loop {
        cell.check_acting(node)?;
        let asked = mailbox.index.reservation(folder, count, mailbox.stamp(node), &mailbox.unread);
        let failure = match cell.profile.reserve_uids(node, cell.user, folder, &asked).await {
            Ok((profile, Some(block))) => {
                let (first, unread) = (block.first, &mailbox.unread);
                tracing::debug!(me = %node.id, user = %cell.user, ?folder, first, ?unread, known = ?block.known, "UIDs reserved");
                mailbox.index.add_block(folder, block);
                mailbox.know(node, &profile);
                tell_manager(node, cell.user).await;
                return Ok(profile);
            }
            Ok((profile, None)) => {
                mailbox.know(node, &profile);
                fetch_fragments(node, cell, mailbox).await?;
                Failure::Temporary(ANOTHER.into())
            }
            Err(failure @ Failure::Temporary(_)) => failure,
            Err(failure) => return Err(failure),
        };
        if begun.elapsed() > PATIENCE {
            return Err(failure);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What another manager numbered and we did not read when we reserve is numbered again, so those who may have it are read first: soon
/// they answer, or are out of the view.
async fn read_first(node: &Arc<Node>, cell: &UserCell, mailbox: &mut Mailbox) -> Result<(), Failure> {
    let begun = Instant::now();
    while begun.elapsed() < READ_FIRST {
        let view = &node.topology.now().view;
        if !view.serving().any(|member| mailbox.waits_for(node, member.id)) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        fetch_fragments(node, cell, mailbox).await?;
    }
    Ok(())
}

/// Who stands in for a manager that may be reached again tells it that UIDs were reserved, before they are shown: the next request
/// may come there, and what we have not seen must not be shown below.
async fn tell_manager(node: &Arc<Node>, user: UserId) {
    for _ in 0..TELL_TRIES {
        if tell(node, user).await {
            return;
        }
    }
    if !lock(&node.manager.telling).insert(user) {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        let epoch = node.topology.now().view.epoch;
        let mut pause = TELL_AGAIN;
        // With a new view every manager reads profiles anew.
        while node.topology.now().view.epoch == epoch {
            tokio::time::sleep(pause).await;
            if tell(&node, user).await {
                break;
            }
            pause = (pause * 2).min(TELL_AGAIN * 10);
        }
        lock(&node.manager.telling).remove(&user);
    });
}

/// True if the manager reads the profile anew, or is this node.
async fn tell(node: &Arc<Node>, user: UserId) -> bool {
    let manager = node.topology.now().user_map.manager(Bucket::of_user(user));
    let Some(manager) = manager.filter(|&manager| manager != node.id) else { return true };
    let request = Request::User { user, op: UserOp::Refresh, acting: false };
    matches!(node.call(manager, request, TELL_DEADLINE).await, Ok(_) | Err(CallError::Refused(_)))
}

/// Before a folder is shown to a session: if messages may be missing because too many nodes are away, whoever
/// manages the mailbox later must know it, so that they are not put below what is shown now.
///
/// # Errors
/// If it cannot be written down.
pub async fn admit_unread(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    folder: FolderId,
) -> Result<(), Failure> {
    if mailbox.index.admits(folder, &mailbox.unread) {
        return Ok(());
    }
    if node.topology.readable().iter().any(|&(member, _)| mailbox.waits_for(node, member)) {
        return Err(Failure::Temporary("too few nodes that hold this mailbox answered; try again".into()));
    }
    reserve(node, cell, mailbox, folder, UID_BLOCK).await?;
    // That may have taken seconds: what can be read by now is not to be missing.
    fetch_fragments(node, cell, mailbox).await
}

/// Step 2 and 3 of every change: planned entries to their replicas, then visible. Returns the folders that
/// changed and whether all of the plan is durable.
pub async fn make_durable(
    node: &Arc<Node>,
    mailbox: &mut Mailbox,
    plan: Vec<Entry>,
) -> (BTreeSet<FolderId>, bool) {
    let pushed = node.replication.push(node, plan).await;
    let complete = pushed.failed().next().is_none();
    if !complete {
        tracing::debug!(me = %node.id, lost = ?pushed.lost, endangered = ?pushed.endangered, bodiless = ?pushed.bodiless, "not all is durable");
    }
    let index = &mut mailbox.index;
    if node.topology.is_manager(index.user()) {
        index.set_aside(&pushed.bodiless);
    } else {
        // The manager may show them, and a client of ours would take them for expunged, and then for new.
        index.abandon(&pushed.bodiless);
    }
    index.give_up(&pushed.lost);
    index.give_up(&pushed.endangered);
    index.abandon(&pushed.lost);
    index.abandon(&pushed.endangered);
    // What is on too few disks is not shown: who reads the others would show what was before it, again.
    let (given_up, good): (Vec<Entry>, Vec<Entry>) =
        pushed.durable.into_iter().partition(|entry| index.is_given_up(entry));
    let changed = index.commit(good);
    for entry in given_up {
        index.learn(entry);
    }
    let complete = learn_certain(node, mailbox, pushed.newer, HEARSAY).await.is_empty() && complete;
    (changed, complete)
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
