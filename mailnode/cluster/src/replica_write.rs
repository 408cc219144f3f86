//! The writing of one new message, for all its recipients, to its replicas (DESIGN 2, steps 5 and 6).
//!
//! A pure state machine: it says which nodes to call next with which recipients, is told what came of each
//! call, and knows when `minCopies` are on disk for a recipient. A replica that fails or is slow is replaced by
//! the next node of the recipient's order at once, because a new message may live anywhere. A slow replica's
//! late answer still counts, and then the replica set is another than its replacement was sent: that has to be
//! told before the message is acknowledged. Else those who have it would let go of it for one who does not.

use crate::ids::NodeId;

/// What is known of one node for one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Attempt {
    Acked,
    Waiting,
    /// Asked, no answer within the time; may yet answer.
    Slow,
    Failed,
}

#[derive(Clone, Debug)]
struct Recipient {
    order: Vec<NodeId>,
    attempts: Vec<(NodeId, Attempt)>,
}

impl Recipient {
    fn count(&self, what: &[Attempt]) -> usize {
        self.attempts.iter().filter(|(_, attempt)| what.contains(attempt)).count()
    }

    fn with(&self, what: &[Attempt]) -> Vec<NodeId> {
        let nodes = self.attempts.iter().filter(|(_, attempt)| what.contains(attempt));
        nodes.map(|(node, _)| *node).collect()
    }
}

/// One call to make: store the message on `node` for these recipients (by index).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreCall {
    pub node: NodeId,
    pub recipients: Vec<usize>,
}

/// How far a recipient's copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Pending,
    /// `minCopies` are on disk: the message may be acknowledged.
    Durable,
    /// No node is left to try, and too few have it.
    Impossible,
}

#[derive(Clone, Debug)]
pub struct ReplicaWrite {
    copies: usize,
    min_copies: usize,
    recipients: Vec<Recipient>,
}

impl ReplicaWrite {
    /// `orders`: for each recipient the nodes to try, best first ([`crate::placement::choose`]).
    /// `min_copies` is at most `copies`.
    pub fn new(copies: usize, min_copies: usize, orders: Vec<Vec<NodeId>>) -> Self {
        let recipients = orders.into_iter().map(|order| Recipient { order, attempts: Vec::new() }).collect();
        Self { copies: copies.max(1), min_copies: min_copies.clamp(1, copies.max(1)), recipients }
    }

    /// The calls to make now, one a node. They count as begun.
    pub fn next_calls(&mut self) -> Vec<StoreCall> {
        let mut calls: Vec<StoreCall> = Vec::new();
        for (index, recipient) in self.recipients.iter_mut().enumerate() {
            let hopeful = recipient.count(&[Attempt::Waiting, Attempt::Acked]);
            for _ in hopeful..self.copies {
                let untried = |node: &&NodeId| !recipient.attempts.iter().any(|(tried, _)| tried == *node);
                let Some(node) = recipient.order.iter().find(untried).copied() else { break };
                recipient.attempts.push((node, Attempt::Waiting));
                match calls.iter_mut().find(|call| call.node == node) {
                    Some(call) => call.recipients.push(index),
                    None => calls.push(StoreCall { node, recipients: vec![index] }),
                }
            }
        }
        calls
    }

    pub fn acked(&mut self, call: &StoreCall) {
        self.mark(call, Attempt::Acked);
    }

    pub fn failed(&mut self, call: &StoreCall) {
        self.mark(call, Attempt::Failed);
    }

    /// The call has taken too long: somebody else is asked as well.
    pub fn slow(&mut self, call: &StoreCall) {
        for (_, attempt) in self.attempts_of(call) {
            if *attempt == Attempt::Waiting {
                *attempt = Attempt::Slow;
            }
        }
    }

    fn mark(&mut self, call: &StoreCall, outcome: Attempt) {
        for (_, attempt) in self.attempts_of(call) {
            *attempt = outcome;
        }
    }

    fn attempts_of<'a>(&'a mut self, call: &'a StoreCall) -> impl Iterator<Item = &'a mut (NodeId, Attempt)> {
        let chosen = self.recipients.iter_mut().enumerate();
        chosen
            .filter(|(index, _)| call.recipients.contains(index))
            .flat_map(|(_, recipient)| recipient.attempts.iter_mut())
            .filter(|(node, _)| *node == call.node)
    }

    pub fn progress(&self, recipient: usize) -> Progress {
        let Some(recipient) = self.recipients.get(recipient) else { return Progress::Impossible };
        if recipient.count(&[Attempt::Acked]) >= self.min_copies {
            Progress::Durable
        } else if recipient.count(&[Attempt::Waiting, Attempt::Slow]) == 0
            && recipient.attempts.len() >= recipient.order.len()
        {
            Progress::Impossible
        } else {
            Progress::Pending
        }
    }

    /// True when every recipient is durable or impossible.
    pub fn is_decided(&self) -> bool {
        (0..self.recipients.len()).all(|recipient| self.progress(recipient) != Progress::Pending)
    }

