//! The cluster's state, as any node sees it.

use super::AdminState;
use crate::node::Node;
use crate::parts::PartsStatus;
use crate::wire::{NodeStatus, Request, Response};
use axum::Json;
use axum::extract::State;
use cluster::{Member, MemberState};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A draining node counts what it still has.
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    pub epoch: u64,
    /// Name of the coordinator, if one is known.
    pub coordinator: Option<String>,
    pub members: Vec<MemberStatus>,
    /// Entries with fewer reachable replicas than they should have, as far as the nodes that answer know.
    pub under_replicated_entries: u64,
    /// Updates that some peer has not acknowledged.
    pub pending_updates: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    pub name: String,
    pub id: String,
    pub state: cluster::MemberState,
    pub zone: Option<String>,
    pub address: String,
    /// False if this node routes around it now.
    pub reachable: bool,
    /// Buckets of the user map that it manages.
    pub buckets: usize,
    /// What it says of itself; absent if it does not answer.
    pub node: Option<NodeStatus>,
    /// Absent if it does not answer.
    pub drain: Option<DrainStatus>,
    /// MIME parts there; absent if it does not answer, or does not know parts.
    #[serde(default)]
    pub parts: Option<PartsStatus>,
}

/// Whether a member may be taken away.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    pub state: DrainState,
    /// Messages that have a copy there yet.
    pub entries_to_move: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainState {
    None,
    Moving,
    /// Nothing lives only there.
    Done,
}

pub async fn status(State(state): State<AdminState>) -> Json<ClusterStatus> {
    let node = &state.node;
    let known = node.topology.now();
    let answers = join_all(known.view.members.iter().map(|member| async move {
        match node.call(member.id, Request::Status, Duration::from_secs(1)).await {
            Ok(Response::Status(status)) => {
                (Some(status), drain_of(node, member).await, parts_of(node, member).await)
            }
            _ => (None, None, None),
        }
    }))
    .await;
    let members: Vec<MemberStatus> = known
        .view
        .members
        .iter()
        .zip(answers)
        .map(|(member, (answer, drain, parts))| MemberStatus {
            name: member.name.clone(),
            id: member.id.to_string(),
            state: member.state,
            zone: member.zone.clone(),
            address: member.addresses.rpc.clone(),
            reachable: answer.is_some(),
            buckets: known.user_map.buckets_of(member.id).count(),
            node: answer,
            drain,
            parts,
        })
        .collect();
    let sum = |value: fn(&NodeStatus) -> u64| members.iter().filter_map(|m| m.node.as_ref()).map(value).sum();
    Json(ClusterStatus {
        epoch: known.view.epoch.0,
        coordinator: node
            .membership
            .coordinator()
            .and_then(|id| known.view.member(id))
            .map(|member| member.name.clone()),
        under_replicated_entries: sum(|status| status.under_replicated_entries),
        pending_updates: sum(|status| status.pending_updates),
        members,
    })
}

async fn parts_of(node: &Arc<Node>, member: &Member) -> Option<PartsStatus> {
    match node.call(member.id, Request::Parts, Duration::from_secs(1)).await {
        Ok(Response::Parts(parts)) => Some(parts),
        _ => None,
    }
}

async fn drain_of(node: &Arc<Node>, member: &Member) -> Option<DrainStatus> {
    if member.state != MemberState::Draining {
        return Some(DrainStatus { state: DrainState::None, entries_to_move: 0 });
    }
    match node.call(member.id, Request::DrainProgress, DRAIN_DEADLINE).await {
        Ok(Response::DrainProgress(progress)) => Some(DrainStatus {
            state: if progress.done { DrainState::Done } else { DrainState::Moving },
            entries_to_move: progress.copies,
        }),
        _ => None,
    }
}
