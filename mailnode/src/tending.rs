//! A slow pass over all accounts, done by one node: how many there are of each mode, and whether the mail of one still waits to
//! be wrapped anew ([`crate::manager`]) although nobody looks at it. Its manager is asked to look.

use crate::node::Node;
use crate::wire::UserOp;
use bytes::Bytes;
use cluster::{Bucket, UserId};
use directory::encryption::Mode;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Accounts looked at in one step.
const STEP: usize = 500;
const PAUSE: Duration = Duration::from_secs(5);

/// What the pass has found so far.
#[derive(Default)]
struct Pass {
    after: Option<Bytes>,
    cluster: u64,
    user: u64,
    rewrapping: u64,
}

/// Runs until the node is gone.
pub async fn tend(node: Weak<Node>) {
    let mut pass = Pass::default();
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(node) = node.upgrade() else { return };
        if node.topology.now().user_map.manager(Bucket(0)) != Some(node.id) {
            // Another node has the numbers now.
            pass = Pass::default();
            node.metrics.encryption.accounts(0, 0, 0);
            continue;
        }
        if let Err(failure) = step(&node, &mut pass).await {
            tracing::debug!(%failure, "the pass over all accounts waits");
        }
    }
}

async fn step(node: &Arc<Node>, pass: &mut Pass) -> Result<(), crate::wire::Failure> {
    let page = node.users.profiles(pass.after.as_deref(), STEP).await?;
    for profile in &page.profiles {
        match profile.encryption.mode {
            Mode::Cluster => pass.cluster += 1,
            Mode::User => pass.user += 1,
        }
        if profile.encryption.rewrapping {
            pass.rewrapping += 1;
            look(node, profile.id).await;
        }
    }
    pass.after = page.next;
    if pass.after.is_none() {
        node.metrics.encryption.accounts(pass.cluster, pass.user, pass.rewrapping);
        *pass = Pass::default();
    }
    Ok(())
}

async fn look(node: &Arc<Node>, user: UserId) {
    if let Err(failure) = node.operate(user, UserOp::Misfits { most: 0 }).await {
        tracing::debug!(%user, %failure, "its mail is wrapped anew later");
    }
}