    /// The nodes that should hold the recipient's copy as things stand: those that have it before those that are
    /// being asked, and these before those that were given up, who get it later if nobody else was left.
    pub fn replicas(&self, recipient: usize) -> Vec<NodeId> {
        let Some(recipient) = self.recipients.get(recipient) else { return Vec::new() };
        let mut attempts = recipient.attempts.clone();
        attempts.sort_by_key(|(_, attempt)| *attempt);
        let mut nodes: Vec<NodeId> = attempts.into_iter().take(self.copies).map(|(node, _)| node).collect();
        nodes.sort_unstable();
        nodes
    }

    /// Nodes that have it on disk for sure.
    pub fn holders(&self, recipient: usize) -> Vec<NodeId> {
        self.nodes(recipient, &[Attempt::Acked])
    }

    /// Nodes that were asked and given up, and may have it all the same.
    pub fn given_up(&self, recipient: usize) -> Vec<NodeId> {
        self.nodes(recipient, &[Attempt::Slow, Attempt::Failed])
    }

    /// All nodes that were asked: each may have it, now or later.
    pub fn asked(&self, recipient: usize) -> Vec<NodeId> {
        let mut nodes =
            self.nodes(recipient, &[Attempt::Waiting, Attempt::Slow, Attempt::Acked, Attempt::Failed]);
        nodes.sort_unstable();
        nodes
    }

    fn nodes(&self, recipient: usize, what: &[Attempt]) -> Vec<NodeId> {
        self.recipients.get(recipient).map(|recipient| recipient.with(what)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().map(|&id| NodeId(id)).collect()
    }

    fn call(node: u64, recipients: &[usize]) -> StoreCall {
        StoreCall { node: NodeId(node), recipients: recipients.to_vec() }
    }

    #[test]
    fn a_node_is_called_once_for_all_its_recipients() {
        let mut write = ReplicaWrite::new(2, 2, vec![nodes(&[1, 2, 3]), nodes(&[2, 3, 1])]);
        assert_eq!(write.next_calls(), [call(1, &[0]), call(2, &[0, 1]), call(3, &[1])]);
        assert!(write.next_calls().is_empty(), "begun calls are not made twice");
    }

    #[test]
    fn it_is_durable_only_when_min_copies_acked() {
        let mut write = ReplicaWrite::new(2, 2, vec![nodes(&[1, 2, 3])]);
        write.next_calls();
        write.acked(&call(1, &[0]));
        assert_eq!(write.progress(0), Progress::Pending);
        write.acked(&call(2, &[0]));
        assert_eq!(write.progress(0), Progress::Durable);
        assert_eq!(write.replicas(0), nodes(&[1, 2]));
    }

    #[test]
    fn a_failed_replica_is_replaced_by_the_next_node() {
        let mut write = ReplicaWrite::new(2, 2, vec![nodes(&[1, 2, 3])]);
        write.next_calls();
        write.acked(&call(1, &[0]));
        write.failed(&call(2, &[0]));
        assert_eq!(write.next_calls(), [call(3, &[0])]);
        write.acked(&call(3, &[0]));
        assert_eq!((write.progress(0), write.replicas(0)), (Progress::Durable, nodes(&[1, 3])));
        assert_eq!(write.given_up(0), nodes(&[2]));
    }

    #[test]
    fn a_slow_replicas_late_answer_counts() {
        let mut write = ReplicaWrite::new(2, 2, vec![nodes(&[1, 2])]);
        write.next_calls();
        write.acked(&call(1, &[0]));
        write.slow(&call(2, &[0]));
        assert!(write.next_calls().is_empty(), "nobody else is left");
        assert_eq!(write.progress(0), Progress::Pending);
        write.acked(&call(2, &[0]));
        assert_eq!(write.progress(0), Progress::Durable);
        assert_eq!(write.replicas(0), nodes(&[1, 2]));
    }

    #[test]
    fn who_has_it_is_a_replica_and_not_who_was_asked_instead() {
        let mut write = ReplicaWrite::new(2, 2, vec![nodes(&[1, 2, 3])]);
        write.next_calls();
        write.acked(&call(1, &[0]));
        write.slow(&call(2, &[0]));
        assert_eq!(write.next_calls(), [call(3, &[0])]);
        assert_eq!(write.replicas(0), nodes(&[1, 3]));
        write.acked(&call(2, &[0]));
        assert_eq!((write.progress(0), write.replicas(0)), (Progress::Durable, nodes(&[1, 2])));
    }

    #[test]
    fn who_was_given_up_stays_a_replica_if_nobody_else_is_left() {
        let mut write = ReplicaWrite::new(3, 2, vec![nodes(&[1, 2, 3])]);
        write.next_calls();
        write.failed(&call(3, &[0]));
        write.acked(&call(1, &[0]));
        write.acked(&call(2, &[0]));
        assert!(write.next_calls().is_empty());
        assert_eq!((write.progress(0), write.replicas(0)), (Progress::Durable, nodes(&[1, 2, 3])));
    }

    #[test]
    fn too_few_nodes_make_it_impossible_rather_than_less_durable() {
        let mut write = ReplicaWrite::new(2, 2, vec![nodes(&[1, 2])]);
        write.next_calls();
        write.acked(&call(1, &[0]));
        write.failed(&call(2, &[0]));
        assert!(write.next_calls().is_empty());
        assert_eq!(write.progress(0), Progress::Impossible);
        assert!(write.is_decided());
    }
}
