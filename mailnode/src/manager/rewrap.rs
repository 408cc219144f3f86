//! After a change of an account's mode: the keys of its mail are wrapped the other way, in the background.
//!
//! - From the cluster to the user only the public key is needed: the manager does it by itself.
//! - From the user to the cluster the private key is needed: a session that has it asks for keys of bodies
//!   ([`misfits`]), wraps them for the cluster and hands them back ([`take`]).
//!
//! A wrapped key is a register of its entry, replaced as a whole and made durable like a flag: at every point each copy of the
//! entry has a key that can be read in the old way or in the new one. What is not done when a manager dies is found again by
//! the next one, because it looks at the entries, and by a pass over all accounts ([`crate::tending`]).

use super::mailbox::{Mailbox, make_durable, notify, refresh};
use super::{UserCell, lock};
use crate::crypto::Wrapping;
use crate::environment;
use crate::node::Node;
use crate::wire::{Failure, Misfits, UserReply};
use cluster::{Entry, EntryId, Register, UserId, WrappedKey};
use directory::Profile;
use directory::encryption::{Mode, PublicKey};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Keys in one step: the user's other operations wait for no more.
pub const STEP: usize = 200;
/// A step that could not be made durable is tried again so soon, and so often; then the next look at the mailbox begins anew.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 30;

/// How the keys of an account's mail should be wrapped; None while nobody ever turned mode `user` on.
pub fn wanted(profile: &Profile) -> Option<Wrapping> {
    profile.encryption.has_keys().then_some(match profile.encryption.mode {
        Mode::User => Wrapping::User,
        Mode::Cluster => Wrapping::Cluster,
    })
}

/// True if the key of a message should be wrapped otherwise. One that a newer version wrapped is left to it.
pub fn is_misfit(entry: &Entry, wanted: Option<Wrapping>) -> bool {
    let is = Wrapping::of(&entry.blob.key.value);
    entry.is_live() && wanted.is_some() && is.is_some() && is != wanted
}

/// Called when the mailbox was brought up to date: begins what the manager can do alone.
pub fn begin(node: &Arc<Node>, cell: &UserCell, mailbox: &Mailbox, profile: &Profile) {
    let nothing = mailbox.misfits.is_empty() && !profile.encryption.rewrapping;
    if nothing || wanted(profile) != Some(Wrapping::User) || cell.rewrapping.swap(true, Ordering::AcqRel) {
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
    let Some(public) = profile.encryption.sealing_key() else { return Ok(Step::Done) };
    let entries = next(&mut mailbox, &profile, STEP);
    if entries.is_empty() {
        drop(mailbox);
        return finish(node, cell, &profile).await.map(|()| Step::Done);
    }
    let (sealer, user) = (node.clone(), cell.user);
    let sealed = environment::blocking(move || seal(&sealer, user, public, entries)).await;
    let sealed = sealed.map_err(|error| Failure::Temporary(error.to_string()))?;
    replace(node, cell, &mut mailbox, &profile, sealed).await?;
    Ok(Step::More)
}

fn seal(node: &Node, user: UserId, public: PublicKey, entries: Vec<Entry>) -> Vec<(Entry, WrappedKey)> {
    let seal = |entry: Entry| match node.keys.seal_to_user(&entry.blob, user, public) {
        Ok(key) => Some((entry, key)),
        Err(error) => {
            // It stays as it is; whoever could read it still can.
            tracing::error!(%user, entry = %entry.id, %error, "a key cannot be sealed to its user");
            None
        }
    };
    entries.into_iter().filter_map(seal).collect()
}

/// The next entries to wrap anew. Those that wait for a UID come later: they must not be shown before.
fn next(mailbox: &mut Mailbox, profile: &Profile, most: usize) -> Vec<Entry> {
    let wanted = wanted(profile);
    let mut entries = Vec::new();
    let ids: Vec<EntryId> = mailbox.misfits.iter().copied().collect();
    for id in ids {
        if entries.len() >= most {
            break;
        }
        let Some(entry) = mailbox.index.entry(id).filter(|entry| is_misfit(entry, wanted)).cloned() else {
            mailbox.misfits.remove(&id);
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
    profile: &Profile,
    keys: Vec<(Entry, WrappedKey)>,
) -> Result<(), Failure> {
    let (at, wanted) = (mailbox.stamp(node), wanted(profile));
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
            mailbox.misfits.remove(id);
        }
    }
    node.metrics.encryption.rewrapped(wanted, ids.len());
    // Sessions get the new keys with the messages.
    notify(node, cell);
    if complete { Ok(()) } else { Err(Failure::Temporary("not all keys could be stored; try again".into())) }
}

/// Notes in the profile that all mail is wrapped as it should be, if all of it was seen.
async fn finish(node: &Arc<Node>, cell: &UserCell, profile: &Profile) -> Result<(), Failure> {
    let all = {
        let mailbox = cell.mailbox.lock().await;
        mailbox.misfits.is_empty() && mailbox.is_complete()
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
    let mut found = Misfits { left: mailbox.misfits.len() as u64, for_session: Vec::new() };
    if wanted(&profile) == Some(Wrapping::Cluster) {
        let entries = next(&mut mailbox, &profile, most.min(STEP));
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
    let wanted = wanted(&profile);
    if wanted != Some(Wrapping::Cluster) {
        return Ok(UserReply::Done);
    }
    let fitting = keys.into_iter().filter_map(|(id, key)| {
        let entry = mailbox.index.entry(id).filter(|entry| is_misfit(entry, wanted))?;
        let good = is_shown(&mailbox, entry) && node.keys.can_unwrap(&entry.blob.id, &key);
        good.then(|| (entry.clone(), key))
    });
    let fitting: Vec<_> = fitting.collect();
    if !fitting.is_empty() {
        replace(node, cell, &mut mailbox, &profile, fitting).await?;
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
