//! The cluster's own certificates: one certificate authority, one certificate a node, and the TLS configurations
//! that follow from them.
//!
//! A node's name is proved by a certificate of the cluster's CA for the DNS name `<node name>.`[`NODE_SUFFIX`].
//! That suffix is not a public domain, and only [`Authority::issue_node`] puts names under it into a certificate,
//! so a certificate for the mail ports ([`Authority::issue_server`]), though of the same CA, never proves a node.

mod file;
mod issue;
mod signature;
mod tls;

pub use file::{read_file, write_private, write_public};
pub use issue::{Authority, DEFAULT_VALIDITY, NodeNames};
pub use signature::{Certificate, NodeKey};
pub use tls::NodeTls;
pub(crate) use tls::{is_our_protocol, proves_node};

use std::path::PathBuf;

/// What node names stand under in certificates and in TLS server name indication.
pub const NODE_SUFFIX: &str = "node.prickle.internal";

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct KeyAndCertificate {
    pub certificate_pem: String,
    /// Secret: written with mode 0600 only ([`write_private`]), never logged.
    pub key_pem: String,
}

impl std::fmt::Debug for KeyAndCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAndCertificate").finish_non_exhaustive()
    }
}

/// Why certificates could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{0} is reserved for node certificates")]
    Reserved(String),
    #[error("cannot make the certificate: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("not valid PEM of a {what}: {reason}")]
    Pem { what: &'static str, reason: String },
    #[error("the certificates cannot be used: {0}")]
    Tls(String),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
}

/// What is wrong with a node name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no node name: 1 to 63 characters of a-z, 0-9 and '-', not at either end")]
pub struct NameError(pub String);

/// A node name is one lower-case DNS label (RFC 1035 section 2.3.1, digits first allowed by RFC 1123 section 2.1).
///
/// # Errors
/// If it is not.
pub fn check_node_name(name: &str) -> Result<(), NameError> {
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fits { Ok(()) } else { Err(NameError(name.to_owned())) }
}

/// The DNS name in the certificate of a node.
pub fn node_dns_name(name: &str) -> String {
    format!("{name}.{NODE_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_single_dns_labels() {
        for good in ["a", "mail-0", "0x", &"x".repeat(63)] {
            assert!(check_node_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "ü", "a b", "*", &"x".repeat(64)] {
            assert!(check_node_name(bad).is_err(), "{bad}");
        }
    }
}
