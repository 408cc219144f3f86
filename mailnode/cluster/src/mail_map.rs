//! The mail map: a user -> the nodes that hold fragments of the mailbox (Porcupine's "mailbox fragment list").
//! Soft state of the manager, rebuilt by asking the nodes.

use crate::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MailMap {
    nodes: BTreeSet<NodeId>,
}

impl MailMap {
    /// True if the node held no fragment so far.
    pub fn add(&mut self, node: NodeId) -> bool {
        self.nodes.insert(node)
    }

    /// When a fragment's last message is gone.
    pub fn remove(&mut self, node: NodeId) -> bool {
        self.nodes.remove(&node)
    }

    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().copied()
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

impl FromIterator<NodeId> for MailMap {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        Self { nodes: nodes.into_iter().collect() }
    }
}
