//! Anti-entropy: finding and repairing what the update log missed (DESIGN 4). A lost, restored or damaged disk
//! heals through it.
//!
//! For every peer a node keeps a digest per bucket of the *live* entries here whose replica set names both
//! ([`DigestTree`]). Tombstones are left out, so that it does not matter when each node drops them: a missed
//! tombstone shows as an entry that is live on one side only.
//!
//! The node with the lower id asks, the other answers from what it has and remembers nothing ([`Comparison`]):
//! the root; the children of what differs, level by level; and of the buckets that differ, lists of (user,
//! entry, digest) in pages. What differs in a list is repaired before the next page is asked for: each side gets
//! what it lacks or has older and joins it ([`crate::Entry::merge`]), so that neither has to know who is right:
//! a tombstone wins, and a replica set that names a side no more makes that side let go.
//!
//! Costs: one small message when both agree, whatever they hold; one round trip a level for one difference; at
//! most 4096 digests a level and [`PAGE_ITEMS`] items a page at any time.

mod comparison;
mod schedule;
mod tree;

pub use comparison::{BadAnswer, Comparison, Difference, Item, Page, Question};
pub use schedule::{Outcome, Schedule};
pub use tree::DigestTree;

/// Items of one page, at most.
pub const PAGE_ITEMS: usize = 1_000;

#[cfg(test)]
mod tests;
