//! `mailnode dev`: a whole cluster in one process on loopback, the real thing with real sockets, for trying it
//! and for tests. Everything it makes is kept in one directory, so that mail survives a restart.

use crate::cli::DevOptions;
use crate::config::{
    AdminConfig, ClusterConfig, ClusterTls, Config, EmbeddedConfig, HealingConfig, LeasesConfig, Limits,
    Listeners, LogConfig, OutboundConfig, ReplicationConfig, StorageConfig, UserDatabaseConfig,
};
use crate::running::{self, Credentials, RunningNode, StartError};
use crate::wire::{Failure, Password};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cluster::MemberState;
use lease::InProcess;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

const DOMAIN: &str = "example.org";
const USERS: [&str; 3] = ["alice", "bob", "carol"];
const READY: Duration = Duration::from_secs(30);

pub struct DevCluster {
    nodes: Vec<(Config, RunningNode)>,
    accounts: Vec<(String, String)>,
    ca: std::path::PathBuf,
    admin_token: std::path::PathBuf,
}

/// A secret that is made once and kept in a file that only its owner can read.
fn kept_secret(path: &Path) -> Result<String, StartError> {
    if let Ok(text) = std::fs::read_to_string(path) {
        return Ok(text.trim().to_owned());
    }
    let secret = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    rpc::pki::write_private(path, &secret)
        .map_err(|error| StartError::new(&path.display().to_string(), error))?;
    Ok(secret)
}

fn config_of(options: &DevOptions, index: usize) -> Result<Config, StartError> {
    let offset = u16::try_from(index * 100).ok().and_then(|offset| options.base_port.checked_add(offset));
    let base = offset
        .filter(|base| *base < 65_400)
        .ok_or_else(|| StartError("--base-port: too high for so many nodes".into()))?;
    let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, base + port));
    let name = format!("node-{}", index + 1);
    let zones = &options.zones;
    let factor = options.replicas.min(options.nodes);
    let config = Config {
        data_directory: options.data.join(&name),
        zone: (!zones.is_empty()).then(|| zones[index % zones.len()].clone()),
        host_name: Some("localhost".into()),
        cluster: ClusterConfig {
            name: "dev".into(),
            secret_file: options.data.join("cluster.secret"),
            leases: LeasesConfig::in_directory(options.data.join("leases")),
            tls: ClusterTls {
                ca: options.data.join("ca.pem"),
                certificate: options.data.join(format!("{name}.pem")),
                key: options.data.join(format!("{name}.key")),
            },
            advertise: None,
            max_clock_skew_seconds: 5,
            require_signed_accounts: false,
        },
        replication: ReplicationConfig { factor, min_copies: factor },
        spread: options.spread,
        healing: HealingConfig::default(),
        storage: StorageConfig::default(),
        user_database: UserDatabaseConfig {
            embedded: Some(EmbeddedConfig { replicas: options.nodes.min(3) }),
            tikv: None,
        },
        listeners: Listeners {
            rpc: at(70),
            http: at(80),
            smtp: Some(at(25)),
            submission: Some(at(87)),
            submissions: Some(at(65)),
            lmtp: Some(at(24)),
            imap: Some(at(43)),
            imaps: Some(at(93)),
            pop3: Some(at(10)),
            pop3s: Some(at(95)),
        },
        tls: None,
        clear_text_login: false,
        admin: AdminConfig { token_file: options.data.join("admin.token") },
        limits: Limits::default(),
        // Nothing that is tried here may leave this machine.
        outbound: OutboundConfig { enabled: false, ..OutboundConfig::default() },
        log: LogConfig::default(),
        name,
    };
    config.check().map_err(|error| StartError(error.to_string()))?;
    Ok(config)
}

/// Starts the nodes and makes the accounts.
///
/// # Errors
/// As for a single node.
pub async fn start(options: &DevOptions) -> Result<DevCluster, StartError> {
    if !(1..=30).contains(&options.nodes) {
        return Err(StartError("--nodes: 1 to 30".into()));
    }
    let data = &options.data;
    std::fs::create_dir_all(data).map_err(|error| StartError::new("--data", error))?;
    kept_secret(&data.join("cluster.secret"))?;
    kept_secret(&data.join("admin.token"))?;
    crate::files::make_ca(data)?;
    let leases = InProcess::new();
    let mut nodes = Vec::new();
    for index in 0..options.nodes {
        let config = config_of(options, index)?;
        crate::files::make_node_certificate(
            data,
            &config.name,
            data,
            &["localhost".into(), "127.0.0.1".into()],
        )?;
        let credentials = Credentials::load(&config)?;
        let node = running::start(&config, credentials, leases.clone()).await?;
        nodes.push((config, node));
    }
    let mut cluster = DevCluster {
        nodes,
        accounts: Vec::new(),
        ca: data.join("ca.pem"),
        admin_token: data.join("admin.token"),
    };
    cluster.wait_until_ready().await?;
    cluster.make_accounts(data).await?;
    Ok(cluster)
}

