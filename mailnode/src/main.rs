//! Prickle's mail node. See docs/architecture.md for the rooms of the house and what flows between them.

mod admin;
mod cli;
mod clock;
mod config;
mod crypto;
mod delivery;
mod dev;
mod files;
mod manager;
mod membership;
mod metrics;
mod node;
mod notices;
mod peer_server;
mod replica;
mod replication;
mod retrieval;
mod running;
mod sessions;
mod status;
mod topology;
mod userdb;
mod wire;

fn main() -> std::process::ExitCode {
    cli::run()
}
