//! After a change of an account's mode, or of the cluster's secret: the keys of its mail are wrapped anew, in the background.
//!
//! - From the cluster to the user only the public key is needed, and from one version of the cluster's secret to the next nothing:
//!   the manager does it by itself.
//! - From the user to the cluster the private key is needed: a session that has it asks for keys of bodies
//!   ([`misfits`]), wraps them for the cluster and hands them back ([`take`]).
//!
//! A wrapped key is a register of its entry, replaced as a whole and made durable like a flag: at every point each copy of the
//! entry has a key that can be read in the old way or in the new one. What is not done when a manager dies is found again by
//! the next one, because it looks at the entries, and by a pass over all accounts ([`crate::tending`]).

use super::mailbox::{Mailbox, make_durable, refresh};
use super::{UserCell, events, lock};
use crate::crypto::Wrapping;
use crate::environment;
use crate::node::Node;
use crate::wire::{self, Failure, UserReply};
use cluster::{Entry, EntryId, Register, UserId, WrappedKey};
use directory::Profile;
use directory::encryption::{Mode, PublicKey};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Keys in one step: the user's other operations wait for no more.
pub const STEP: usize = 200;
/// A step that could not be made durable is tried again so soon, and so often; then the next look at the mailbox begins anew.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 30;

/// How the keys of an account's mail should be wrapped.
pub fn wanted(node: &Node, profile: &Profile) -> Wrapping {
    match profile.encryption.mode {
        Mode::User if profile.encryption.has_keys() => Wrapping::User,
        _ => Wrapping::Cluster(node.keys.current()),
    }
}

/// Live entries whose keys should be wrapped otherwise.
#[derive(Default)]
pub struct Misfits {
    /// The manager can do it.
    here: BTreeSet<EntryId>,
    /// A session of the user has to.
    for_session: BTreeSet<EntryId>,
}

