//! `prickle-operator`: `run` in the cluster, `check` whether one runs, `crd` and `rules` to print the
//! CustomResourceDefinition and the alerts.

use clap::{Parser, Subcommand};
use kube::Client;
use operator::check;
use operator::controller::{self, Settings};
use std::net::SocketAddr;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(name = "prickle-operator", version, about = "Kubernetes operator of Prickle's mail clusters.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the CustomResourceDefinition of MailClusters as YAML.
    Crd,
    /// Print the alerts as a rule file for a Prometheus that is not run by its operator.
    Rules,
    /// Look after MailClusters.
    Run(RunOptions),
    /// Say whether an operator works here; for `helm test`.
    Check(Scope),
}

#[derive(clap::Args)]
struct Scope {
    /// Namespaces to look after, separated by commas; all if empty.
    #[arg(long, env = "PRICKLE_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Namespace of the operator itself, where the leader's Lease is.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    own_namespace: String,
}

impl Scope {
    fn namespaces(&self) -> Vec<String> {
        self.namespaces.iter().filter(|name| !name.is_empty()).cloned().collect()
    }
}

#[derive(clap::Args)]
struct RunOptions {
    #[command(flatten)]
    scope: Scope,
    /// Unique name of this process among operators.
    #[arg(long, env = "POD_NAME", default_value = "prickle-operator")]
    identity: String,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "PRICKLE_HTTP", default_value = "0.0.0.0:8080")]
    http: SocketAddr,
    /// Filter of the log, as of the `tracing` crate.
    #[arg(long, env = "PRICKLE_LOG", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Crd => {
            operator::crd::crd_yaml().map(|yaml| print!("{yaml}")).map_err(|error| error.to_string())
        }
        Command::Rules => operator::children::monitoring::rule_file()
            .map(|yaml| print!("{yaml}"))
            .map_err(|error| error.to_string()),
        Command::Run(options) => run(options),
        Command::Check(scope) => check(&scope),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("prickle-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: RunOptions) -> Result<(), String> {
    // kube's client writes a line for each request that fails, and tells us too: we say it at our own pace.
    let filter = EnvFilter::try_new(format!("kube_client::client::builder=off,{}", options.log))
        .map_err(|error| format!("--log: {error}"))?;
    let subscriber = tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr);
    subscriber.try_init().map_err(|error| error.to_string())?;
    let settings = Settings {
        namespaces: options.scope.namespaces(),
        own_namespace: options.scope.own_namespace,
        identity: options.identity,
        http: options.http,
    };
    with_kubernetes(async |client| controller::run(client, settings, asked_to_stop()).await)
}

fn check(scope: &Scope) -> Result<(), String> {
    with_kubernetes(async |client| {
        println!("{}", check::check(client, &scope.namespaces(), &scope.own_namespace).await?);
        Ok(())
    })
}

/// Runs with the credentials of the pod (or of ~/.kube/config).
fn with_kubernetes(work: impl AsyncFnOnce(Client) -> Result<(), String>) -> Result<(), String> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "a cryptography provider is installed already".to_owned())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let client = Client::try_default().await.map_err(|error| format!("Kubernetes: {error}"))?;
        work(client).await
    })
}

/// Ctrl-C, or SIGTERM from Kubernetes.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
