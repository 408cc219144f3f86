//! Profile soft state: the manager's cached copy of a user's profile, served stale while the user database is
//! away; log-in; the folder tree.

use super::mailbox::{Mailbox, make_durable, refresh, reserve};
use super::{UserCell, events, lock};
use crate::environment;
use crate::node::Node;
use crate::wire::{Failure, Password, UserOp, UserReply};
use cluster::mailbox::Reservation;
use cluster::{FolderId, UidBlock, UserId};
use directory::{Profile, Renamed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// A cached profile is used for so long without asking again.
const FRESH: Duration = Duration::from_secs(5);
/// Password checks at one time: each takes some 20 ms of a core and 19 MiB.
pub const PASSWORD_CHECKS: usize = 4;

#[derive(Default)]
pub struct ProfileCache {
    /// With the time it was asked for; none if it is to be asked for again.
    cached: Mutex<Option<(Arc<Profile>, Option<Instant>)>>,
    /// Keyed hash of the last password that was right, with the credentials it was right for.
    proven: Mutex<Option<(blake3::Hash, Arc<Profile>)>>,
}

impl ProfileCache {
    /// The profile, at most a few seconds old; older if the user database is away.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if there is no such user, [`Failure::Temporary`] if nobody can tell.
    pub async fn current(&self, node: &Arc<Node>, user: UserId) -> Result<Arc<Profile>, Failure> {
        let cached = lock(&self.cached).clone();
        match cached {
            Some((profile, Some(at))) if at.elapsed() < FRESH => Ok(profile),
            Some((stale, _)) => match self.refreshed(node, user).await {
                Err(Failure::Temporary(_)) => Ok(stale),
                outcome => outcome,
            },
            None => self.refreshed(node, user).await,
        }
    }

    /// Another manager may have changed the profile: it is asked for anew, if it can be had.
    pub fn doubt(&self) {
        if let Some((_, at)) = lock(&self.cached).as_mut() {
            *at = None;
        }
    }

    /// The profile as the user database has it now.
    ///
    /// # Errors
    /// As [`ProfileCache::current`].
    pub async fn refreshed(&self, node: &Arc<Node>, user: UserId) -> Result<Arc<Profile>, Failure> {
        let profile = node.users.profile(user).await?;
        Ok(self.put(profile))
    }

    /// Keeps the `Arc` while the profile is the same, so that it can be told by its address. An older state, of a node
    /// that was away, does not replace a newer one: UIDs that were reserved since would be forgotten.
    pub fn put(&self, profile: Profile) -> Arc<Profile> {
        let mut cached = lock(&self.cached);
        let kept = match cached.take() {
            Some((known, _)) if *known == profile || known.version > profile.version => known,
            _ => Arc::new(profile),
        };
        *cached = Some((kept.clone(), Some(Instant::now())));
        kept
    }

    pub async fn reserve_uids(
        &self,
        node: &Arc<Node>,
        user: UserId,
        folder: FolderId,
        asked: &Reservation,
    ) -> Result<(Arc<Profile>, Option<UidBlock>), Failure> {
        let (profile, block) = node.users.reserve_uids(user, folder, asked).await?;
        Ok((self.put(profile), block))
    }
}

/// Checks a password. A right one is remembered (as a hash under a key of this process), because Argon2 is slow
/// on purpose and clients log in often.
pub async fn authenticate(
    node: &Arc<Node>,
    cell: &UserCell,
    password: Password,
) -> Result<UserReply, Failure> {
    let profile = cell.profile.current(node, cell.user).await?;
    if !profile.is_enabled() {
        return Err(Failure::BadCredentials);
    }
    // The session opens the keys, with the password that only it keeps for so long.
    let encryption = &profile.encryption;
    let keys = encryption.has_keys().then(|| Box::new(encryption.clone()));
    let proof = node.password_proof(&password.0);
    let known = lock(&cell.profile.proven)
        .as_ref()
        .is_some_and(|(hash, at)| *hash == proof && same_secrets(at, &profile));
    if known {
        return Ok(UserReply::LoggedIn { keys });
    }
    let busy = |_| Failure::Temporary("too many log-ins at once; try again".into());
    let _slot = node.password_slots.acquire().await.map_err(busy)?;
    let checked = profile.clone();
    let right = environment::blocking(move || checked.verify_password(&password.0))
        .await
        .map_err(|_| Failure::Temporary("the password could not be checked; try again".into()))?;
    if !right {
        return Err(Failure::BadCredentials);
    }
    *lock(&cell.profile.proven) = Some((proof, profile));
    Ok(UserReply::LoggedIn { keys })
}

/// True if what was right for one record is right for the other.
fn same_secrets(one: &Profile, other: &Profile) -> bool {
    one.credentials == other.credentials && one.encryption.app_passwords() == other.encryption.app_passwords()
}

/// The work of a password check for a name that does not exist, so that its time does not tell.
pub async fn pretend_to_check(node: &Arc<Node>, password: &str) {
    let Ok(_slot) = node.password_slots.acquire().await else { return };
    let password = Password(password.to_owned());
    let _ = environment::blocking(move || directory::password::waste_time(&password.0)).await;
}

/// A change of the folder tree, and of the mail it concerns.
pub async fn change_folders(node: &Arc<Node>, cell: &UserCell, op: UserOp) -> Result<(), Failure> {
    let mut mailbox = cell.mailbox.lock().await;
    cell.check_acting(node)?;
    let at = node.clock.now();
    let mut moved_inbox = None;
    let profile = node
        .users
        .update_profile(cell.user, |profile| {
            match &op {
                UserOp::CreateFolder { name, special_use } => {
                    profile.create_folder(name, *special_use, at)?;
                }
                UserOp::DeleteFolder { name } => {
                    profile.delete_folder(name, at)?;
                }
                UserOp::RenameFolder { from, to } => {
                    moved_inbox = match profile.rename_folder(from, to, at)? {
                        Renamed::MoveInbox(target) => Some(target),
                        Renamed::Folder(_) => None,
                    };
                }
                UserOp::Subscribe { name, subscribed: true } => profile.subscribe(name)?,
                UserOp::Subscribe { name, subscribed: false } => profile.unsubscribe(name)?,
                _ => {}
            }
            Ok(())
        })
        .await?;
    cell.profile.put(profile);
    // What was in a deleted folder is expunged now; what turns up later, when it turns up.
    let mut rest = refresh(node, cell, &mut mailbox).await.map(drop);
    if let (Ok(()), Some(target)) = (&rest, moved_inbox) {
        rest = move_inbox(node, cell, &mut mailbox, target).await;
    }
    match rest {
        // The manager is back and does the rest. What is changed must not be changed again there.
        Err(Failure::NotManager(_)) if moved_inbox.is_none() => Ok(()),
        Err(Failure::NotManager(_)) => {
            Err(Failure::Temporary("not all messages were moved; try again".into()))
        }
        other => other,
    }
}

/// RENAME of INBOX moves its messages and leaves it empty (RFC 9051 6.3.6).
async fn move_inbox(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    target: FolderId,
) -> Result<(), Failure> {
    let messages = mailbox.index.view(FolderId::INBOX).messages;
    let uids: Vec<u32> =
        messages.iter().filter_map(|entry| entry.location.uid).map(|uid| uid.number).collect();
    if uids.is_empty() {
        return Ok(());
    }
    reserve(node, cell, mailbox, target, uids.len() as u32).await?;
    let moved = mailbox.index.plan_move(FolderId::INBOX, &uids, target, mailbox.stamp(node));
    let moved = moved.map_err(|_| Failure::Temporary("no UIDs could be reserved; try again".into()))?;
    let (_, complete) = make_durable(node, mailbox, moved.entries).await;
    events::publish(node, cell);
    if complete { Ok(()) } else { Err(Failure::Temporary("not all messages were moved; try again".into())) }
}
