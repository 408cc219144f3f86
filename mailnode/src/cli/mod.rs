//! The command line.

mod admin;
mod client;
mod directory;
mod lists;
mod log;
mod pki;
mod queue;
mod start;
mod users;

pub use start::DevOptions;

use crate::config::Identity;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Prickle's mail node: SMTP, LMTP, IMAP and POP3 on a cluster of identical nodes.
#[derive(Parser)]
#[command(name = "mailnode", version)]
pub struct Cli {
    #[command(flatten)]
    pub target: Target,
    #[command(subcommand)]
    command: Command,
}

/// Which node the admin commands talk to: any one will do.
#[derive(Args, Clone)]
pub struct Target {
    /// Admin address of a node.
    #[arg(long, global = true, env = "PRICKLE_SERVER", default_value = "http://127.0.0.1:8001")]
    pub server: String,
    /// File with the admin token.
    #[arg(long, global = true, env = "PRICKLE_TOKEN_FILE", default_value = "admin.token")]
    pub token_file: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole cluster in this process, to try it.
    Dev(start::DevOptions),
    /// Run one node.
    Serve {
        #[arg(long)]
        config: PathBuf,
        #[command(flatten)]
        identity: Identity,
    },
    /// Check or show a configuration.
    #[command(subcommand)]
    Config(start::ConfigCommand),
    /// Make the certificates of a cluster.
    #[command(subcommand)]
    Pki(pki::PkiCommand),
    /// Accounts.
    #[command(subcommand)]
    User(users::UserCommand),
    /// Domains that mail is accepted for.
    #[command(subcommand)]
    Domain(admin::DomainCommand),
    /// Further addresses of users.
    #[command(subcommand)]
    Alias(admin::AliasCommand),
    /// Mailing lists.
    #[command(subcommand)]
    List(lists::ListCommand),
    /// The cluster.
    #[command(subcommand)]
    Cluster(admin::ClusterCommand),
    /// Mail to other servers that waits.
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// All accounts in a file: out of a user database, into another.
    #[command(subcommand)]
    Directory(directory::DirectoryCommand),
    /// A node's log, while the node does not run.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Drive a mail server over its ports and print what it did.
    Bench(Box<bench::Options>),
}

/// Runs the command; errors go to standard error, with exit code 1.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Dev(options) => start::dev(options),
        Command::Serve { config, identity } => start::serve(&config, &identity),
        Command::Config(command) => start::config(command),
        Command::Pki(command) => pki::run(command),
        Command::User(command) => users::user(&cli.target, command),
        Command::Domain(command) => admin::domain(&cli.target, command),
        Command::Alias(command) => admin::alias(&cli.target, command),
        Command::List(command) => lists::run(&cli.target, command),
        Command::Cluster(command) => admin::cluster(&cli.target, command),
        Command::Queue(command) => {
            client::Client::new(&cli.target).and_then(|client| queue::run(&client, command))
        }
        Command::Directory(command) => {
            client::Client::new(&cli.target).and_then(|client| directory::run(&client, command))
        }
        Command::Log(command) => log::run(command),
        Command::Bench(options) => bench::run(&options).map_err(CliError::new),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mailnode: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A message for the person at the terminal.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CliError(pub String);

impl CliError {
    pub fn new(text: impl std::fmt::Display) -> Self {
        Self(text.to_string())
    }
}
