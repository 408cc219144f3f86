//! The few calls that the operator makes to the nodes' admin API. Any node answers for the whole cluster.
//!
//! | call | for |
//! | --- | --- |
//! | `GET /v1/cluster` | epoch, members, under-replicated entries; a member's `drain` says how far its mail was moved, its `node.quarantined` whether its log was put aside |
//! | `PUT /v1/cluster/members/{name}/drain` | ask a node to move its mail away; harmless to repeat |
//! | `DELETE /v1/cluster/members/{name}/drain` | it stays after all |
//! | `POST /v1/domains` | add a domain |
//!
//! A member without `drain` belongs to a node whose version cannot move mail. Every call ends within [`TIMEOUT`],
//! and reads at most [`LARGEST`] bytes.

use crate::gate::{Drain, Log, Member, MemberState, Report};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use ureq::Agent;

pub const TIMEOUT: Duration = Duration::from_secs(5);
/// An answer about 500 members is some 200 KB.
const LARGEST: u64 = 4 * 1024 * 1024;
/// Nodes that are tried before a call fails.
const ATTEMPTS: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No node could be reached: try again later.
    #[error("{0}")]
    Unreachable(String),
    /// The node said no.
    #[error("{url}: HTTP status {status}")]
    Status { url: String, status: u16 },
    /// The node answered what we do not understand: its version is too old or too new.
    #[error("a node's answer is not understood: {0}")]
    Answer(String),
}

/// A node, or several of which any will do.
#[derive(Clone)]
pub struct NodeApi {
    agent: Agent,
    /// `host:port` each.
    addresses: Vec<String>,
    token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterAnswer {
    epoch: u64,
    members: Vec<MemberAnswer>,
    under_replicated_entries: u64,
}

#[derive(Deserialize)]
struct MemberAnswer {
    name: String,
    state: MemberState,
    reachable: bool,
    #[serde(default)]
    drain: Option<DrainAnswer>,
    /// None: it did not answer.
    #[serde(default)]
    node: Option<NodeAnswer>,
}

#[derive(Deserialize)]
struct NodeAnswer {
    #[serde(default)]
    quarantined: Option<QuarantineAnswer>,
}

#[derive(Deserialize)]
struct QuarantineAnswer {
    reason: String,
    at: i64,
}

impl From<NodeAnswer> for Log {
    fn from(answer: NodeAnswer) -> Self {
        answer.quarantined.map_or(Self::Good, |QuarantineAnswer { reason, at }| Self::Replaced { reason, at })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DrainAnswer {
    state: DrainState,
    #[serde(default)]
    entries_to_move: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum DrainState {
    None,
    Moving,
    Done,
}

impl From<DrainAnswer> for Drain {
    fn from(answer: DrainAnswer) -> Self {
        match answer.state {
            DrainState::None => Self::No,
            DrainState::Moving => Self::Moving(answer.entries_to_move),
            DrainState::Done => Self::Done,
        }
    }
}

impl NodeApi {
    pub fn new(addresses: Vec<String>, token: String) -> Self {
        let config =
            Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build();
        Self { agent: Agent::new_with_config(config), addresses, token }
    }

    /// # Errors
    /// If no node answers, or not with what we expect.
    pub async fn report(&self) -> Result<Report, NodeError> {
        let text = self.call("GET", "/v1/cluster".into(), None, &[200]).await?;
        let answer: ClusterAnswer =
            serde_json::from_str(&text).map_err(|error| NodeError::Answer(error.to_string()))?;
        let members = answer.members.into_iter().map(|member| Member {
            name: member.name,
            state: member.state,
            reachable: member.reachable,
            drain: member.drain.map(Drain::from),
            log: member.node.map(Log::from),
        });
        Ok(Report {
            epoch: answer.epoch,
            under_replicated: answer.under_replicated_entries,
            members: members.collect(),
        })
    }

    /// # Errors
    /// As [`NodeApi::report`].
    pub async fn drain(&self, node: &str) -> Result<(), NodeError> {
        self.call("PUT", format!("/v1/cluster/members/{node}/drain"), None, &[200, 202, 204]).await.map(drop)
    }

    /// # Errors
    /// As [`NodeApi::report`].
    pub async fn cancel_drain(&self, node: &str) -> Result<(), NodeError> {
        self.call("DELETE", format!("/v1/cluster/members/{node}/drain"), None, &[200, 202, 204])
            .await
            .map(drop)
    }

    /// Fine if it is there already.
    ///
    /// # Errors
    /// As [`NodeApi::report`].
    pub async fn add_domain(&self, domain: &str) -> Result<(), NodeError> {
        let body = json!({ "domain": domain }).to_string();
        self.call("POST", "/v1/domains".into(), Some(body), &[201, 409]).await.map(drop)
    }

    /// Asks one address after the other until one answers.
    async fn call(
        &self,
        method: &'static str,
        path: String,
        body: Option<String>,
        good: &'static [u16],
    ) -> Result<String, NodeError> {
        let me = self.clone();
        let work = move || {
            let mut last = NodeError::Unreachable("no node is ready".into());
            for address in me.addresses.iter().take(ATTEMPTS) {
                match me.send(method, &format!("http://{address}{path}"), body.as_deref(), good) {
                    Err(error @ NodeError::Unreachable(_)) => last = error,
                    answer => return answer,
                }
            }
            Err(last)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| NodeError::Unreachable(error.to_string()))?
    }

    fn send(&self, method: &str, url: &str, body: Option<&str>, good: &[u16]) -> Result<String, NodeError> {
        let away = |error: &dyn std::fmt::Display| NodeError::Unreachable(format!("{url}: {error}"));
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(body.unwrap_or_default().to_owned())
            .map_err(|error| away(&error))?;
        let mut response = self.agent.run(request).map_err(|error| away(&error))?;
        let status = response.status().as_u16();
        if !good.contains(&status) {
            return Err(NodeError::Status { url: url.to_owned(), status });
        }
        response.body_mut().with_config().limit(LARGEST).read_to_string().map_err(|error| away(&error))
    }
}
