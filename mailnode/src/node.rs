//! One mail node: its parts, and how they call each other and the other nodes.
//!
//! Every request goes through [`Node::call`], which answers requests to ourselves without the network, so that
//! the code above does not care where a replica or manager is (functional homogeneity).

use crate::clock::NodeClock;
use crate::config::{Limits, ReplicationConfig};
use crate::crypto::Keys;
use crate::healing::Healing;
use crate::log_heads::LogHeads;
use crate::manager::Manager;
use crate::membership::MembershipHandle;
use crate::metrics::Metrics;
use crate::notices::Notices;
use crate::outbound::Outbound;
use crate::parts::Parts;
use crate::peer_server::STALE;
use crate::replication::Replication;
use crate::rotation::Rotation;
use crate::sessions::Watchers;
use crate::sessions::recent;
use crate::signed_accounts::SignedAccounts;
use crate::topology::Topology;
use crate::transport::Transport;
use crate::userdb::UserDatabase;
use crate::wire::{Failure, RecipientState, Request, Response, Sender, UserOp, UserReply, decode, encode};
use bytes::Bytes;
use cluster::{Bucket, Entry, Incarnation, Load, NodeId, Policy, UserId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::Store;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// What of the configuration the node uses while it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: String,
    /// This life of the node.
    pub incarnation: Incarnation,
    pub host_name: String,
    pub replication: ReplicationConfig,
    pub placement: Policy,
    pub limits: Limits,
    pub clear_text_login: bool,
}

pub struct Node {
    pub id: NodeId,
    pub settings: Settings,
    pub clock: NodeClock,
    pub keys: Keys,
    pub rotation: Rotation,
    pub signed_accounts: SignedAccounts,
    pub store: Store,
    pub topology: Topology,
    pub manager: Manager,
    pub replication: Replication,
    pub notices: Notices,
    pub watchers: Watchers,
    pub healing: Healing,
    pub log_heads: LogHeads,
    pub parts: Parts,
    pub users: UserDatabase,
    pub outbound: Outbound,
    pub membership: MembershipHandle,
    pub metrics: Metrics,
    pub transport: Arc<dyn Transport>,
    pub recent_bodies: recent::Room,
    /// Password checks running now.
    pub password_slots: Semaphore,
    pub password_key: [u8; 32],
}

/// Why a call to a node brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node cannot be reached; it was not asked.
    #[error("node {0} cannot be reached")]
    Away(NodeId),
    /// The node does not answer; whether it did what was asked is not known.
    #[error("node {0} does not answer")]
    Unknown(NodeId),
    /// It answered, and will not.
    #[error("{0}")]
    Refused(Failure),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Away(_) | CallError::Unknown(_) => Self::Temporary(error.to_string()),
            CallError::Refused(failure) => failure,
        }
    }
}

/// How long a manager may take before the next node is asked, and the one after.
const MANAGER_DEADLINE: Duration = Duration::from_secs(10);
const SHORT_DEADLINE: Duration = Duration::from_secs(2);
/// How long nodes may disagree about who manages a user before the client is told to try again.
const CHANGE_OF_VIEW: Duration = Duration::from_secs(4);

impl Node {
    /// Calls a node, ourselves included.
    ///
    /// # Errors
    /// [`CallError::Away`] after the deadline at the latest; then the peer is avoided until it answers probes.
    pub async fn call(
        self: &Arc<Self>,
        node: NodeId,
        request: Request,
        deadline: Duration,
    ) -> Result<Response, CallError> {
        self.call_with(node, request, Bytes::new(), deadline).await.map(|(response, _)| response)
    }

