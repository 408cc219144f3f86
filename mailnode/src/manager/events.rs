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
const SUBSCRIBED: Duration = Duration::from_secs(120);
const DEADLINE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Nodes with sessions of a user.
#[derive(Clone, Default)]
pub struct Subscribers(Arc<Mutex<BTreeMap<NodeId, Subscriber>>>);

struct Subscriber {
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

impl Subscribers {
    pub fn renew(&self, node: NodeId) {
        let mut subscribers = lock(&self.0);
        let subscriber = subscribers
            .entry(node)
            .or_insert(Subscriber { renewed: Instant::now(), telling: Telling::Nothing });
        subscriber.renewed = Instant::now();
    }

    pub fn are_there(&self) -> bool {
        lock(&self.0).values().any(|subscriber| subscriber.renewed.elapsed() < SUBSCRIBED)
    }

    /// Those for whom a task has to be begun.
    fn begin(&self) -> Vec<NodeId> {
        let mut subscribers = lock(&self.0);
        subscribers.retain(|_, subscriber| subscriber.renewed.elapsed() < SUBSCRIBED);
        let mut begun = Vec::new();
        for (&node, subscriber) in subscribers.iter_mut() {
            subscriber.telling = match subscriber.telling {
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
        let mut subscribers = lock(&self.0);
        let Some(subscriber) = subscribers.get_mut(&node) else { return false };
        let again = subscriber.telling == Telling::Again;
        subscriber.telling = if again { Telling::UnderWay } else { Telling::Nothing };
        again
    }

    /// The node has not answered. True if it is to be asked again; then one answer is enough.
    fn missed(&self, node: NodeId, serves: bool) -> bool {
        let mut subscribers = lock(&self.0);
        let Some(subscriber) = subscribers.get_mut(&node) else { return false };
        if serves && subscriber.renewed.elapsed() < SUBSCRIBED {
            subscriber.telling = Telling::UnderWay;
            return true;
        }
        subscribers.remove(&node);
        false
    }
}

/// Something changed that sessions of this user show.
pub fn publish(node: &Arc<Node>, cell: &UserCell) {
    for subscriber in cell.subscribers.begin() {
        tokio::spawn(tell(node.clone(), cell.user, cell.subscribers.clone(), subscriber));
    }
}

async fn tell(node: Arc<Node>, user: UserId, subscribers: Subscribers, subscriber: NodeId) {
    let mut pause = FIRST_PAUSE;
    loop {
        let events = &node.metrics.events;
        let again = if node.call(subscriber, Request::Changed { user }, DEADLINE).await.is_ok() {
            events.with_label_values(&["told"]).inc();
            pause = FIRST_PAUSE;
            subscribers.told(subscriber)
        } else {
            events.with_label_values(&["unanswered"]).inc();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let serves = node.topology.now().view.member(subscriber).is_some_and(|member| member.serves());
            subscribers.missed(subscriber, serves)
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
        let subscribers = Subscribers::default();
        assert!(!subscribers.are_there() && subscribers.begin().is_empty());
        subscribers.renew(NODE);
        assert_eq!(subscribers.begin(), [NODE]);
        assert!(subscribers.begin().is_empty() && subscribers.begin().is_empty());
        assert!(subscribers.told(NODE), "something happened while it was told");
        assert!(!subscribers.told(NODE));
        assert_eq!(subscribers.begin(), [NODE]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_repeated_while_the_node_serves_and_subscribes() {
        let subscribers = Subscribers::default();
        subscribers.renew(NODE);
        assert_eq!(subscribers.begin(), [NODE]);
        assert!(subscribers.missed(NODE, true));
        assert!(subscribers.begin().is_empty(), "the task goes on");
        assert!(subscribers.missed(NODE, true) && !subscribers.told(NODE), "one answer is enough");
        tokio::time::advance(SUBSCRIBED).await;
        assert!(!subscribers.missed(NODE, true) && !subscribers.are_there());
        subscribers.renew(NODE);
        assert!(!subscribers.missed(NODE, false) && !subscribers.are_there());
    }
}
