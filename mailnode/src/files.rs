//! Secrets and certificates in files.

use crate::config::Config;
use crate::crypto::Secrets;
use crate::running::{Credentials, StartError};
use rpc::pki::{Authority, DEFAULT_VALIDITY, KeyAndCertificate, NodeNames, NodeTls, read_file};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Shortest admin token.
const TOKEN: usize = 16;

fn wrong(field: &str, error: impl std::fmt::Display) -> StartError {
    StartError::new(field, error)
}

impl Credentials {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// Names the field whose file is missing or wrong.
    pub fn load(config: &Config) -> Result<Self, StartError> {
        let secrets =
            Secrets::read(&config.cluster.secret_file).map_err(|error| wrong("cluster.secretFile", error))?;
        let tls = &config.cluster.tls;
        let node = NodeTls::from_files(&tls.ca, &tls.certificate, &tls.key)
            .map_err(|error| wrong("cluster.tls", error))?;
        let (field, certificate, key) = match &config.tls {
            Some(files) => ("tls", &files.certificate, &files.key),
            None => ("cluster.tls", &tls.certificate, &tls.key),
        };
        let mail = mail_tls(certificate, key).map_err(|error| wrong(field, error))?;
        let token = &config.admin.token_file;
        let admin_token = std::fs::read_to_string(token)
            .map_err(|error| wrong("admin.tokenFile", format!("{}: {error}", token.display())))?;
        let admin_token = admin_token.trim().to_owned();
        if admin_token.len() < TOKEN {
            return Err(wrong("admin.tokenFile", format!("a token has at least {TOKEN} characters")));
        }
        Ok(Self { secrets, node, mail, admin_token })
    }
}

/// TLS for clients of the mail protocols: 1.2 and 1.3, no client certificates.
fn mail_tls(certificate: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let named = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let chain = read_file(certificate).map_err(|error| error.to_string())?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| named(certificate, &error))?;
    let secret = read_file(key).map_err(|error| error.to_string())?;
    let secret = PrivateKeyDer::from_pem_slice(secret.as_bytes()).map_err(|error| named(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| named(certificate, &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Where a CA is kept.
pub fn ca_files(directory: &Path) -> (PathBuf, PathBuf) {
    (directory.join("ca.pem"), directory.join("ca.key"))
}

/// Makes a CA in a directory, unless there is one.
///
/// # Errors
/// Of the file system. True if it was made.
pub fn make_ca(directory: &Path) -> Result<bool, StartError> {
    let (certificate, key) = ca_files(directory);
    if certificate.exists() && key.exists() {
        return Ok(false);
    }
    std::fs::create_dir_all(directory).map_err(|error| wrong(&directory.display().to_string(), error))?;
    let authority = Authority::generate("prickle", DEFAULT_VALIDITY).map_err(|error| wrong("CA", error))?;
    rpc::pki::write_private(&key, &authority.key_pem()).map_err(|error| wrong("CA", error))?;
    rpc::pki::write_public(&certificate, authority.certificate_pem()).map_err(|error| wrong("CA", error))?;
    Ok(true)
}

/// Makes a node's certificate with the CA, unless there is one. Further names may be DNS names or addresses.
///
/// # Errors
/// If the CA or the names are wrong, or of the file system. True if it was made.
pub fn make_node_certificate(
    ca: &Path,
    name: &str,
    out: &Path,
    further: &[String],
) -> Result<bool, StartError> {
    let (certificate, key) = (out.join(format!("{name}.pem")), out.join(format!("{name}.key")));
    if certificate.exists() && key.exists() {
        return Ok(false);
    }
    let issue = || -> Result<KeyAndCertificate, rpc::pki::PkiError> {
        let (ca_certificate, ca_key) = ca_files(ca);
        let authority = Authority::from_pem(&read_file(&ca_certificate)?, &read_file(&ca_key)?)?;
        let mut names = NodeNames::default();
        for name in further {
            match name.parse::<IpAddr>() {
                Ok(address) => names.ips.push(address),
                Err(_) => names.dns.push(name.clone()),
            }
        }
        authority.issue_node(name, &names, DEFAULT_VALIDITY)
    };
    let made = issue().map_err(|error| wrong(name, error))?;
    std::fs::create_dir_all(out).map_err(|error| wrong(&out.display().to_string(), error))?;
    rpc::pki::write_private(&key, &made.key_pem).map_err(|error| wrong(name, error))?;
    rpc::pki::write_public(&certificate, &made.certificate_pem).map_err(|error| wrong(name, error))?;
    Ok(true)
}
