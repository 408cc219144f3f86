//! Whether all nodes know parts. A node of an older version can neither store nor read them; so until every member of the view that
//! serves has once answered a question about parts in its present life, messages are stored whole (docs/decisions/versions.md).

use super::lock;
use crate::node::{CallError, Node};
use crate::wire::{Failure, Request, Response};
use cluster::{Incarnation, NodeId};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Versions {
    /// Lives that know parts. No larger than the largest view.
    known: Mutex<BTreeMap<NodeId, Incarnation>>,
}

/// Costs nothing once all have answered.
pub async fn all_know_parts(node: &Arc<Node>) -> bool {
    let view = &node.topology.now().view;
    let known = lock(&node.parts.versions.known).clone();
    let asked = view
        .serving()
        .filter(|member| member.id != node.id && known.get(&member.id) != Some(&member.incarnation));
    let answers = join_all(asked.map(|member| async move {
        if node.topology.is_avoided(member.id) {
            return None;
        }
        match node.call(member.id, Request::Parts, DEADLINE).await {
            Ok(Response::Parts(_)) => Some((member.id, member.incarnation)),
            Err(CallError::Refused(Failure::Invalid(_))) => {
                tracing::debug!(member = member.name, "an older node does not know parts");
                None
            }
            _ => None,
        }
    }))
    .await;
    let all = answers.iter().all(Option::is_some) && !view.members.is_empty();
    if !answers.is_empty() {
        let mut known = lock(&node.parts.versions.known);
        known.retain(|id, _| view.member(*id).is_some());
        known.extend(answers.into_iter().flatten());
    }
    all
}
