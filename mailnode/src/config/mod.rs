//! `node.yaml`: everything that `mailnode serve` needs to know. Unknown fields, wrong types and values that
//! cannot work are refused at start with an error that names the field. `config/example.yaml` documents every
//! field and is itself checked by a test.

mod check;
pub mod outbound;
mod storage;

pub use check::ConfigError;
pub use outbound::OutboundConfig;
pub use storage::{PartsConfig, StorageConfig};

use clap::Args;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The documented example that `mailnode config example` prints.
pub const EXAMPLE: &str = include_str!("example.yaml");

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Empty in the file if it comes from outside ([`Identity`]).
    #[serde(default)]
    pub name: String,
    pub data_directory: PathBuf,
    #[serde(default)]
    pub zone: Option<String>,
    /// What SMTP and IMAP greet with; the node's name if absent.
    #[serde(default)]
    pub host_name: Option<String>,
    pub cluster: ClusterConfig,
    #[serde(default)]
    pub replication: ReplicationConfig,
    #[serde(default = "default_spread")]
    pub spread: usize,
    #[serde(default)]
    pub healing: HealingConfig,
    #[serde(default)]
    pub storage: StorageConfig,
    #[serde(default)]
    pub user_database: UserDatabaseConfig,
    pub listeners: Listeners,
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Take passwords without TLS.
    #[serde(default)]
    pub clear_text_login: bool,
    pub admin: AdminConfig,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub outbound: OutboundConfig,
    #[serde(default)]
    pub log: LogConfig,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClusterConfig {
    pub name: String,
    pub secret_file: PathBuf,
    pub leases: LeasesConfig,
    pub tls: ClusterTls,
    /// Address that peers connect to, `host:port`; that of `listeners.rpc` if absent.
    #[serde(default)]
    pub advertise: Option<String>,
    #[serde(default = "default_clock_skew")]
    pub max_clock_skew_seconds: u64,
    /// Only accounts whose mode and key the cluster's CA has signed get mail.
    #[serde(default)]
    pub require_signed_accounts: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LeasesConfig {
    /// Exactly one of the two.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    #[serde(default)]
    pub kubernetes: Option<KubernetesLeasesConfig>,
}

impl LeasesConfig {
    pub fn in_directory(directory: PathBuf) -> Self {
        Self { directory: Some(directory), kubernetes: None }
    }
}

/// Leases of coordination.k8s.io, with the credentials of the pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KubernetesLeasesConfig {
    pub namespace: String,
    /// Their names begin with it; the cluster's name if absent.
    #[serde(default)]
    pub prefix: Option<String>,
}

/// What differs from node to node, so that all pods of a StatefulSet can share one file: wins over the file.
#[derive(Args, Clone, Debug, Default)]
pub struct Identity {
    /// Name of the node, in place of `name`.
    #[arg(long, env = "PRICKLE_NAME")]
    pub name: Option<String>,
    /// Failure domain, in place of `zone`; none if empty.
    #[arg(long, env = "PRICKLE_ZONE")]
    pub zone: Option<String>,
    /// host:port that peers connect to, in place of `cluster.advertise`.
    #[arg(long, env = "PRICKLE_ADVERTISE")]
    pub advertise: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClusterTls {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ReplicationConfig {
    pub factor: usize,
    pub min_copies: usize,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self { factor: 2, min_copies: 2 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct HealingConfig {
    /// A node that was dead for so long is replaced.
    pub replace_after_seconds: u64,
    /// Bodies copied to heal, at each node.
    pub bytes_per_second: u64,
    pub tombstone_lifetime_seconds: u64,
}

impl Default for HealingConfig {
    fn default() -> Self {
        Self {
            replace_after_seconds: 600,
            bytes_per_second: 20 << 20,
            tombstone_lifetime_seconds: 7 * 24 * 3_600,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UserDatabaseConfig {
    /// Exactly one of the two.
    #[serde(default)]
    pub embedded: Option<EmbeddedConfig>,
    #[serde(default)]
    pub tikv: Option<TikvDatabaseConfig>,
}

impl Default for UserDatabaseConfig {
    fn default() -> Self {
        Self { embedded: Some(EmbeddedConfig::default()), tikv: None }
    }
}

/// See docs/tikv.md. What is absent is as `directory-tikv` has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TikvDatabaseConfig {
    /// `host:port` of PD members.
    pub pd_endpoints: Vec<String>,
    #[serde(default)]
    pub key_prefix: Option<String>,
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
    /// Move TiKV's safe point; false where TiDB does it.
    #[serde(default)]
    pub collect: Option<bool>,
    #[serde(default)]
    pub tls: Option<TikvTls>,
}

/// All three or none: the client would use plaintext if one were missing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TikvTls {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct EmbeddedConfig {
    pub replicas: usize,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { replicas: 3 }
    }
}

/// An absent listener is off, except `rpc` and `http`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Listeners {
    pub rpc: SocketAddr,
    pub http: SocketAddr,
    #[serde(default)]
    pub smtp: Option<SocketAddr>,
    #[serde(default)]
    pub submission: Option<SocketAddr>,
    #[serde(default)]
    pub submissions: Option<SocketAddr>,
    #[serde(default)]
    pub lmtp: Option<SocketAddr>,
    #[serde(default)]
    pub imap: Option<SocketAddr>,
    #[serde(default)]
    pub imaps: Option<SocketAddr>,
    #[serde(default)]
    pub pop3: Option<SocketAddr>,
    #[serde(default)]
    pub pop3s: Option<SocketAddr>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AdminConfig {
    pub token_file: PathBuf,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Limits {
    pub message_bytes: u64,
    pub recipients: usize,
    pub connections: usize,
    pub idle_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: 50 * 1024 * 1024, recipients: 1_000, connections: 10_000, idle_seconds: 1_860 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LogConfig {
    /// Filter of the `tracing` crate.
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Text }
    }
}

const fn default_spread() -> usize {
    2
}

const fn default_clock_skew() -> u64 {
    5
}

impl Config {
    /// Reads and checks a file. Relative paths are relative to the file's directory.
    ///
    /// # Errors
    /// Names the field and says what would be right.
    pub fn load(path: &Path, identity: &Identity) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.to_owned(), error: error.to_string() })?;
        let mut config = Self::parse(&text, identity)?;
        let base = path.parent().unwrap_or(Path::new("."));
        config.resolve(base);
        Ok(config)
    }

    /// Parses and checks the text, without touching any file that it names.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, identity: &Identity) -> Result<Self, ConfigError> {
        let mut config: Self =
            serde_yaml::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let Identity { name, zone, advertise } = identity.clone();
        config.name = name.unwrap_or(config.name);
        config.zone = zone.or(config.zone).filter(|zone| !zone.is_empty());
        config.cluster.advertise = advertise.or(config.cluster.advertise);
        config.check()?;
        Ok(config)
    }

