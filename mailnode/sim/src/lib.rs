//! Prickle's simulator: whole clusters of real nodes in one thread, deterministic. One seed is one history.
//!
//! Nothing of a node is modelled. Each simulated machine runs the node of `mailnode/src` on a runtime of its own;
//! what it has below (network, disk, Lease service, clock, random numbers) is simulated and may fail.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`history`] | one history from its seed to its verdict |
//! | [`world`] | the machines, their time, and what befalls them |
//! | [`host`] | one machine and the node on it |
//! | [`network`], [`leases`] | what is between them |
//! | [`faults`] | what may go wrong, and for how long |
//! | [`clients`], [`work`] | what users do |
//! | [`model`] | what users know, and so what must be true |
//! | [`replicas`] | whether the nodes' disks agree |
//! | [`tamper`] | planted bugs, for the tests of the checkers |

pub mod clients;
pub mod dice;
pub mod faults;
pub mod history;
pub mod host;
pub mod leases;
pub mod model;
pub mod network;
pub mod replicas;
pub mod tamper;
pub mod trace;
pub mod work;
pub mod world;
