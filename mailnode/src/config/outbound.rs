//! The section `outbound`: mail to other servers (docs/outbound.md).

use super::check::{ConfigError, refuse};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct OutboundConfig {
    /// False: users can write to each other only.
    pub enabled: bool,
    /// Those of /etc/resolv.conf if empty.
    pub name_servers: Vec<SocketAddr>,
    /// Waits between attempts; the last is repeated.
    pub retry_seconds: Vec<u64>,
    /// The sender of a message that is older is told that it is delayed, once; 0: never.
    pub warn_seconds: u64,
    /// A message that is older is given up, and its sender told.
    pub expire_seconds: u64,
    /// Connections to other servers at one time, of this node.
    pub connections: usize,
    pub connections_per_destination: usize,
    /// Messages that a node keeps track of in memory; more wait on disk.
    pub messages: usize,
    /// All mail goes through this server.
    pub relay: Option<RelayConfig>,
    pub dkim: Vec<DkimConfig>,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        let schedule = ::outbound::Schedule::default();
        Self {
            enabled: true,
            name_servers: Vec::new(),
            retry_seconds: schedule.waits.iter().map(std::time::Duration::as_secs).collect(),
            warn_seconds: schedule.warning.as_secs(),
            expire_seconds: schedule.expiry.as_secs(),
            connections: 100,
            connections_per_destination: 10,
            messages: 100_000,
            relay: None,
            dkim: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RelayConfig {
    pub host: String,
    pub port: u16,
    #[serde(default)]
    pub tls: RelayTls,
    /// PEM file with the authorities that its certificate may be from; needed if `tls` is `required`.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    #[serde(default)]
    pub login: Option<RelayLogin>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayTls {
    None,
    /// If it offers it; whose certificate it is is not looked at.
    #[default]
    Opportunistic,
    /// With a certificate for its name, or nothing is sent.
    Required,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RelayLogin {
    pub name: String,
    pub password_file: PathBuf,
}

/// Mail from this domain is signed (RFC 6376).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DkimConfig {
    pub domain: String,
    pub selector: String,
    /// PEM file with a private key: RSA of 2048 bits and more, or Ed25519 (RFC 8463).
    pub key_file: PathBuf,
}

impl OutboundConfig {
    /// Files that are named.
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let relay = self.relay.iter_mut();
        let relay = relay.flat_map(|relay| {
            let login = relay.login.as_mut().map(|login| &mut login.password_file);
            relay.ca.iter_mut().chain(login)
        });
        relay.chain(self.dkim.iter_mut().map(|dkim| &mut dkim.key_file))
    }
}

/// What the types cannot say.
pub(super) fn check(config: &OutboundConfig) -> Result<(), ConfigError> {
    let waits = &config.retry_seconds;
    if !(1..=50).contains(&waits.len()) || !waits.iter().all(|wait| (1..=7 * 86_400).contains(wait)) {
        return Err(refuse("outbound.retrySeconds", "must be 1 to 50 waits of 1 second to 7 days"));
    }
    if !(1..=30 * 86_400).contains(&config.expire_seconds) {
        return Err(refuse("outbound.expireSeconds", "must be 1 second to 30 days"));
    }
    if config.warn_seconds > 30 * 86_400 {
        return Err(refuse("outbound.warnSeconds", "must be 0 (never) to 30 days"));
    }
    if !(1..=10_000).contains(&config.connections) {
        return Err(refuse("outbound.connections", "must be 1 to 10000"));
    }
    if !(1..=config.connections).contains(&config.connections_per_destination) {
        return Err(refuse("outbound.connectionsPerDestination", "must be 1 to outbound.connections"));
    }
    if !(100..=10_000_000).contains(&config.messages) {
        return Err(refuse("outbound.messages", "must be 100 to 10000000"));
    }
    if config.name_servers.len() > 8 {
        return Err(refuse("outbound.nameServers", "must be 8 at most"));
    }
    if let Some(relay) = &config.relay {
        check_relay(relay)?;
    }
    let mut seen = HashSet::new();
    let selector = |text: &str| {
        (1..=63).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    for dkim in &config.dkim {
        if !selector(&dkim.selector) || ::outbound::Destination::of(&format!("x@{}", dkim.domain)).is_err() {
            return Err(refuse("outbound.dkim", "domain and selector must be DNS names"));
        }
        if !seen.insert(dkim.domain.to_ascii_lowercase()) {
            return Err(refuse("outbound.dkim", format!("{} has two keys", dkim.domain)));
        }
    }
    Ok(())
}

fn check_relay(relay: &RelayConfig) -> Result<(), ConfigError> {
    let host = !relay.host.is_empty() && !relay.host.contains(['/', ' ', '@']);
    if !host || relay.port == 0 {
        return Err(refuse("outbound.relay", "must have a host (a name or an IP address) and a port"));
    }
    let required = relay.tls == RelayTls::Required;
    if required != relay.ca.is_some() {
        return Err(refuse("outbound.relay.ca", "must be given if, and only if, tls is required"));
    }
    if relay.login.is_some() && !required {
        return Err(refuse("outbound.relay.login", "needs tls: required; a password is sent to nobody else"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        let config: OutboundConfig = serde_yaml::from_str(text).unwrap();
        check(&config).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_field() {
        for (text, field) in [
            ("retrySeconds: []", "outbound.retrySeconds"),
            ("retrySeconds: [60, 0]", "outbound.retrySeconds"),
            ("expireSeconds: 0", "outbound.expireSeconds"),
            ("warnSeconds: 2592001", "outbound.warnSeconds"),
            ("connections: 0", "outbound.connections"),
            ("{ connections: 5, connectionsPerDestination: 6 }", "outbound.connectionsPerDestination"),
            ("messages: 1", "outbound.messages"),
            ("relay: { host: 'a b', port: 25 }", "outbound.relay"),
            ("relay: { host: a, port: 0 }", "outbound.relay"),
            ("dkim: [{ domain: 'a..b', selector: s, keyFile: k }]", "outbound.dkim"),
            ("dkim: [{ domain: a.example, selector: 's s', keyFile: k }]", "outbound.dkim"),
        ] {
            assert!(error_of(text).starts_with(field), "{text}: {}", error_of(text));
        }
        let twice = "{ domain: a.example, selector: s, keyFile: k }";
        assert!(error_of(&format!("dkim: [{twice}, {twice}]")).contains("two keys"));
        assert!(serde_yaml::from_str::<OutboundConfig>("retries: 3").is_err());
    }

    #[test]
    fn a_password_goes_to_a_relay_that_is_known_only() {
        let login = "login: { name: me, passwordFile: p }";
        let refused = error_of(&format!("relay: {{ host: a, port: 587, {login} }}"));
        assert!(refused.contains("outbound.relay.login"), "{refused}");
        assert!(error_of("relay: { host: a, port: 587, tls: required }").contains("outbound.relay.ca"));
        let good = format!("relay: {{ host: a, port: 587, tls: required, ca: c, {login} }}");
        check(&serde_yaml::from_str(&good).unwrap()).unwrap();
    }
}