    /// [`Node::call`] with bytes in both directions.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub async fn call_with(
        self: &Arc<Self>,
        node: NodeId,
        request: Request,
        body: Bytes,
        deadline: Duration,
    ) -> Result<(Response, Bytes), CallError> {
        let (response, body) = if node == self.id {
            let handled = tokio::time::timeout(deadline, self.clone().handle_boxed(node, request, body));
            handled.await.map_err(|_| CallError::Unknown(node))?
        } else {
            self.call_peer(node, request, body, deadline).await?
        };
        match response {
            Response::Failed(failure) => Err(CallError::Refused(failure)),
            response => Ok((response, body)),
        }
    }

    async fn call_peer(
        self: &Arc<Self>,
        node: NodeId,
        request: Request,
        body: Bytes,
        deadline: Duration,
    ) -> Result<(Response, Bytes), CallError> {
        let Some(peer) = self.peer(node) else { return Err(CallError::Away(node)) };
        let name = request.name();
        let (head, body) = encode(self.sender(), &request, body).map_err(|error| {
            CallError::Refused(Failure::Invalid(format!("{name} cannot be encoded: {error}")))
        })?;
        let answer = tokio::select! {
            biased;
            answer = self.transport.call(peer, head, body, deadline) => answer,
            // A probe decides whether the peer is avoided; anything else need not wait for what will not come.
            () = self.topology.until_avoided(node), if name != "probe" => return Err(CallError::Unknown(node)),
        };
        match answer {
            Ok((head, body)) => {
                self.membership.operation_succeeded(node);
                let (sender, response, body) = decode(&head, body).map_err(|error| {
                    CallError::Refused(Failure::Temporary(format!(
                        "answer to {name} not understood: {error}"
                    )))
                })?;
                self.hear(node, &sender);
                Ok((response, body))
            }
            Err(error) => {
                tracing::debug!(peer = %node, request = name, %error, "call failed");
                // A probe's failure is told by whoever probes; an overloaded peer is not a dead one.
                let probe = name == "probe";
                if !probe && !matches!(error, rpc::Error::Overloaded | rpc::Error::TooLarge { .. }) {
                    self.membership.operation_failed(node);
                }
                Err(if error.certainly_not_executed() {
                    CallError::Away(node)
                } else {
                    CallError::Unknown(node)
                })
            }
        }
    }

    /// A one-way message; nobody minds if it is lost.
    pub fn tell(self: &Arc<Self>, node: NodeId, request: Request) {
        let me = self.clone();
        tokio::spawn(async move {
            let _ = me.call(node, request, SHORT_DEADLINE).await;
        });
    }

    fn peer(&self, node: NodeId) -> Option<rpc::PeerAddress> {
        // The Lease of a node that came back may have a newer address than the view.
        let member = self.membership.candidate(node).or_else(|| self.topology.member(node))?;
        Some(rpc::PeerAddress { node_id: node.0, name: member.name, address: member.addresses.rpc })
    }

    /// Answers a request from a peer or from ourselves.
    pub async fn handle(self: Arc<Self>, from: NodeId, request: Request, body: Bytes) -> (Response, Bytes) {
        match self.serve(from, request, body).await {
            Ok(answer) => answer,
            Err(failure) => (Response::Failed(failure), Bytes::new()),
        }
    }

    /// Boxed, because handling may call ourselves again.
    fn handle_boxed(
        self: Arc<Self>,
        from: NodeId,
        request: Request,
        body: Bytes,
    ) -> std::pin::Pin<Box<dyn Future<Output = (Response, Bytes)> + Send>> {
        Box::pin(self.handle(from, request, body))
    }

    async fn serve(
        self: &Arc<Self>,
        from: NodeId,
        request: Request,
        body: Bytes,
    ) -> Result<(Response, Bytes), Failure> {
        let response = match request {
            Request::Probe { epoch } => {
                let view = &self.topology.now().view;
                if view.epoch > epoch && from != self.id {
                    self.tell(from, Request::View { view: view.clone(), root: None });
                }
                Response::Probe { epoch: view.epoch }
            }
            Request::Suspect { about } => {
                self.membership.suspect_reported(about);
                Response::Done
            }
            Request::View { view, root } => {
                self.membership.view_received(view, root);
                Response::Done
            }
            Request::Changed { user } => {
                self.watchers.wake(user);
                Response::Done
            }
            Request::Recipients { users, acting } => {
                self.healing.client_served();
                Response::Recipients(self.manager.recipients(self, from, users, acting).await?)
            }
            Request::Notice { entries, number, acting } => {
                Response::Numbered(self.manager.notice(self, from, entries, number, acting).await?)
            }
            Request::NoticesLost => {
                self.manager.notices_lost();
                self.outbound.doubt();
                Response::Done
            }
            Request::User { user, op, acting } => {
                self.healing.client_served();
                Response::User(self.manager.operate(self, from, user, op, acting).await?)
            }
            Request::Status => Response::Status(self.status().await),
            Request::KeepHead(head) => {
                self.log_heads.keep(from, head);
                Response::Done
            }
            Request::KeptHead => self.log_heads.kept(self, from),
            Request::Queue(request) => Response::Queue(crate::outbound::control::serve(self, request).await?),
            Request::Directory(request) => Response::Directory(self.users.serve(from, request).await),
            request @ (Request::Compare(_)
            | Request::Entries { .. }
            | Request::Drain { .. }
            | Request::DrainProgress
            | Request::Tombstones { .. }) => crate::healing::serve(self, from, request).await?,
            request @ (Request::KeepParts { .. }
            | Request::StorePart { .. }
            | Request::WantedParts { .. }
            | Request::Parts) => crate::parts::serve(self, request, body).await?,
            Request::Fan { fan, shares } => {
                Response::Fanned(crate::lists::fan(self, &fan, body, shares).await)
            }
            request => return crate::replica::serve(self, from, request, body).await,
        };
        Ok((response, Bytes::new()))
    }

    /// Asks the manager of a bucket, and if it does not answer the next node in rendezvous order, which then
    /// stands in for it: it is only soft state.
    async fn ask_manager<F>(
        self: &Arc<Self>,
        bucket: Bucket,
        request: F,
        deadline: Duration,
    ) -> Result<Response, Failure>
    where
        F: Fn(bool) -> Request,
    {
        let mut last = Failure::Temporary("this node knows no other yet; try again".into());
        let begun = Instant::now();
        for round in 0.. {
            let state = self.topology.now();
            let mut order = state.user_map.order(bucket);
            order.sort_by_key(|&node| self.topology.is_avoided(node));
            let manager = state.user_map.manager(bucket);
            for node in order.into_iter().take(3) {
                let request = request(manager != Some(node));
                let (repeatable, may_come_late) = (request.is_repeatable(), request.may_come_late());
                let asked = Instant::now();
                match self.call(node, request, deadline).await {
                    Ok(response) => return Ok(response),
                    Err(CallError::Refused(failure)) if failure.is_to_be_asked_again() => {
                        // If one of us is behind: views travel within milliseconds.
                        last = failure;
                        break;
                    }
                    Err(CallError::Refused(failure)) => return Err(failure),
                    Err(unknown @ CallError::Unknown(_)) if !repeatable => return Err(unknown.into()),
                    Err(away) => {
                        self.metrics.manager_retries.inc();
                        if matches!(away, CallError::Unknown(_)) && !may_come_late {
                            tokio::time::sleep_until(asked + STALE).await;
                        }
                        last = away.into();
                    }
                }
            }
            // Views travel within milliseconds, but a node may be busy; nodes that are away are not waited for.
            let changing = last.is_to_be_asked_again() && begun.elapsed() < CHANGE_OF_VIEW;
            if round > 0 && !changing {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(match last {
            again if again.is_to_be_asked_again() => {
                Failure::Temporary("the cluster is changing; try again".into())
            }
            other => other,
        })
    }

    /// An operation on a user's account, at its manager.
    ///
    /// # Errors
    /// The manager's, or [`Failure::Temporary`] if nobody could be reached.
    pub async fn operate(self: &Arc<Self>, user: UserId, op: UserOp) -> Result<UserReply, Failure> {
        let request = |acting| Request::User { user, op: op.clone(), acting };
        match self.ask_manager(Bucket::of_user(user), request, MANAGER_DEADLINE).await? {
            Response::User(reply) => Ok(reply),
            _ => Err(Failure::Temporary("unexpected answer".into())),
        }
    }

    /// Verifies recipients, all those of one manager in one call (DESIGN 2, step 2).
    pub async fn verify(
        self: &Arc<Self>,
        users: &[UserId],
    ) -> BTreeMap<UserId, Result<RecipientState, Failure>> {
        let calls = self.by_manager(users.iter().copied()).into_iter().map(|users| async move {
            let Some(&first) = users.first() else { return Vec::new() };
            let request = |acting| Request::Recipients { users: users.clone(), acting };
            let answer = self.ask_manager(Bucket::of_user(first), request, SHORT_DEADLINE).await;
            match answer {
                Ok(Response::Recipients(states)) => {
                    let checked = |(user, state)| (user, self.signed_accounts.check(user, state));
                    users.into_iter().zip(states).map(checked).collect()
                }
                Ok(_) => Vec::new(),
                Err(failure) => users.into_iter().map(|user| (user, Err(failure.clone()))).collect(),
            }
        });
        futures_util::future::join_all(calls).await.into_iter().flatten().collect()
    }

    fn by_manager(&self, users: impl Iterator<Item = UserId>) -> Vec<Vec<UserId>> {
        let state = self.topology.now();
        let mut groups: BTreeMap<Option<NodeId>, Vec<UserId>> = BTreeMap::new();
        for user in users {
            groups.entry(state.user_map.manager_of(user)).or_default().push(user);
        }
        groups.into_values().collect()
    }

    /// Tells the manager of one user's new entries and waits for their UIDs.
    ///
    /// # Errors
    /// If they could not be numbered in time; the entries are stored all the same.
    pub async fn number(
        self: &Arc<Self>,
        user: UserId,
        entries: Vec<Entry>,
    ) -> Result<Vec<Option<crate::wire::Numbered>>, Failure> {
        let request = |acting| Request::Notice { entries: entries.clone(), number: true, acting };
        match self.ask_manager(Bucket::of_user(user), request, MANAGER_DEADLINE).await? {
            Response::Numbered(numbered) => Ok(numbered),
            _ => Err(Failure::Temporary("unexpected answer".into())),
        }
    }

    /// Messages of a user whose keys are not wrapped yet as the account's mode asks for.
    ///
    /// # Errors
    /// The manager's.
    pub async fn entries_to_rewrap(self: &Arc<Self>, user: UserId) -> Result<u64, Failure> {
        match self.operate(user, UserOp::Misfits { most: 0 }).await? {
            UserReply::Misfits(found) => Ok(found.left),
            _ => Err(Failure::Temporary("unexpected answer".into())),
        }
    }

    /// A hash by which a password that was right is recognised, useless outside this process.
    pub fn password_proof(&self, password: &str) -> blake3::Hash {
        blake3::keyed_hash(&self.password_key, password.as_bytes())
    }

    /// An account's record was changed: its manager should not wait until its copy is old.
    pub async fn profile_changed(self: &Arc<Self>, user: UserId) {
        if let Err(failure) = self.operate(user, UserOp::Refresh).await {
            tracing::debug!(%user, %failure, "the manager will find the change by itself");
        }
    }

    /// What every message tells of this node.
    pub fn sender(&self) -> Sender {
        self.clock.sender(self.keys.newest(), self.healing.is_refilling())
    }

    /// What a peer's message tells of it.
    pub fn hear(&self, peer: NodeId, sender: &Sender) {
        self.clock.hear(peer, sender);
        self.rotation.hear(peer, sender.newest_secret);
        if self.topology.set_refilling(peer, sender.refilling) && !sender.refilling {
            // What we read there before said less.
            self.manager.notices_lost();
        }
    }

    /// The load report that rides on every call.
    pub fn load(&self) -> Load {
        self.store.load()
    }
}
