//! Prickle's mail node. See docs/architecture.md for the rooms of the house and what flows between them.
//!
//! A library, so that the simulator (`mailnode/sim`) can run whole nodes; public is what it needs.

mod admin;
pub mod assembly;
mod cli;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod delivery;
mod dev;
pub mod disk;
pub mod environment;
mod files;
mod forgetting;
pub mod healing;
mod lists;
mod locking;
pub mod log_heads;
mod manager;
pub mod membership;
mod metrics;
pub mod node;
mod notices;
mod outbound;
pub mod parts;
pub mod peer_server;
mod replica;
mod replication;
mod retrieval;
mod rotation;
pub mod running;
#[cfg(test)]
mod samples;
pub mod sessions;
pub mod signed_accounts;
mod status;
mod tending;
pub mod topology;
pub mod transport;
mod userdb;
pub mod wire;

pub use cli::run;
