//! Heads on their way to peers, and those of peers here.

use super::signed::SignedHead;
use super::{LogHeads, lock};
use crate::node::Node;
use crate::wire::Request;
use cluster::{NodeId, View};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::{Durability, Store, Write};
use tokio::time::Instant;

const KEPT_KEY: &[u8] = b"\xff\xffheads";
/// In our own log: the end of it as it was when this was written, signed, for who reads its files ([`super::SignedHead::read`]).
pub(super) const SIGNED_KEY: &[u8] = b"\xff\xffsigned-head";
/// A head that moved is given away this often.
const ANNOUNCE: Duration = Duration::from_secs(10);
/// Peers that keep a node's head.
pub(super) const WITNESSES: usize = 3;
/// Heads of peers, and our own, are written down this often: each time makes a group of our own log, of which peers hear.
const WRITE_DOWN: Duration = Duration::from_secs(600);
/// Nodes whose heads are kept, at most.
const NODES: usize = 4_096;

/// The newest heads of other nodes' logs.
#[derive(Default)]
pub struct Kept {
    heads: BTreeMap<NodeId, SignedHead>,
    unwritten: bool,
}

impl Kept {
    pub(super) fn remembered(store: &Store) -> Self {
        let bytes = store.record(KEPT_KEY).ok().flatten();
        let heads = bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok()).unwrap_or_default();
        Self { heads, unwritten: false }
    }

    pub(super) fn of(&self, node: NodeId) -> Option<SignedHead> {
        self.heads.get(&node).cloned()
    }

    fn keep(&mut self, of: NodeId, head: SignedHead) {
        let known = self.heads.get(&of);
        let room = known.is_some() || self.heads.len() < NODES;
        if room && head.is_bounded() && known.is_none_or(|known| head.is_newer_than(known)) {
            self.heads.insert(of, head);
            self.unwritten = true;
        }
    }

    /// What to write down; None if nothing changed.
    fn take_unwritten(&mut self) -> Option<Write> {
        if !std::mem::take(&mut self.unwritten) {
            return None;
        }
        let value = postcard::to_stdvec(&self.heads).ok()?;
        Some(Write::Record { key: KEPT_KEY.to_vec(), value: Some(value.into()) })
    }
}

impl LogHeads {
    /// A peer's word on its own log.
    pub fn keep(&self, of: NodeId, head: SignedHead) {
        lock(&self.kept).keep(of, head);
    }
}

/// The peers that keep a node's head: the same ones as long as the members are the same.
fn witnesses(me: NodeId, view: &View) -> Vec<NodeId> {
    let rank =
        |id: NodeId| blake3::hash(&[me.0.to_be_bytes(), id.0.to_be_bytes()].concat()).as_bytes().to_owned();
    let mut others: Vec<NodeId> = view.serving().map(|member| member.id).filter(|&id| id != me).collect();
    others.sort_by_key(|&id| rank(id));
    others.truncate(WITNESSES);
    others
}

fn own(head: &SignedHead) -> Option<Write> {
    let value = postcard::to_stdvec(head).ok()?;
    Some(Write::Record { key: SIGNED_KEY.to_vec(), value: Some(value.into()) })
}

/// Writes down what is known of others' logs, and where ours ends, signed.
pub async fn sign_down(node: &Node) {
    let kept = lock(&node.log_heads.kept).take_unwritten();
    let own = node.log_heads.sign(node, node.store.head()).and_then(|head| own(&head));
    let writes: Vec<Write> = kept.into_iter().chain(own).collect();
    if let Err(error) = node.store.commit(writes, Durability::Lazy).await {
        tracing::warn!(%error, "heads of logs are not written down");
    }
}

/// Gives away the head of our log when it moved or others are to keep it, and writes down those of others. Until the
/// node stops.
pub async fn announce(node: Arc<Node>) {
    let mut tick = tokio::time::interval(ANNOUNCE);
    let mut view = node.topology.now().view.clone();
    let mut told = None;
    let mut written = Instant::now();
    loop {
        tokio::select! {
            biased;
            _ = tick.tick() => {}
            state = node.topology.newer_than(view.epoch) => view = state.view.clone(),
        }
        if written.elapsed() > WRITE_DOWN {
            written = Instant::now();
            sign_down(&node).await;
        }
        let now = (node.store.head(), witnesses(node.id, &view));
        if told.as_ref() == Some(&now) || !node.log_heads.is_open() {
            continue;
        }
        let Some(head) = node.log_heads.sign(&node, now.0) else { continue };
        for &witness in &now.1 {
            node.tell(witness, Request::KeepHead(head.clone()));
        }
        told = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::signed::{LogId, Signer};
    use super::*;
    use cluster::Incarnation;
    use storage::Head;

    struct Hash;

    impl Signer for Hash {
        fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
            Some(blake3::hash(message).as_bytes().to_vec())
        }

        fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
            self.sign(message).as_deref() == Some(signature)
        }
    }

    fn head(life: u64, sequence: u64) -> SignedHead {
        let head = Head { sequence, chain: [7; 32] };
        SignedHead::new(&Hash, NodeId(1), LogId([1; 16]), head, Incarnation(life)).unwrap()
    }

    #[test]
    fn the_newest_head_is_kept_and_a_newer_life_has_the_word() {
        let mut kept = Kept::default();
        for (life, sequence) in [(1, 5), (1, 4), (1, 9), (2, 3), (1, 10)] {
            kept.keep(NodeId(1), head(life, sequence));
        }
        assert_eq!(kept.of(NodeId(1)), Some(head(2, 3)));
        assert!(kept.take_unwritten().is_some());
        assert!(kept.take_unwritten().is_none(), "nothing new");
    }

    #[test]
    fn a_head_is_ours_only_as_it_was_signed() {
        let mut signed = head(1, 5);
        assert!(signed.is_ours(&Hash, NodeId(1)));
        assert!(!signed.is_ours(&Hash, NodeId(2)));
        signed.head.sequence = 6;
        assert!(!signed.is_ours(&Hash, NodeId(1)));
    }
}
