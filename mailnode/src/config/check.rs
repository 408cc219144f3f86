//! What the types cannot say about a configuration.

use super::{Config, EmbeddedConfig, Listeners, TikvDatabaseConfig, UserDatabaseConfig};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {error}")]
    Read { path: PathBuf, error: String },
    /// The YAML parser's message names the field and the line.
    #[error("{0}")]
    Syntax(String),
    #[error("{field}: {problem}")]
    Field { field: &'static str, problem: String },
}

pub(super) fn refuse(field: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Field { field, problem: problem.into() }
}

impl Listeners {
    /// All that are on, with their names in the configuration.
    pub fn all(&self) -> Vec<(&'static str, SocketAddr)> {
        let optional = [
            ("listeners.smtp", self.smtp),
            ("listeners.submission", self.submission),
            ("listeners.submissions", self.submissions),
            ("listeners.lmtp", self.lmtp),
            ("listeners.imap", self.imap),
            ("listeners.imaps", self.imaps),
            ("listeners.pop3", self.pop3),
            ("listeners.pop3s", self.pop3s),
        ];
        let fixed = [("listeners.rpc", self.rpc), ("listeners.http", self.http)];
        let given = optional.into_iter().filter_map(|(name, address)| Some((name, address?)));
        fixed.into_iter().chain(given).collect()
    }
}

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let label = |text: &str| {
        !text.is_empty()
            && text.len() <= 63
            && !text.starts_with('-')
            && !text.ends_with('-')
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if !label(&config.name) {
        return Err(refuse("name", "must be 1 to 63 lower-case letters, digits or hyphens (a DNS label)"));
    }
    if !label(&config.cluster.name) {
        return Err(refuse(
            "cluster.name",
            "must be 1 to 63 lower-case letters, digits or hyphens (a DNS label)",
        ));
    }
    let leases = &config.cluster.leases;
    if leases.directory.is_some() == leases.kubernetes.is_some() {
        return Err(refuse("cluster.leases", "must have exactly one of directory and kubernetes"));
    }
    if !(1..=7).contains(&config.replication.factor) {
        return Err(refuse("replication.factor", "must be 1 to 7 copies"));
    }
    if config.replication.min_copies == 0 || config.replication.min_copies > config.replication.factor {
        return Err(refuse("replication.minCopies", "must be 1 to replication.factor"));
    }
    if !(1..=1000).contains(&config.spread) {
        return Err(refuse("spread", "must be 1 to 1000 nodes"));
    }
    let healing = &config.healing;
    if !(5..=30 * 24 * 3_600).contains(&healing.replace_after_seconds) {
        return Err(refuse("healing.replaceAfterSeconds", "must be 5 seconds to 30 days"));
    }
    if !(64 << 10..=10 << 30).contains(&healing.bytes_per_second) {
        return Err(refuse("healing.bytesPerSecond", "must be 64 KiB to 10 GiB"));
    }
    if !(10..=365 * 24 * 3_600).contains(&healing.tombstone_lifetime_seconds)
        || healing.tombstone_lifetime_seconds < healing.replace_after_seconds
    {
        return Err(refuse(
            "healing.tombstoneLifetimeSeconds",
            "must be 10 seconds to a year, and at least replaceAfterSeconds",
        ));
    }
    super::storage::check(&config.storage)?;
    let parts = &config.storage.parts;
    if parts.lease_seconds - parts.renew_seconds + parts.trash_seconds < healing.tombstone_lifetime_seconds {
        return Err(refuse(
            "storage.parts.trashSeconds",
            "with leaseSeconds, less renewSeconds, must be at least healing.tombstoneLifetimeSeconds: a node that \
             returns within that time must find the parts of its messages",
        ));
    }
    check_user_database(&config.user_database)?;
    if !(1..=3600).contains(&config.cluster.max_clock_skew_seconds) {
        return Err(refuse("cluster.maxClockSkewSeconds", "must be 1 to 3600 seconds"));
    }
    if !(1024..=256 << 20).contains(&config.limits.message_bytes) {
        return Err(refuse("limits.messageBytes", "must be 1 KiB to 256 MiB"));
    }
    if !(100..=100_000).contains(&config.limits.recipients) {
        return Err(refuse("limits.recipients", "must be 100 (RFC 5321 4.5.3.1.8) to 100000"));
    }
    if config.limits.connections == 0 {
        return Err(refuse("limits.connections", "must be at least 1"));
    }
    if config.limits.idle_seconds < 30 {
        return Err(refuse("limits.idleSeconds", "must be at least 30; IMAP wants 1800 (RFC 9051 5.4)"));
    }
    super::outbound::check(&config.outbound)?;
    let mut seen: HashMap<SocketAddr, &str> = HashMap::new();
    for (field, address) in config.listeners.all() {
        if address.port() == 0 {
            return Err(refuse(field, "needs a port: peers and clients must know it"));
        }
        if let Some(other) = seen.insert(address, field) {
            return Err(refuse(field, format!("{address} is already {other}")));
        }
    }
    Ok(())
}

fn check_user_database(database: &UserDatabaseConfig) -> Result<(), ConfigError> {
    match (database.embedded, &database.tikv) {
        (Some(EmbeddedConfig { replicas: 1..=7 }), None) => Ok(()),
        (Some(_), None) => Err(refuse("userDatabase.embedded.replicas", "must be 1 to 7")),
        (None, Some(tikv)) => check_tikv(tikv),
        _ => Err(refuse("userDatabase", "must have exactly one of embedded and tikv")),
    }
}

/// What can be said without the client; builds that have it look into the files, too.
fn check_tikv(tikv: &TikvDatabaseConfig) -> Result<(), ConfigError> {
    let endpoints = &tikv.pd_endpoints;
    let distinct: HashSet<&String> = endpoints.iter().collect();
    let good = |endpoint: &String| {
        endpoint.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok()
        })
    };
    if !(1..=20).contains(&endpoints.len())
        || distinct.len() != endpoints.len()
        || !endpoints.iter().all(good)
    {
        let problem =
            "must be 1 to 20 placement drivers as host:port, each once, for example pd.tikv.svc:2379";
        return Err(refuse("userDatabase.tikv.pdEndpoints", problem));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let prefix = tikv.key_prefix.as_deref();
    if prefix.is_some_and(|prefix| !(1..=100).contains(&prefix.len()) || !prefix.bytes().all(allowed)) {
        let problem = "must be 1 to 100 letters, digits, '/', '.', '_' and '-'";
        return Err(refuse("userDatabase.tikv.keyPrefix", problem));
    }
    if tikv.timeout_seconds.is_some_and(|seconds| !(4..=9).contains(&seconds)) {
        let problem =
            "must be 4 to 9: a dead client's lock is in the way for 3, and nodes wait 10 for each other";
        return Err(refuse("userDatabase.tikv.timeoutSeconds", problem));
    }
    Ok(())
}
