//! Digests of what two nodes should both have, a tree over the buckets: levels of 1, 16, 256 and 4096 nodes.
//!
//! A leaf is the XOR of the digests of its entries, an inner node the XOR of the leaves below it: adding an entry
//! and taking it away are the same operation, in any order.

use crate::ids::Bucket;

/// Children of an inner node.
const FAN_OUT: usize = 16;

/// About 32 KiB, once per peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestTree {
    leaves: Vec<u64>,
}

impl Default for DigestTree {
    fn default() -> Self {
        Self { leaves: vec![0; Bucket::COUNT] }
    }
}

impl DigestTree {
    /// The level of the leaves; the root's is 0.
    pub const LEAVES: u8 = 3;

    /// Adds what is not in, takes away what is. Returns the leaf's digest.
    pub fn toggle(&mut self, bucket: Bucket, digest: u64) -> u64 {
        match self.leaves.get_mut(usize::from(bucket.0)) {
            Some(leaf) => {
                *leaf ^= digest;
                *leaf
            }
            None => 0,
        }
    }

    pub fn root(&self) -> u64 {
        self.node(0, 0)
    }

    /// Nothing in it, but for a coincidence of one in 2^64 a bucket.
    pub fn is_empty(&self) -> bool {
        self.leaves.iter().all(|&leaf| leaf == 0)
    }

    /// The digest of a node; 0 for one that does not exist.
    pub fn node(&self, level: u8, index: u16) -> u64 {
        let width = FAN_OUT.pow(u32::from(Self::LEAVES.saturating_sub(level)));
        let from = usize::from(index) * width;
        let below = self.leaves.get(from..from + width).unwrap_or_default();
        below.iter().fold(0, |sum, leaf| sum ^ leaf)
    }

    /// The nodes of `level` below these of the level above, in order; the root has no parent to name.
    pub fn below(level: u8, parents: &[u16]) -> Vec<u16> {
        if level == 0 {
            return vec![0];
        }
        let fan_out = FAN_OUT as u16;
        let children = |parent: &u16| {
            let first = parent.saturating_mul(fan_out);
            first..first.saturating_add(fan_out)
        };
        parents.iter().flat_map(children).collect()
    }

    /// What a peer that asks for [`DigestTree::below`] is answered. Bounded, whatever it asks for.
    pub fn answer(&self, level: u8, parents: &[u16]) -> Vec<u64> {
        let nodes =
            Self::below(level.min(Self::LEAVES), &parents[..parents.len().min(Bucket::COUNT / FAN_OUT)]);
        nodes.into_iter().map(|index| self.node(level.min(Self::LEAVES), index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_seen_in_all_nodes_above_it_and_leaves_no_trace_when_it_goes() {
        let mut tree = DigestTree::default();
        tree.toggle(Bucket(0x3a7), 55);
        tree.toggle(Bucket(0x3a8), 1);
        assert_eq!((tree.root(), tree.node(1, 3), tree.node(2, 0x3a), tree.node(3, 0x3a7)), (54, 54, 54, 55));
        assert_eq!((tree.node(1, 2), tree.node(3, 0x3a6), tree.node(3, 9_999)), (0, 0, 0));
        assert_eq!(tree.answer(3, &[0x3a])[7..9], [55, 1]);
        tree.toggle(Bucket(0x3a8), 1);
        tree.toggle(Bucket(0x3a7), 55);
        assert!(tree.is_empty());
    }

    #[test]
    fn nonsense_is_answered_within_bounds() {
        let tree = DigestTree::default();
        assert!(tree.answer(200, &[u16::MAX; 70_000]).len() <= Bucket::COUNT);
        assert_eq!(tree.answer(3, &[255; 70_000]).len(), Bucket::COUNT);
        assert_eq!(tree.answer(0, &[]), [0]);
    }
}
