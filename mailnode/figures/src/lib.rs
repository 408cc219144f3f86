//! The papers' figures, from Prickle's own cores (docs/figures/README.md has them and says how to read them).
//!
//! A thousand whole nodes are too much for one machine (`sim` runs whole nodes, a few at a time). Here only what
//! *decides* is real: [`cluster::UserMap`], [`cluster::placement`], [`cluster::ReplicaWrite`],
//! [`cluster::Redelivery`], load reports and [`cluster::membership`] are the code that the node runs. What *costs* is a
//! model with stated parameters ([`hardware`]): disks that commit groups, cores, a network.
//!
//! - One seed, one result: nothing depends on real time, threads or the order of a hash map.
//! - No result is tuned: parameters are in one place and are printed beside the figures.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`hardware`] | the parameters |
//! | [`workload`] | users, sizes of messages, skew |
//! | [`mail`] | deliveries and retrievals on machines that may die |
//! | [`members`] | many membership cores on a network with loss, over a Lease service |
//! | [`figures`] | one module a figure: runs, and the rows of its CSV |

pub mod dice;
pub mod figures;
pub mod hardware;
pub mod mail;
pub mod members;
pub mod queue;
pub mod table;
pub mod workload;

/// Simulated time: nanoseconds since the beginning.
pub type Time = u64;

pub const MICROSECOND: Time = 1_000;
pub const MILLISECOND: Time = 1_000_000;
pub const SECOND: Time = 1_000_000_000;

pub fn seconds(time: Time) -> f64 {
    time as f64 / SECOND as f64
}