impl DevCluster {
    async fn wait_until_ready(&self) -> Result<(), StartError> {
        let begun = Instant::now();
        while begun.elapsed() < READY {
            let all = self.nodes.iter().all(|(_, running)| {
                let view = &running.node.topology.now().view;
                let active = view.members.iter().filter(|member| member.state == MemberState::Active);
                active.count() == self.nodes.len()
            });
            if all {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(StartError("the nodes did not form a cluster within 30 seconds".into()))
    }

    async fn make_accounts(&mut self, data: &Path) -> Result<(), StartError> {
        let Some((_, first)) = self.nodes.first() else { return Ok(()) };
        let users = &first.node.users;
        patiently(async || users.add_domain(DOMAIN).await).await?;
        for name in USERS {
            let address = format!("{name}@{DOMAIN}");
            let password = kept_secret(&data.join(format!("{name}.password")))?;
            patiently(async || {
                users.add_user(&address, Password(password.clone()), 0, None).await.map(|_| ())
            })
            .await?;
            self.accounts.push((address, password));
        }
        Ok(())
    }

    /// What to print for the person who started it.
    pub fn describe(&self) -> String {
        let mut text = String::from("Prickle runs. Every node serves every user.\n\n");
        let _ = writeln!(
            text,
            "{:<8} {:>6} {:>10} {:>11} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}   on 127.0.0.1",
            "node", "smtp", "submission", "submissions", "lmtp", "imap", "imaps", "pop3", "pop3s", "http"
        );
        for (config, _) in &self.nodes {
            let listeners = &config.listeners;
            let port = |address: Option<SocketAddr>| address.map_or(0, |address| address.port());
            let _ = writeln!(
                text,
                "{:<8} {:>6} {:>10} {:>11} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}",
                config.name,
                port(listeners.smtp),
                port(listeners.submission),
                port(listeners.submissions),
                port(listeners.lmtp),
                port(listeners.imap),
                port(listeners.imaps),
                port(listeners.pop3),
                port(listeners.pop3s),
                listeners.http.port(),
            );
        }
        text.push_str("\naccounts\n");
        for (address, password) in &self.accounts {
            let _ = writeln!(text, "  {address}   {password}");
        }
        let _ = writeln!(text, "\nCA {}, admin token {}", self.ca.display(), self.admin_token.display());
        if let (Some((first, _)), Some((last, _)), Some((address, password))) =
            (self.nodes.first(), self.nodes.last(), self.accounts.first())
        {
            let smtp = first.listeners.smtp.map_or(0, |address| address.port());
            let imaps = last.listeners.imaps.map_or(0, |address| address.port());
            let ca = self.ca.display();
            let _ = writeln!(
                text,
                "\ntry: printf 'Subject: hello\\r\\n\\r\\nhello\\r\\n' | curl -s smtp://127.0.0.1:{smtp} --mail-from you@example.net --mail-rcpt {address} -T - && curl -s --cacert {ca} -u '{address}:{password}' 'imaps://localhost:{imaps}/INBOX;MAILINDEX=1'"
            );
        }
        text.push_str("\nCtrl-C stops it.");
        text
    }

    pub async fn stop(self) {
        let stops = self.nodes.into_iter().map(|(_, running)| running.stop());
        futures_util::future::join_all(stops).await;
    }
}

/// The user database may still be settling after the last change of view; what exists already is good.
async fn patiently<F>(mut step: F) -> Result<(), StartError>
where
    F: AsyncFnMut() -> Result<(), Failure>,
{
    let begun = Instant::now();
    loop {
        match step().await {
            Ok(()) | Err(Failure::AlreadyExists) => return Ok(()),
            Err(Failure::Temporary(_)) if begun.elapsed() < READY => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(failure) => return Err(StartError(failure.to_string())),
        }
    }
}
