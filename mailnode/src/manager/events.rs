//! Telling the nodes with sessions of a user that something changed (POST's event notification, DESIGN 7; docs/notification.md).
//!
//! - An event says no more than that. What happened a session asks for, from the MODSEQ and the folders that it has shown on, so that
//!   events may be lost, late, doubled or out of order, and a burst of them is one.
//! - One event to a node is under way at a time; what happens meanwhile is one more event afterwards.
//! - It is repeated until the node has answered, or has no place in the view, or did not ask for so long that it has no sessions any more.
//!   A node that is back, and all nodes after a change of view, look by themselves.

use super::{UserCell, lock};
use crate::node::Node;
use crate::wire::Request;
use cluster::{NodeId, UserId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// A node that did not sync for so long is forgotten; sessions sync at least every 30 seconds.
const WATCH: Duration = Duration::from_secs(120);
const DEADLINE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Nodes with sessions of a user.
#[derive(Clone, Default)]
pub struct Watchers(Arc<Mutex<BTreeMap<NodeId, Watcher>>>);

struct Watcher {
    renewed: Instant,
    telling: Telling,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Telling {
    Nothing,
    /// A task tells it.
    UnderWay,
    /// And once more.
    Again,
}

impl Watchers {
    pub fn watch(&self, node: NodeId) {
        let mut watchers = lock(&self.0);
        let watcher =
            watchers.entry(node).or_insert(Watcher { renewed: Instant::now(), telling: Telling::Nothing });
        watcher.renewed = Instant::now();
    }

    pub fn are_there(&self) -> bool {
        lock(&self.0).values().any(|watcher| watcher.renewed.elapsed() < WATCH)
    }

    /// Those for whom a task has to be begun.
    fn begin(&self) -> Vec<NodeId> {
        let mut watchers = lock(&self.0);
        watchers.retain(|_, watcher| watcher.renewed.elapsed() < WATCH);
        let mut begun = Vec::new();
        for (&node, watcher) in watchers.iter_mut() {
            watcher.telling = match watcher.telling {
                Telling::Nothing => {
                    begun.push(node);
                    Telling::UnderWay
                }
                Telling::UnderWay | Telling::Again => Telling::Again,
            };
        }
        begun
    }

    /// The node has answered. True if it has to be told again.
    fn told(&self, node: NodeId) -> bool {
        let mut watchers = lock(&self.0);
        let Some(watcher) = watchers.get_mut(&node) else { return false };
        let again = watcher.telling == Telling::Again;
        watcher.telling = if again { Telling::UnderWay } else { Telling::Nothing };
        again
    }

    /// The node has not answered. True if it is to be asked again; then one answer is enough.
    fn missed(&self, node: NodeId, serves: bool) -> bool {
        let mut watchers = lock(&self.0);
        let Some(watcher) = watchers.get_mut(&node) else { return false };
        if serves && watcher.renewed.elapsed() < WATCH {
            watcher.telling = Telling::UnderWay;
            return true;
        }
        watchers.remove(&node);
        false
    }
}

/// Something changed that sessions of this user show.
pub fn publish(node: &Arc<Node>, cell: &UserCell) {
    for watcher in cell.watchers.begin() {
        tokio::spawn(tell(node.clone(), cell.user, cell.watchers.clone(), watcher));
    }
}

async fn tell(node: Arc<Node>, user: UserId, watchers: Watchers, watcher: NodeId) {
    let mut pause = FIRST_PAUSE;
    loop {
        let events = &node.metrics.events;
        let again = if node.call(watcher, Request::Changed { user }, DEADLINE).await.is_ok() {
            events.with_label_values(&["told"]).inc();
            pause = FIRST_PAUSE;
            watchers.told(watcher)
        } else {
            events.with_label_values(&["unanswered"]).inc();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let serves = node.topology.now().view.member(watcher).is_some_and(|member| member.serves());
            watchers.missed(watcher, serves)
        };
        if !again {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_one_event_under_way_and_one_more() {
        let watchers = Watchers::default();
        assert!(!watchers.are_there() && watchers.begin().is_empty());
        watchers.watch(NODE);
        assert_eq!(watchers.begin(), [NODE]);
        assert!(watchers.begin().is_empty() && watchers.begin().is_empty());
        assert!(watchers.told(NODE), "something happened while it was told");
        assert!(!watchers.told(NODE));
        assert_eq!(watchers.begin(), [NODE]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_repeated_while_the_node_serves_and_watches() {
        let watchers = Watchers::default();
        watchers.watch(NODE);
        assert_eq!(watchers.begin(), [NODE]);
        assert!(watchers.missed(NODE, true));
        assert!(watchers.begin().is_empty(), "the task goes on");
        assert!(watchers.missed(NODE, true) && !watchers.told(NODE), "one answer is enough");
        tokio::time::advance(WATCH).await;
        assert!(!watchers.missed(NODE, true) && !watchers.are_there());
        watchers.watch(NODE);
        assert!(!watchers.missed(NODE, false) && !watchers.are_there());
    }
}
