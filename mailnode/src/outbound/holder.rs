//! What this node has to send. Replicas tell the manager of a queue user of its entries, as they do for any user
//! (`notices`); after a change of view, and whenever notices may have been lost, the members are asked (`scan.rs`). Then each
//! new entry's envelope is read from its blob.
//!
//! What was learnt by asking waits for a moment ([`TAKE_OVER`]) before it is sent: its last holder may be alive,
//! with a message under way, and not know the view yet.

use super::{GONE, Held, Outbound, age, is_ours, scan};
use crate::clock::wall_millis;
use crate::lists::LIST;
use crate::node::Node;
use crate::retrieval;
use cluster::{Entry, EntryId, Flag};
use outbound::{Destination, Envelope, Facts};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const TAKE_OVER: Duration = Duration::from_secs(3);
/// An entry that is no older is new: nobody can have sent it yet and be gone.
const FRESH: Duration = Duration::from_millis(500);
/// An envelope that cannot be read now is tried again so much later.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Envelopes read at one time.
const AT_ONCE: usize = 16;
/// The disks are asked again so often, whatever is known.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);
/// Entries that cannot be read and are shown to administrators.
const DAMAGED: usize = 1_000;

/// The registers of an entry that say who is done.
pub const SENT: &str = "sent-";
pub const FAILED: &str = "failed-";
/// And the one that says that the sender was told of a delay.
pub const WARNED: &str = "warned";

/// Recipients that are done, by the entry's registers.
pub fn done(entry: &Entry) -> BTreeSet<usize> {
    let number = |flag: &Flag| match flag {
        Flag::Keyword(word) => {
            word.strip_prefix(SENT).or_else(|| word.strip_prefix(FAILED))?.parse::<usize>().ok()
        }
        _ => None,
    };
    entry.flags_set().filter_map(number).collect()
}

impl Outbound {
    /// An entry of a queue user is on some disk now, in this version.
    pub fn heard(&self, entry: &Entry) {
        self.learn(entry, Duration::ZERO);
    }

    fn learn(&self, entry: &Entry, delay: Duration) {
        let mut state = self.lock();
        let state = &mut *state;
        let id = entry.id;
        if !entry.is_live() {
            state.is_over(id);
        } else if state.gone.contains(&id) {
            // A replica was slower than the delivery, or has missed its end: it is told again.
            state.finished.insert(id, entry.clone());
        } else if let Some(held) = state.held.get_mut(&id) {
            held.entry.merge(entry);
            let done: Vec<usize> = done(&held.entry).into_iter().collect();
            if state.queue.done(id, &done) == Some(true) {
                state.finished.insert(id, held.entry.clone());
            }
        } else if let Some(unread) = state.unread.entry_mut(id) {
            unread.merge(entry);
        } else if state.damaged.contains_key(&id) {
            // It will not get better.
        } else if state.unread.len() + state.queue.len() >= self.settings.limits.messages {
            state.overflowed = true;
        } else {
            state.unread.insert(entry.clone(), self.now() + delay);
            self.unread_news.notify_one();
        }
    }
}

impl super::State {
    /// The message is dealt with.
    pub(super) fn is_over(&mut self, id: EntryId) {
        self.forget(id);
        self.gone.insert(id);
        if self.gone.len() > GONE {
            self.gone.pop_first();
        }
    }

    pub(super) fn forget(&mut self, id: EntryId) {
        self.held.remove(&id);
        self.unread.forget(id);
        self.damaged.remove(&id);
        self.finished.remove(&id);
        self.queue.remove(id);
    }
}

