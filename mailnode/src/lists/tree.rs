//! Bringing one message to many users along a tree of nodes (DESIGN 7; Scribe's multicast, PAPERS): each node delivers to the
//! users that it manages and passes the message on to at most [`FAN_OUT`] others, each with its part of the rest. So no node sends
//! a message more often than that, however large the cluster, and the work is where the users' profiles and mail maps are.
//!
//! Where a node does not answer, its parent does its part. A member's copy has an id and a place in time that follow from the message and the
//! user, so doing it twice gives one message, which the user may meanwhile have moved, flagged or expunged.

use crate::delivery::{self, Fixed, Recipient};
use crate::node::Node;
use crate::wire::{RecipientState, Request, Response};
use bytes::Bytes;
use cluster::tree::FAN_OUT;
use cluster::{EntryId, FolderId, NodeId, Timestamp, UserId};
use futures_util::future::{join, join_all};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A part of the tree may take so long.
const DEADLINE: Duration = Duration::from_secs(60);
/// Recipients of one write.
const AT_ONCE: usize = 500;

/// What is brought to the members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fan {
    /// The queued message: ids of copies follow from it.
    pub origin: EntryId,
    /// When it entered the queue.
    pub at: Timestamp,
    /// Unix seconds.
    pub arrived: i64,
    /// Some copies may have been made already.
    pub again: bool,
}

/// A node, and the users for whom it does the work.
pub type Share = (NodeId, Vec<UserId>);

/// Why a user did not get the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotDelivered {
    /// To be tried again.
    Later,
    Full,
    /// There is no such user any more, or they take no mail.
    Gone,
}

impl Fan {
    fn copy_of(&self, user: UserId) -> EntryId {
        let mut hasher = blake3::Hasher::new_derive_key("prickle 2026-11 copy of a message to a list");
        hasher.update(&self.origin.to_bytes()).update(&user.to_bytes());
        let mut random = [0; 16];
        hasher.finalize_xof().fill(&mut random);
        EntryId::new(self.origin.unix_millis(), u128::from_be_bytes(random))
    }
}

/// Does this node's share, and has the others do theirs. Those who did not get the message, with the reason.
pub async fn fan(
    node: &Arc<Node>,
    fan: &Fan,
    message: Bytes,
    shares: Vec<Share>,
) -> Vec<(UserId, NotDelivered)> {
    let (own, others): (Vec<Share>, Vec<Share>) = shares.into_iter().partition(|(id, _)| *id == node.id);
    let own: Vec<UserId> = own.into_iter().flat_map(|(_, users)| users).collect();
    let parts = branches(others).into_iter().map(|branch| pass_on(node, fan, message.clone(), branch));
    let (mut failed, theirs) = join(deliver(node, fan, &message, own), join_all(parts)).await;
    failed.extend(theirs.into_iter().flatten());
    failed
}

/// At most [`FAN_OUT`] branches, as equal as can be. The first node of each passes the rest on.
fn branches(shares: Vec<Share>) -> Vec<Vec<Share>> {
    let mut branches: Vec<Vec<Share>> = Vec::new();
    for (index, share) in shares.into_iter().enumerate() {
        if index < FAN_OUT {
            branches.push(vec![share]);
        } else if let Some(branch) = branches.get_mut(index % FAN_OUT) {
            branch.push(share);
        }
    }
    branches
}

async fn pass_on(
    node: &Arc<Node>,
    fan: &Fan,
    message: Bytes,
    branch: Vec<Share>,
) -> Vec<(UserId, NotDelivered)> {
    let Some(&(head, _)) = branch.first() else { return Vec::new() };
    let request = Request::Fan { fan: fan.clone(), shares: branch.clone() };
    if !node.topology.is_avoided(head)
        && let Ok((Response::Fanned(failed), _)) =
            node.call_with(head, request, message.clone(), DEADLINE).await
    {
        return failed;
    }
    tracing::info!(peer = %head, "a part of a list's members is brought the message by another node");
    let users = branch.into_iter().flat_map(|(_, users)| users).collect();
    deliver(node, &Fan { again: true, ..fan.clone() }, &message, users).await
}

async fn deliver(
    node: &Arc<Node>,
    fan: &Fan,
    message: &Bytes,
    users: Vec<UserId>,
) -> Vec<(UserId, NotDelivered)> {
    let mut failed = Vec::new();
    for users in users.chunks(AT_ONCE) {
        let mut recipients = Vec::with_capacity(users.len());
        for (user, state) in node.verify(users).await {
            match state {
                Ok(RecipientState::Accepts { mail_map, seal_to, .. }) => recipients.push(Recipient {
                    user,
                    mail_map,
                    folder: FolderId::INBOX,
                    flags: Vec::new(),
                    internal_date: Some(fan.arrived),
                    seal_to,
                    fixed: Some(Fixed { id: fan.copy_of(user), at: fan.at, again: fan.again }),
                }),
                Ok(RecipientState::OverQuota) => failed.push((user, NotDelivered::Full)),
                Ok(RecipientState::Unknown | RecipientState::Disabled) => {
                    failed.push((user, NotDelivered::Gone))
                }
                Err(_) => failed.push((user, NotDelivered::Later)),
            }
        }
        let to: Vec<UserId> = recipients.iter().map(|recipient| recipient.user).collect();
        let outcomes = delivery::deliver(node, recipients, message).await;
        let not_stored = to.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_err());
        failed.extend(not_stored.map(|(&user, _)| (user, NotDelivered::Later)));
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_node_has_more_than_sixteen_children_and_everybody_is_in_one_branch() {
        for nodes in [0, 1, 4, 16, 17, 300, 1_000] {
            let shares: Vec<Share> =
                (0..nodes).map(|id| (NodeId(id), vec![UserId(u128::from(id))])).collect();
            let branches = branches(shares);
            assert!(branches.len() <= FAN_OUT);
            let mut all: Vec<u64> = branches.iter().flatten().map(|(id, _)| id.0).collect();
            all.sort_unstable();
            assert_eq!(all, (0..nodes).collect::<Vec<_>>());
            let longest = branches.iter().map(Vec::len).max().unwrap_or(0);
            assert_eq!(longest, (nodes as usize).div_ceil(FAN_OUT));
        }
    }

    #[test]
    fn a_users_copy_has_one_id_however_often_it_is_made() {
        let origin = EntryId::new(1_700_000_000_000, 7);
        let fan = Fan { origin, at: Timestamp::ZERO, arrived: 0, again: false };
        let again = Fan { again: true, ..fan.clone() };
        assert_eq!(fan.copy_of(UserId(1)), again.copy_of(UserId(1)));
        assert_ne!(fan.copy_of(UserId(1)), fan.copy_of(UserId(2)));
        assert_eq!(fan.copy_of(UserId(1)).unix_millis(), origin.unix_millis());
    }
}
