//! What this node knows of the cluster now: the view, the user map over it, who is avoided, who is how loaded.
//! All of it soft.

use cluster::{Bucket, Candidate, Epoch, Incarnation, Load, Member, NodeId, UserId, UserMap, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A view and what follows from it.
#[derive(Debug, PartialEq, Eq)]
pub struct ClusterState {
    pub view: View,
    pub user_map: UserMap,
}

/// A load report older than this says nothing.
const STALE_LOAD: Duration = Duration::from_secs(10);

pub struct Topology {
    me: NodeId,
    state: Mutex<Arc<ClusterState>>,
    /// A view was installed. This and the next wake in the order of waiting, unlike a `watch`.
    news_of_view: Notify,
    avoided: Mutex<BTreeSet<NodeId>>,
    /// Somebody began to be avoided.
    news_of_avoided: Notify,
    loads: Mutex<BTreeMap<NodeId, (Load, Instant)>>,
    /// Their disks may lack what they should have.
    refilling: Mutex<BTreeSet<NodeId>>,
}

impl Topology {
    pub fn new(me: NodeId) -> Self {
        let view = View::default();
        let user_map = UserMap::new(&view);
        Self {
            me,
            state: Mutex::new(Arc::new(ClusterState { view, user_map })),
            news_of_view: Notify::new(),
            avoided: Mutex::default(),
            news_of_avoided: Notify::new(),
            loads: Mutex::default(),
            refilling: Mutex::default(),
        }
    }

    /// Installs a view if it is newer. True if it was.
    pub fn install(&self, view: View) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if view.epoch <= state.view.epoch {
            return false;
        }
        let user_map = UserMap::new(&view);
        *state = Arc::new(ClusterState { view, user_map });
        drop(state);
        self.news_of_view.notify_waiters();
        true
    }

    pub fn now(&self) -> Arc<ClusterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resolves when there is a newer view than that of `epoch`.
    pub async fn newer_than(&self, epoch: Epoch) -> Arc<ClusterState> {
        loop {
            // Made before the look: a view that comes after it is not missed.
            let news = self.news_of_view.notified();
            let state = self.now();
            if state.view.epoch > epoch {
                return state;
            }
            news.await;
        }
    }

    pub fn is_avoided(&self, node: NodeId) -> bool {
        self.avoided.lock().unwrap_or_else(PoisonError::into_inner).contains(&node)
    }

    /// Resolves when `node` begins to be avoided; if it is already, when it begins again: whoever calls it then
    /// has nobody better.
    pub async fn until_avoided(&self, node: NodeId) {
        let mut before = self.is_avoided(node);
        loop {
            // Made before the look: a change after it is not missed.
            let news = self.news_of_avoided.notified();
            let now = self.is_avoided(node);
            if now && !before {
                return;
            }
            before = now;
            news.await;
        }
    }

    /// Routes around a peer, or uses it again.
    pub fn set_avoided(&self, node: NodeId, avoided: bool) {
        let changed = {
            let mut set = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
            if avoided { set.insert(node) } else { set.remove(&node) }
        };
        if changed {
            self.news_of_avoided.notify_waiters();
        }
    }

    pub fn is_refilling(&self, node: NodeId) -> bool {
        self.refilling.lock().unwrap_or_else(PoisonError::into_inner).contains(&node)
    }

    /// What a peer says of its disk. True if that is news.
    pub fn set_refilling(&self, node: NodeId, refilling: bool) -> bool {
        let mut set = self.refilling.lock().unwrap_or_else(PoisonError::into_inner);
        if refilling { set.insert(node) } else { set.remove(&node) }
    }

    pub fn report_load(&self, node: NodeId, load: Load) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.insert(node, (load, Instant::now()));
    }

    pub fn load(&self, node: NodeId) -> Load {
        let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads
            .get(&node)
            .filter(|(_, at)| at.elapsed() < STALE_LOAD)
            .map_or(Load::default(), |(load, _)| *load)
    }

    pub fn manager_of(&self, user: UserId) -> Option<NodeId> {
        self.now().user_map.manager_of(user)
    }

    pub fn is_manager(&self, user: UserId) -> bool {
        self.manager_of(user) == Some(self.me)
    }

    /// The user's rendezvous order of active nodes, as placement wants it.
    pub fn candidates(&self, user: UserId) -> Vec<Candidate> {
        let state = self.now();
        let order = state.user_map.order(Bucket::of_user(user));
        order
            .into_iter()
            .map(|node| Candidate {
                node,
                zone: state.view.member(node).and_then(|member| member.zone.clone()),
                load: self.load(node),
                avoided: self.is_avoided(node),
            })
            .collect()
    }

    /// Members to read from that answer as far as we know, with their incarnations.
    pub fn readable(&self) -> Vec<(NodeId, Incarnation)> {
        let state = self.now();
        let serving = state.view.serving().filter(|member| !self.is_avoided(member.id));
        serving.map(|member| (member.id, member.incarnation)).collect()
    }

    pub fn member(&self, node: NodeId) -> Option<Member> {
        self.now().view.member(node).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::Epoch;

    #[test]
    fn an_older_view_is_not_installed() {
        let topology = Topology::new(NodeId(1));
        assert!(topology.install(View::new(Epoch(5), vec![])));
        assert!(!topology.install(View::new(Epoch(4), vec![])));
        assert!(!topology.install(View::new(Epoch(5), vec![])));
        assert_eq!(topology.now().view.epoch, Epoch(5));
    }
}
