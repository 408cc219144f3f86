//! rustls configurations for node-to-node connections: TLS 1.3 only, both sides present a certificate of the
//! cluster's CA, nothing is resumed (so that every connection proves its names anew).

use super::{KeyAndCertificate, NodeKey, PkiError, node_dns_name, read_file};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::sync::Arc;

/// What the protocol is called in TLS (RFC 7301), so that no other service of the same CA is mistaken for it.
const ALPN: &[u8] = b"prickle-rpc";

/// A node's side of mutual TLS.
#[derive(Clone)]
pub struct NodeTls {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    key: NodeKey,
}

impl NodeTls {
    /// From the CA's certificate and this node's certificate and key.
    ///
    /// # Errors
    /// If they are not PEM, do not belong together, or are of a kind that TLS 1.3 cannot use.
    pub fn from_pem(ca_pem: &str, node: &KeyAndCertificate) -> Result<Self, PkiError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca_pem, "CA certificate")? {
            roots.add(certificate).map_err(unusable)?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(provider());
        let chain = certificates(&node.certificate_pem, "node certificate")?;
        let key = PrivateKeyDer::from_pem_slice(node.key_pem.as_bytes())
            .map_err(|error| PkiError::Pem { what: "private key", reason: error.to_string() })?;
        let signing = provider.key_provider.load_private_key(key.clone_key()).map_err(unusable)?;
        let own = chain.first().cloned().ok_or_else(|| unusable("no node certificate"))?;
        let node_key = NodeKey::new(signing, own, provider.clone());

        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_webpki_verifier(servers.build().map_err(unusable)?)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        client.resumption = Resumption::disabled();
        client.alpn_protocols = vec![ALPN.to_vec()];

        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(clients.build().map_err(unusable)?)
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server), key: node_key })
    }

    /// What this node signs with.
    pub const fn key(&self) -> &NodeKey {
        &self.key
    }

    /// From PEM files.
    ///
    /// # Errors
    /// As [`NodeTls::from_pem`], or if a file cannot be read.
    pub fn from_files(ca: &Path, certificate: &Path, key: &Path) -> Result<Self, PkiError> {
        let node = KeyAndCertificate { certificate_pem: read_file(certificate)?, key_pem: read_file(key)? };
        Self::from_pem(&read_file(ca)?, &node)
    }
}

impl std::fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeTls").finish_non_exhaustive()
    }
}

/// True if this is what TLS agreed on (RFC 7301 section 3.2): a peer that offers nothing gets nothing.
pub(crate) fn is_our_protocol(agreed: Option<&[u8]>) -> bool {
    agreed == Some(ALPN)
}

/// ring with AES-128-GCM first: it is the cheapest where the processor has AES, and strong enough for both ends.
fn provider() -> CryptoProvider {
    let suites = vec![
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    CryptoProvider { cipher_suites: suites, ..ring::default_provider() }
}

pub(super) fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| PkiError::Pem { what, reason: error.to_string() })?;
    if certificates.is_empty() {
        return Err(PkiError::Pem { what, reason: "no certificate in it".into() });
    }
    Ok(certificates)
}

pub(super) fn unusable(error: impl std::fmt::Display) -> PkiError {
    PkiError::Tls(error.to_string())
}

/// True if this certificate, whose chain TLS has verified, proves the node name.
pub(crate) fn proves_node(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(server_name) = ServerName::try_from(node_dns_name(name)) else { return false };
    ParsedCertificate::try_from(certificate)
        .is_ok_and(|parsed| verify_server_name(&parsed, &server_name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::super::{Authority, DEFAULT_VALIDITY, NodeNames};
    use super::*;

    #[test]
    fn a_certificate_proves_its_own_node_name_only() {
        let authority = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        let extra = NodeNames { dns: vec!["b.example.org".into()], ips: Vec::new() };
        let node = authority.issue_node("a", &extra, DEFAULT_VALIDITY).unwrap();
        let der = CertificateDer::from_pem_slice(node.certificate_pem.as_bytes()).unwrap();
        assert!(proves_node(&der, "a"));
        assert!(!proves_node(&der, "b"));
        assert!(!proves_node(&der, "b.example.org"));
        assert!(!proves_node(&der, ""));
        assert!(!proves_node(&der, "*"));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_at_start() {
        let authority = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        let mut node = authority.issue_node("a", &NodeNames::default(), DEFAULT_VALIDITY).unwrap();
        node.key_pem = authority.issue_node("a", &NodeNames::default(), DEFAULT_VALIDITY).unwrap().key_pem;
        let error = NodeTls::from_pem(authority.certificate_pem(), &node).unwrap_err();
        assert!(matches!(error, PkiError::Tls(_)), "{error}");
    }

    #[test]
    fn text_that_is_not_pem_is_refused_by_name() {
        let node = KeyAndCertificate { certificate_pem: "x".into(), key_pem: "y".into() };
        let error = NodeTls::from_pem("nothing", &node).unwrap_err();
        assert!(error.to_string().contains("CA certificate"), "{error}");
    }
}