/// Reads envelopes until the node stops.
pub(super) async fn read_loop(node: Arc<Node>) {
    let slots = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    loop {
        let next = node.outbound.lock().unread.next(node.outbound.now());
        match next {
            Ok(entry) => {
                let Ok(slot) = slots.clone().acquire_owned().await else { return };
                let node = node.clone();
                tokio::spawn(async move {
                    read(&node, entry).await;
                    drop(slot);
                });
            }
            Err(next) => {
                let wait = next.map_or(LOOK_AGAIN, |next| next.saturating_sub(node.outbound.now()));
                tokio::select! {
                    biased;
                    () = node.outbound.unread_news.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}

async fn read(node: &Arc<Node>, entry: Entry) {
    let outbound = &node.outbound;
    let id = entry.id;
    // What comes late may be of the past: notices for a manager that died are told to the next.
    if Duration::from_millis(wall_millis().abs_diff(id.unix_millis())) > FRESH {
        let known = scan::newest(node, &entry).await;
        let mut state = outbound.lock();
        match state.unread.entry_mut(id) {
            Some(entry) if known.is_live() => _ = entry.merge(&known),
            Some(_) => return state.is_over(id),
            None => return,
        }
    }
    let body = retrieval::body(node, &entry.blob, &entry.replicas.value, None).await;
    let opened = body.map(Envelope::open);
    let mut state = outbound.lock();
    let Some(entry) = state.unread.was_read(id).filter(|entry| is_ours(node, entry)) else { return };
    match opened {
        Ok(Ok((envelope, _))) => outbound.hold(&mut state, entry, envelope),
        Ok(Err(error)) => {
            tracing::error!(entry = %entry.id, %error, "a message of the queue cannot be read: `mailnode queue drop` it");
            if state.damaged.len() < DAMAGED {
                state.damaged.insert(entry.id, entry);
            }
        }
        Err(failure) => {
            tracing::warn!(entry = %entry.id, %failure, "a message of the queue cannot be read now");
            state.unread.insert(entry, outbound.now() + READ_AGAIN);
            outbound.unread_news.notify_one();
        }
    }
    drop(state);
    outbound.news.notify_one();
}

impl Outbound {
    fn hold(&self, state: &mut super::State, entry: Entry, envelope: Envelope) {
        let done = done(&entry);
        let mut recipients: BTreeMap<Destination, Vec<usize>> = BTreeMap::new();
        for (index, address) in
            envelope.recipients.iter().enumerate().filter(|(index, _)| !done.contains(index))
        {
            let is_list = address.starts_with(LIST);
            if !is_list && !self.settings.enabled {
                // It waits until mail is sent to other servers again.
                return;
            }
            let destination = match (&self.settings.relay, Destination::of(address)) {
                _ if is_list => Destination::lists(),
                (None, Ok(destination)) => destination,
                // What has no destination was never accepted; the relay will say what it thinks of it.
                _ => Destination::relay(),
            };
            recipients.entry(destination).or_default().push(index);
        }
        let now = self.now();
        let id = entry.id;
        if recipients.is_empty() {
            state.finished.insert(id, entry);
            return;
        }
        let warned = entry.has_flag(&Flag::Keyword(WARNED.into()));
        let facts = Facts { age_since: age(&entry), learnt: now, warned, recipients };
        if state.queue.insert(id, facts, now) {
            state.held.insert(id, Held { entry, envelope: Arc::new(envelope) });
        } else {
            state.overflowed |= !state.queue.contains(id);
        }
    }
}

/// Looks at the fragments when there is doubt, and now and then, until the node stops.
pub(super) async fn look_loop(node: Arc<Node>) {
    loop {
        tokio::select! {
            biased;
            () = node.outbound.doubt.notified() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = node.outbound.room() => {}
        }
        let_go(&node);
        let entries = scan::all(&node).await;
        tracing::debug!(messages = entries.len(), "looked for queued messages");
        for entry in entries.values().filter(|entry| is_ours(&node, entry)) {
            node.outbound.learn(entry, TAKE_OVER);
        }
    }
}

impl Outbound {
    /// Resolves when there is room again for what did not fit into memory.
    async fn room(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut state = self.lock();
            if state.overflowed
                && (state.unread.len() + state.queue.len()) * 2 <= self.settings.limits.messages
            {
                state.overflowed = false;
                return;
            }
        }
    }
}

/// Drops what another node holds by this view. What is being sent is sent.
fn let_go(node: &Node) {
    let mut state = node.outbound.lock();
    let others = |entry: &Entry| !is_ours(node, entry);
    let gone: Vec<EntryId> = state
        .held
        .values()
        .map(|held| &held.entry)
        .chain(state.unread.entries())
        .chain(state.damaged.values())
        .filter(|entry| others(entry))
        .map(|entry| entry.id)
        .collect();
    for id in gone {
        state.forget(id);
    }
}
