//! Where TiKV is, and how to speak TLS with it.
//!
//! The client falls back to plaintext without a word if one of its three TLS files is missing or its authority is
//! an empty file; so all three are demanded and looked into here. It takes no server name: certificates of PD
//! and TiKV must name the hosts as they are in the endpoints and as PD announces its stores.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// PD endpoints; a cluster has three or five.
const ENDPOINTS: usize = 20;
const PREFIX: usize = 100;
/// A lock of a client that died is in the way for three seconds; below that, nothing could be resolved.
const SHORTEST: Duration = Duration::from_secs(4);
const LONGEST: Duration = Duration::from_secs(60);
/// A PEM file of certificates.
const PEM: u64 = 1024 * 1024;

/// What is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("TiKV: 1 to {ENDPOINTS} PD endpoints, as host:port, each once")]
    Endpoints,
    #[error("TiKV: {0:?} is no PD endpoint: host:port is")]
    Endpoint(String),
    #[error("TiKV: the key prefix has 1 to {PREFIX} letters, digits, '/', '.', '_' and '-'")]
    Prefix,
    #[error("TiKV: the timeout is between {SHORTEST:?} and {LONGEST:?}")]
    Timeout,
    #[error("TiKV: TLS needs authority, certificate and key; {0} is missing")]
    PartialTls(&'static str),
    #[error("TiKV: {path}: {what}")]
    File { path: String, what: String },
}

/// PEM files for mutual TLS: the authority of PD and TiKV, our certificate, its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Tls {
    /// All three, or none: plaintext.
    ///
    /// # Errors
    /// [`ConfigError::PartialTls`].
    pub fn from_parts(
        authority: Option<PathBuf>,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Option<Self>, ConfigError> {
        match (authority, certificate, key) {
            (None, None, None) => Ok(None),
            (Some(authority), Some(certificate), Some(key)) => Ok(Some(Self { authority, certificate, key })),
            (None, ..) => Err(ConfigError::PartialTls("the authority")),
            (_, None, _) => Err(ConfigError::PartialTls("the certificate")),
            (.., None) => Err(ConfigError::PartialTls("the key")),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (path, label) in
            [(&self.authority, "CERTIFICATE"), (&self.certificate, "CERTIFICATE"), (&self.key, "PRIVATE KEY")]
        {
            let failed = |what: String| ConfigError::File { path: path.display().to_string(), what };
            let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
            if size > PEM {
                return Err(failed("too long".into()));
            }
            let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
            if !text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(label)) {
                return Err(failed(format!("no {label} in PEM")));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TikvConfig {
    /// `host:port` of PD members.
    pub endpoints: Vec<String>,
    pub tls: Option<Tls>,
    /// Keeps several clusters in one TiKV apart. Never change it: the records stay under the old one.
    pub key_prefix: String,
    /// How long one read or write may take, with all its attempts.
    pub timeout: Duration,
    /// Move TiKV's safe point, so that old versions are collected. False where TiDB or another does it.
    pub collect: bool,
}

impl TikvConfig {
    pub const TIMEOUT: Duration = Duration::from_secs(6);
    pub const KEY_PREFIX: &'static str = "prickle/";

    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            tls: None,
            key_prefix: Self::KEY_PREFIX.into(),
            timeout: Self::TIMEOUT,
            collect: true,
        }
    }

    /// # Errors
    /// Says what is wrong; nothing is connected to.
    pub fn check(&self) -> Result<(), ConfigError> {
        let distinct: BTreeSet<&String> = self.endpoints.iter().collect();
        if !(1..=ENDPOINTS).contains(&self.endpoints.len()) || distinct.len() != self.endpoints.len() {
            return Err(ConfigError::Endpoints);
        }
        for endpoint in &self.endpoints {
            let (host, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
            let good = !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok();
            if !good {
                return Err(ConfigError::Endpoint(endpoint.clone()));
            }
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
        if !(1..=PREFIX).contains(&self.key_prefix.len()) || !self.key_prefix.bytes().all(allowed) {
            return Err(ConfigError::Prefix);
        }
        if !(SHORTEST..=LONGEST).contains(&self.timeout) {
            return Err(ConfigError::Timeout);
        }
        self.tls.as_ref().map_or(Ok(()), Tls::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> TikvConfig {
        TikvConfig::new(vec!["pd-0.pd:2379".into()])
    }

    #[test]
    fn a_partial_set_of_tls_files_is_refused() {
        let path = || Some(PathBuf::from("x"));
        assert_eq!(Tls::from_parts(None, None, None), Ok(None));
        assert!(Tls::from_parts(path(), path(), path()).unwrap().is_some());
        for parts in [(None, path(), path()), (path(), None, path()), (path(), path(), None)] {
            let refused = Tls::from_parts(parts.0, parts.1, parts.2);
            assert!(matches!(refused, Err(ConfigError::PartialTls(_))), "{refused:?}");
        }
    }

    #[test]
    fn an_empty_authority_which_would_mean_plaintext_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let certificate = file("cert", "-----BEGIN CERTIFICATE-----\n");
        let key = file("key", "-----BEGIN PRIVATE KEY-----\n");
        let with = |authority: PathBuf| {
            let tls = Tls { authority, certificate: certificate.clone(), key: key.clone() };
            TikvConfig { tls: Some(tls), ..good() }.check()
        };
        assert_eq!(with(certificate.clone()), Ok(()));
        assert!(matches!(with(file("empty", "")), Err(ConfigError::File { .. })));
        assert!(matches!(with(directory.path().join("none")), Err(ConfigError::File { .. })));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(good().check(), Ok(()));
        for endpoints in [vec![], vec!["a:1".to_owned(), "a:1".to_owned()]] {
            assert_eq!(TikvConfig { endpoints, ..good() }.check(), Err(ConfigError::Endpoints));
        }
        for bad in ["pd", "pd:", ":2379", "http://pd:2379", "pd:99999"] {
            let refused = TikvConfig { endpoints: vec![bad.into()], ..good() }.check();
            assert_eq!(refused, Err(ConfigError::Endpoint(bad.into())));
        }
        for key_prefix in ["", "a b", "a\0b", "ä"] {
            assert_eq!(
                TikvConfig { key_prefix: key_prefix.into(), ..good() }.check(),
                Err(ConfigError::Prefix)
            );
        }
        let timeout = Duration::from_secs(1);
        assert_eq!(TikvConfig { timeout, ..good() }.check(), Err(ConfigError::Timeout));
    }
}
