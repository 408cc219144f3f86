//! Commands that start nodes, and what belongs to their configuration.

use super::CliError;
use crate::config::{Config, EXAMPLE, Identity, KubernetesLeasesConfig, LogConfig, LogFormat};
use crate::dev;
use crate::forgetting;
use crate::outbound;
use crate::running::{self, Credentials};
use crate::userdb;
use clap::{Args, Subcommand};
use lease::{LeaseService, SharedDirectory};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[derive(Args)]
pub struct DevOptions {
    /// Number of nodes.
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Copies of each message; all must be on disk before the sender gets its 250.
    #[arg(long, default_value_t = 2)]
    pub replicas: usize,
    /// Soft bound on the number of nodes that hold one user's mail.
    #[arg(long, default_value_t = 2)]
    pub spread: usize,
    /// Where mail, certificates and passwords are kept.
    #[arg(long, default_value = "prickle-dev")]
    pub data: PathBuf,
    /// Failure domains, given to the nodes in turn.
    #[arg(long, value_delimiter = ',')]
    pub zones: Vec<String>,
    /// The first node's ports begin here, the next node's 100 higher.
    #[arg(long, default_value_t = 10_000)]
    pub base_port: u16,
    /// Filter of the log.
    #[arg(long, default_value = "warn")]
    pub log: String,
}

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration, and that the files it names can be read.
    Check {
        #[arg(long)]
        config: PathBuf,
        #[command(flatten)]
        identity: Identity,
    },
    /// Print a documented example.
    Example,
}

/// kube's client writes a line for each request that fails: several in a second while the API server is away. It tells us
/// too, and we say it ever more rarely. Whoever wants those lines names the target in `log.filter`.
const QUIET: &str = "kube_client::client::builder=off";

fn log(config: &LogConfig) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.filter))
        .map_err(|error| CliError::new(format!("log.filter: {error}")))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match config.format {
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    installed.map_err(CliError::new)
}

fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_park(forgetting::wipe_stack)
        .build()
        .map_err(CliError::new)
}

/// Ctrl-C and SIGTERM, which is how Kubernetes stops a pod. Made before anything else: they are remembered until they are asked for, and the
/// first process of a container that has not said what it does with them is not stopped by them.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> Result<Self, CliError> {
        let terminate = signal(SignalKind::terminate()).map_err(CliError::new)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(CliError::new)?;
        Ok(Self { terminate, interrupt })
    }

    async fn asked_for(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn was_asked_for(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.asked_for() => true,
            () = std::future::ready(()) => false,
        }
    }
}

pub fn serve(path: &Path, identity: &Identity) -> Result<(), CliError> {
    let config = Config::load(path, identity).map_err(CliError::new)?;
    log(&config.log)?;
    let credentials = Credentials::load(&config).map_err(CliError::new)?;
    runtime()?.block_on(async {
        let stop = Stop::listen()?;
        let leases = &config.cluster.leases;
        match (&leases.directory, &leases.kubernetes) {
            (Some(directory), _) => {
                let leases = SharedDirectory::new(directory)
                    .map_err(|error| CliError::new(format!("cluster.leases.directory: {error}")))?;
                serve_with(&config, credentials, leases, stop).await
            }
            (None, Some(kubernetes)) => serve_in_kubernetes(&config, credentials, kubernetes, stop).await,
            (None, None) => {
                Err(CliError::new("cluster.leases: must have exactly one of directory and kubernetes"))
            }
        }
    })
}

#[cfg(feature = "kubernetes")]
async fn serve_in_kubernetes(
    config: &Config,
    credentials: Credentials,
    leases: &KubernetesLeasesConfig,
    stop: Stop,
) -> Result<(), CliError> {
    let prefix = leases.prefix.as_ref().unwrap_or(&config.cluster.name);
    let leases = lease_kubernetes::KubernetesLeases::connect(&leases.namespace, prefix)
        .await
        .map_err(|error| CliError::new(format!("cluster.leases.kubernetes: {error}")))?;
    serve_with(config, credentials, leases, stop).await
}

#[cfg(not(feature = "kubernetes"))]
async fn serve_in_kubernetes(
    _: &Config,
    _: Credentials,
    _: &KubernetesLeasesConfig,
    _: Stop,
) -> Result<(), CliError> {
    Err(CliError::new("cluster.leases.kubernetes: this mailnode was built without `--features kubernetes`"))
}

async fn serve_with<L: LeaseService>(
    config: &Config,
    credentials: Credentials,
    leases: L,
    mut stop: Stop,
) -> Result<(), CliError> {
    let node = tokio::select! {
        biased;
        started = running::start(config, credentials, leases) => started.map_err(CliError::new)?,
        () = stop.asked_for() => {
            tracing::info!("stopped before it had started");
            return Ok(());
        }
    };
    tracing::info!(node = config.name, id = %node.node.id, "started");
    tokio::select! {
        () = stop.asked_for() => {
            tracing::info!("stopping");
            node.stop().await;
            Ok(())
        }
        () = node.quarantined() => {
            node.stop().await;
            // That took seconds. Who asked meanwhile does not ask the next program again; the next start puts the log aside.
            if stop.was_asked_for().await {
                tracing::info!("stopped before it began anew");
                return Ok(());
            }
            Err(begin_anew())
        }
    }
}

/// This program in place of itself, with nothing left of what it held. Returns only if that cannot be.
fn begin_anew() -> CliError {
    match std::env::current_exe() {
        Ok(program) => CliError::new(Command::new(program).args(std::env::args_os().skip(1)).exec()),
        Err(error) => CliError::new(error),
    }
}

pub fn dev(options: DevOptions) -> Result<(), CliError> {
    log(&LogConfig { filter: options.log.clone(), format: LogFormat::Text })?;
    runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let cluster = dev::start(&options).await.map_err(CliError::new)?;
        println!("{}", cluster.describe());
        stop.asked_for().await;
        println!("stopping");
        cluster.stop().await;
        Ok(())
    })
}

pub fn config(command: ConfigCommand) -> Result<(), CliError> {
    match command {
        ConfigCommand::Example => {
            print!("{EXAMPLE}");
            Ok(())
        }
        ConfigCommand::Check { config: path, identity } => {
            let config = Config::load(&path, &identity).map_err(CliError::new)?;
            Credentials::load(&config).map_err(CliError::new)?;
            userdb::check(&config.user_database).map_err(CliError::new)?;
            outbound::Settings::load(&config.outbound).map_err(CliError::new)?;
            println!("{}: good", path.display());
            Ok(())
        }
    }
}