impl Misfits {
    pub fn look_at(&mut self, entry: &Entry, wanted: Wrapping) {
        match Wrapping::of(&entry.blob.key.value) {
            Some(Wrapping::Cluster(_)) if is_misfit(entry, wanted) => self.here.insert(entry.id),
            Some(Wrapping::User) if is_misfit(entry, wanted) => self.for_session.insert(entry.id),
            _ => false,
        };
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn remove(&mut self, id: EntryId) {
        self.here.remove(&id);
        self.for_session.remove(&id);
    }

    fn len(&self) -> usize {
        self.here.len() + self.for_session.len()
    }
}

/// True if the key of a message should be wrapped otherwise. One by a newer version, of the secret or of this program, is left
/// to who knows it.
fn is_misfit(entry: &Entry, wanted: Wrapping) -> bool {
    let differs = match (Wrapping::of(&entry.blob.key.value), wanted) {
        (Some(Wrapping::Cluster(version)), Wrapping::Cluster(current)) => version < current,
        (Some(is), wanted) => is != wanted,
        (None, _) => false,
    };
    entry.is_live() && differs
}

/// Called when the mailbox was brought up to date: begins what the manager can do alone.
pub fn begin(node: &Arc<Node>, cell: &UserCell, mailbox: &Mailbox, profile: &Profile) {
    let to_finish = profile.encryption.rewrapping && wanted(node, profile) == Wrapping::User;
    let nothing = mailbox.misfits.here.is_empty() && !to_finish;
    if nothing || cell.rewrapping.swap(true, Ordering::AcqRel) {
        return;
    }
    let (node, user) = (node.clone(), cell.user);
    tokio::spawn(async move {
        let cell = node.manager.cell(user);
        for tried in 1..=TRIES {
            match step(&node, &cell).await {
                Ok(Step::More) => continue,
                Ok(Step::Done) => break,
                Err(failure) => tracing::info!(%user, %failure, tried, "keys are wrapped anew later"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        cell.rewrapping.store(false, Ordering::Release);
    });
}

enum Step {
    More,
    Done,
}

async fn step(node: &Arc<Node>, cell: &UserCell) -> Result<Step, Failure> {
    let mut mailbox = cell.mailbox.lock().await;
    let profile = refresh(node, cell, &mut mailbox).await?;
    let wanted = wanted(node, &profile);
    let encryption = &profile.encryption;
    let seal_to = encryption.sealing_key();
    if !node.signed_accounts.accepts(cell.user, seal_to, encryption.signature()) {
        return Ok(Step::Done);
    }
    let ids = mailbox.misfits.here.iter().copied().collect();
    let entries = next(&mut mailbox, ids, wanted, STEP);
    if entries.is_empty() {
        drop(mailbox);
        return finish(node, cell, &profile).await.map(|()| Step::Done);
    }
    let (worker, user) = (node.clone(), cell.user);
    let wrapped = environment::blocking(move || wrap_keys(&worker, user, seal_to, entries)).await;
    let wrapped = wrapped.map_err(|error| Failure::Temporary(error.to_string()))?;
    replace(node, cell, &mut mailbox, wanted, wrapped).await?;
    Ok(Step::More)
}

/// Keys of a user's entries for this key of the user's, or without one for the current version of the cluster's secret.
pub fn wrap_keys(
    node: &Node,
    user: UserId,
    seal_to: Option<PublicKey>,
    entries: Vec<Entry>,
) -> Vec<(Entry, WrappedKey)> {
    let wrap = |entry: Entry| {
        let wrapped = match seal_to {
            Some(public) => node.keys.seal_to_user(&entry.blob, user, public),
            None => node.keys.wrap_for_cluster(&entry.blob, None),
        };
        // If it fails it stays as it is; whoever could read it still can.
        let failed =
            |error| tracing::error!(%user, entry = %entry.id, %error, "a key cannot be wrapped anew");
        wrapped.map_err(failed).ok().map(|key| (entry, key))
    };
    entries.into_iter().filter_map(wrap).collect()
}

/// The next of these entries to wrap anew. Those that wait for a UID come later: they must not be shown before.
fn next(mailbox: &mut Mailbox, ids: Vec<EntryId>, wanted: Wrapping, most: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    for id in ids {
        if entries.len() >= most {
            break;
        }
        let Some(entry) = mailbox.index.entry(id).filter(|entry| is_misfit(entry, wanted)).cloned() else {
            mailbox.misfits.remove(id);
            continue;
        };
        if is_shown(mailbox, &entry) {
            entries.push(entry);
        }
    }
    entries
}

fn is_shown(mailbox: &Mailbox, entry: &Entry) -> bool {
    let Some(uid) = entry.location.uid else { return false };
    mailbox.index.messages(entry.location.folder, &[uid.number]).iter().any(|shown| shown.id == entry.id)
}

/// Makes new keys durable, then visible.
async fn replace(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    wanted: Wrapping,
    keys: Vec<(Entry, WrappedKey)>,
) -> Result<(), Failure> {
    let at = mailbox.stamp(node);
    let plan: Vec<Entry> = keys
        .into_iter()
        .map(|(mut entry, key)| {
            entry.blob.key = Register::new(key, at);
            entry
        })
        .collect();
    let ids: Vec<EntryId> = plan.iter().map(|entry| entry.id).collect();
    if ids.is_empty() {
        return Err(Failure::Temporary("some keys cannot be wrapped anew".into()));
    }
    let (_, complete) = make_durable(node, mailbox, plan).await;
    for id in &ids {
        if !mailbox.index.entry(*id).is_some_and(|entry| is_misfit(entry, wanted)) {
            mailbox.misfits.remove(*id);
        }
    }
    node.metrics.encryption.rewrapped(wanted, ids.len());
    // Sessions get the new keys with the messages.
    events::publish(node, cell);
    if complete { Ok(()) } else { Err(Failure::Temporary("not all keys could be stored; try again".into())) }
}

/// Notes in the profile that all mail is wrapped as it should be, if all of it was seen.
async fn finish(node: &Arc<Node>, cell: &UserCell, profile: &Profile) -> Result<(), Failure> {
    let all = {
        let mailbox = cell.mailbox.lock().await;
        mailbox.misfits.len() == 0 && mailbox.is_complete()
    };
    if !all {
        return Err(Failure::Temporary("some messages cannot be reached now".into()));
    }
    if !profile.encryption.rewrapping {
        return Ok(());
    }
    let mode = profile.encryption.mode;
    let changed = node
        .users
        .update_profile(cell.user, |profile| {
            // Not if somebody changed the mode meanwhile.
            profile.encryption.rewrapping &= profile.encryption.mode != mode;
            Ok(())
        })
        .await?;
    cell.profile.put(changed);
    tracing::info!(user = %cell.user, ?mode, "all keys are wrapped as the account's mode asks for");
    Ok(())
}

/// How much is left, and what of it a session with the private key may work on.
pub async fn misfits(node: &Arc<Node>, cell: &UserCell, most: usize) -> Result<UserReply, Failure> {
    let mut mailbox = cell.mailbox.lock().await;
    let profile = refresh(node, cell, &mut mailbox).await?;
    let mut found = wire::Misfits { left: mailbox.misfits.len() as u64, for_session: Vec::new() };
    let wanted = wanted(node, &profile);
    if matches!(wanted, Wrapping::Cluster(_)) {
        let ids = mailbox.misfits.for_session.iter().copied().collect();
        let entries = next(&mut mailbox, ids, wanted, most.min(STEP));
        found.left = mailbox.misfits.len() as u64;
        found.for_session = entries.into_iter().map(|entry| (entry.id, entry.blob)).collect();
        drop(mailbox);
        if found.left == 0 && profile.encryption.rewrapping {
            finish(node, cell, &profile).await?;
        }
    }
    Ok(UserReply::Misfits(found))
}

/// Takes keys that a session has wrapped for the cluster.
pub async fn take(
    node: &Arc<Node>,
    cell: &UserCell,
    keys: Vec<(EntryId, WrappedKey)>,
) -> Result<UserReply, Failure> {
    if keys.len() > STEP {
        return Err(Failure::Invalid(format!("at most {STEP} keys at once")));
    }
    let mut mailbox = cell.mailbox.lock().await;
    let profile = refresh(node, cell, &mut mailbox).await?;
    let wanted = wanted(node, &profile);
    if wanted == Wrapping::User {
        return Ok(UserReply::Done);
    }
    let fitting = keys.into_iter().filter_map(|(id, key)| {
        let entry = mailbox.index.entry(id).filter(|entry| is_misfit(entry, wanted))?;
        let good = is_shown(&mailbox, entry) && node.keys.can_unwrap(&entry.blob.id, &key);
        good.then(|| (entry.clone(), key))
    });
    let fitting: Vec<_> = fitting.collect();
    if !fitting.is_empty() {
        replace(node, cell, &mut mailbox, wanted, fitting).await?;
    }
    Ok(UserReply::Done)
}

impl super::Manager {
    /// Messages of all mailboxes in memory that wait to be wrapped anew. Those that are being worked on are left out.
    pub fn to_rewrap(&self) -> u64 {
        let cells: Vec<Arc<UserCell>> = lock(&self.users).values().cloned().collect();
        cells
            .iter()
            .filter_map(|cell| cell.mailbox.try_lock().ok().map(|mailbox| mailbox.misfits.len() as u64))
            .sum()
    }
}