    /// What the types cannot say.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), ConfigError> {
        check::check(self)
    }

    fn resolve(&mut self, base: &Path) {
        let tls = self.tls.as_mut().map(|tls| [&mut tls.certificate, &mut tls.key]);
        let tikv = self.user_database.tikv.as_mut().and_then(|tikv| tikv.tls.as_mut());
        let tikv = tikv.map(|tls| [&mut tls.ca, &mut tls.certificate, &mut tls.key]);
        let paths = [
            &mut self.data_directory,
            &mut self.cluster.secret_file,
            &mut self.cluster.tls.ca,
            &mut self.cluster.tls.certificate,
            &mut self.cluster.tls.key,
            &mut self.admin.token_file,
        ];
        let leases = self.cluster.leases.directory.as_mut();
        let optional =
            tls.into_iter().flatten().chain(tikv.into_iter().flatten()).chain(self.outbound.paths());
        for path in paths.into_iter().chain(leases).chain(optional) {
            *path = base.join(&*path);
        }
    }

    pub fn host_name(&self) -> &str {
        self.host_name.as_deref().unwrap_or(&self.name)
    }

    pub fn advertised_rpc(&self) -> String {
        self.cluster.advertise.clone().unwrap_or_else(|| self.listeners.rpc.to_string())
    }

    /// Where others reach the admin API. A listener on all addresses is reached where the peers connect to.
    pub fn advertised_http(&self) -> String {
        let http = self.listeners.http;
        let host = self.cluster.advertise.as_ref().and_then(|advertise| advertise.rsplit_once(':'));
        match host {
            Some((host, _)) if http.ip().is_unspecified() => format!("{host}:{}", http.port()),
            _ => http.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_valid_and_shows_the_defaults() {
        let config = Config::parse(EXAMPLE, &Identity::default()).unwrap();
        assert_eq!(config.replication.factor, ReplicationConfig::default().factor);
        assert_eq!(config.healing, HealingConfig::default());
        assert_eq!(config.storage, StorageConfig::default());
        assert_eq!(config.limits.message_bytes, Limits::default().message_bytes);
        assert_eq!(config.limits.idle_seconds, Limits::default().idle_seconds);
        assert_eq!(config.outbound, OutboundConfig::default());
        assert_eq!(config.spread, default_spread());
        assert_eq!(config.cluster.max_clock_skew_seconds, default_clock_skew());
    }

    fn error_of(from: &str, to: &str) -> String {
        let text = EXAMPLE.replacen(from, to, 1);
        assert_ne!(text, EXAMPLE, "{from} is not in the example");
        Config::parse(&text, &Identity::default()).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_field() {
        assert!(error_of("factor: 2", "factor: 0").contains("replication.factor"));
        assert!(error_of("minCopies: 2", "minCopies: 3").contains("replication.minCopies"));
        assert!(error_of("spread: 2", "spread: 0").contains("spread"));
        assert!(
            error_of("replaceAfterSeconds: 600", "replaceAfterSeconds: 1")
                .contains("healing.replaceAfterSeconds")
        );
        assert!(error_of("name: node-1", "name: 'no spaces please'").contains("name"));
        assert!(error_of("smtp: 127.0.0.1:2501", "smtp: nonsense").contains("listeners.smtp"));
        assert!(error_of("zone:", "zoone:").contains("zoone"));
        assert!(error_of("imap: 127.0.0.1:1431", "imap: 127.0.0.1:2501").contains("listeners.imap"));
        assert!(error_of("dataDirectory: ./data/node-1", "").contains("dataDirectory"));
    }

    #[test]
    fn parts_outlive_the_absence_of_a_node_that_may_return() {
        let refused = error_of("trashSeconds: 604800", "trashSeconds: 431999");
        assert!(
            refused.contains("storage.parts.trashSeconds") && refused.contains("tombstoneLifetime"),
            "{refused}"
        );
        assert!(
            Config::parse(
                &EXAMPLE.replacen("trashSeconds: 604800", "trashSeconds: 432000", 1),
                &Identity::default()
            )
            .is_ok()
        );
    }

    #[test]
    fn leases_are_in_one_place() {
        let both = "    directory: ./leases\n    kubernetes: { namespace: post }";
        assert!(error_of("    directory: ./leases", both).contains("cluster.leases"));
        assert!(error_of("    directory: ./leases", "    {}").contains("cluster.leases"));
    }

    #[test]
    fn accounts_are_in_one_place() {
        let embedded = "  embedded:\n    # Copies of each account's record (1 to 7, default 3; never more than there are nodes).\n    replicas: 3";
        let tikv = |text: &str| format!("  tikv: {{ {text} }}");
        let both = format!("{embedded}\n{}", tikv("pdEndpoints: ['pd:2379']"));
        assert!(error_of(embedded, &both).contains("exactly one of embedded and tikv"));
        assert!(error_of(embedded, "  {}").contains("exactly one of embedded and tikv"));
        for bad in ["[]", "['pd']", "['http://pd:2379']", "['pd:2379', 'pd:2379']"] {
            let refused = error_of(embedded, &tikv(&format!("pdEndpoints: {bad}")));
            assert!(refused.contains("userDatabase.tikv.pdEndpoints"), "{bad}: {refused}");
        }
        let refused = error_of(embedded, &tikv("pdEndpoints: ['pd:2379'], timeoutSeconds: 60"));
        assert!(refused.contains("userDatabase.tikv.timeoutSeconds"), "{refused}");
        let refused = error_of(embedded, &tikv("pdEndpoints: ['pd:2379'], keyPrefix: 'a b'"));
        assert!(refused.contains("userDatabase.tikv.keyPrefix"), "{refused}");
        let partial = error_of(embedded, &tikv("pdEndpoints: ['pd:2379'], tls: { ca: a, key: b }"));
        assert!(partial.contains("certificate"), "{partial}");
    }

    #[test]
    fn what_the_operator_writes_is_understood() {
        let rendered = [
            include_str!("../../../operator/tests/golden/smallest.yaml"),
            include_str!("../../../operator/tests/golden/fullest.yaml"),
        ];
        let [smallest, fullest] = rendered.map(|text| {
            let documents = serde_yaml::Deserializer::from_str(text).map(serde_yaml::Value::deserialize);
            let node_yaml = documents
                .map(Result::unwrap)
                .find_map(|document| document.get("data")?.get("node.yaml")?.as_str().map(str::to_owned));
            let identity = Identity { name: Some("mail-0".into()), ..Identity::default() };
            Config::parse(&node_yaml.unwrap(), &identity).unwrap().user_database
        });
        assert_eq!(smallest.embedded.map(|embedded| embedded.replicas), Some(3));
        let tikv = fullest.tikv.unwrap();
        assert_eq!(tikv.pd_endpoints, ["pd.tikv.svc:2379"]);
        assert_eq!(tikv.key_prefix.as_deref(), Some("prickle/"));
        assert_eq!(tikv.tls.unwrap().ca, Path::new("/etc/prickle/tikv/ca.crt"));
    }

    #[test]
    fn pods_share_a_file_and_get_their_names_from_outside() {
        let text = EXAMPLE
            .replace("name: node-1\n", "")
            .replace("    directory: ./leases", "    kubernetes: { namespace: post }");
        assert!(Config::parse(&text, &Identity::default()).unwrap_err().to_string().contains("name"));
        let identity = Identity {
            name: Some("mail-2".into()),
            zone: Some(String::new()),
            advertise: Some("mail-2.mail-nodes.post.svc:7001".into()),
        };
        let config = Config::parse(&text, &identity).unwrap();
        assert_eq!((config.name.as_str(), config.zone.clone()), ("mail-2", None));
        assert_eq!(config.advertised_rpc(), "mail-2.mail-nodes.post.svc:7001");
        assert_eq!(config.advertised_http(), "127.0.0.1:8001");
    }

    #[test]
    fn a_listener_on_all_addresses_is_advertised_under_the_nodes_own_name() {
        let text = EXAMPLE.replace("http: 127.0.0.1:8001", "http: 0.0.0.0:8001");
        let advertise = Some("mail-2.mail-nodes.post.svc:7001".into());
        let config = Config::parse(&text, &Identity { advertise, ..Identity::default() }).unwrap();
        assert_eq!(config.advertised_http(), "mail-2.mail-nodes.post.svc:8001");
    }
}
