//! While a session of a user has the private key: mail that is still sealed to it, although the account's mode is `cluster` again, is
//! wrapped for the cluster ([`crate::manager`] keeps the account of it).

use crate::environment;
use crate::node::Node;
use crate::wire::{Failure, UserOp, UserReply};
use cluster::{BlobRef, EntryId, UserId, WrappedKey};
use directory::encryption::Unlocked;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Messages in one step.
const STEP: usize = 200;
/// Without anything to do, the manager is asked again so soon.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);

/// Runs as long as a session holds the keys, and holds them no longer than a step takes.
pub async fn while_unlocked(node: Weak<Node>, user: UserId, unlocked: Weak<Unlocked>) {
    loop {
        let pause = {
            let (Some(node), Some(unlocked)) = (node.upgrade(), unlocked.upgrade()) else { return };
            match step(&node, user, unlocked).await {
                Ok(true) => continue,
                Ok(false) => LOOK_AGAIN,
                Err(failure) => {
                    tracing::debug!(%user, %failure, "keys are wrapped for the cluster later");
                    RETRY
                }
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// True if something was done, and more may be left.
async fn step(node: &Arc<Node>, user: UserId, unlocked: Arc<Unlocked>) -> Result<bool, Failure> {
    let UserReply::Misfits(found) = node.operate(user, UserOp::Misfits { most: STEP }).await? else {
        return Err(Failure::Temporary("unexpected answer".into()));
    };
    let worker = node.clone();
    let keys = environment::blocking(move || rewrap(&worker, user, &unlocked, found.for_session)).await;
    let keys = keys.map_err(|error| Failure::Temporary(error.to_string()))?;
    if keys.is_empty() {
        return Ok(false);
    }
    node.operate(user, UserOp::Rewrapped { keys }).await?;
    Ok(true)
}

fn rewrap(
    node: &Node,
    user: UserId,
    unlocked: &Unlocked,
    blobs: Vec<(EntryId, BlobRef)>,
) -> Vec<(EntryId, WrappedKey)> {
    // Those that only a lost password opens stay as they are.
    let wrap = |(id, blob): (EntryId, BlobRef)| {
        node.keys.wrap_for_cluster(&blob, Some((user, unlocked))).ok().map(|key| (id, key))
    };
    blobs.into_iter().filter_map(wrap).collect()
}
