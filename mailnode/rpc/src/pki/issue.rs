//! The certificate authority of a cluster: made once, kept wherever the operator keeps it, issues certificates.

use super::{KeyAndCertificate, NODE_SUFFIX, PkiError, check_node_name, node_dns_name};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long certificates are valid unless said otherwise: ten years of 365 days, because an expired one takes the
/// whole cluster down, and the operator rotates long before.
pub const DEFAULT_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Certificates are valid from this long before now, for clocks that are behind.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);

/// Names and addresses of a node beside the one that proves its node name.
#[derive(Clone, Debug, Default)]
pub struct NodeNames {
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
}

/// The cluster's certificate authority, with its private key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl Authority {
    /// A new self-signed CA (ECDSA P-256) that is allowed to issue end-entity certificates only.
    ///
    /// # Errors
    /// If the random source or the encoder fails.
    pub fn generate(cluster: &str, validity: Duration) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params(&format!("Prickle cluster {cluster}"), validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem })
    }

    /// The CA from its PEM files.
    ///
    /// # Errors
    /// If either is not what it should be.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key)?;
        Ok(Self { issuer, certificate_pem: certificate_pem.to_owned() })
    }

    /// What every node needs to verify the others.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's own key, to be kept secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The CA's word on some bytes, for whoever has its certificate ([`super::Certificate::has_signed`]). None if its key can make no
    /// signature that we know.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem().as_bytes()).ok()?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).ok()?;
        super::signature::sign(&*key, message)
    }

    /// A certificate that proves a node's name, for both ends of a connection.
    ///
    /// # Errors
    /// If the node name or one of the extra names is not allowed.
    pub fn issue_node(
        &self,
        name: &str,
        extra: &NodeNames,
        validity: Duration,
    ) -> Result<KeyAndCertificate, PkiError> {
        check_node_name(name)?;
        let mut names = names(&extra.dns, &extra.ips)?;
        names.insert(0, SanType::DnsName(node_dns_name(name).try_into()?));
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(name, names, usages, validity)
    }

    /// A certificate for the mail and HTTP listeners. It cannot be used between nodes.
    ///
    /// # Errors
    /// If there is no name, or one of them is not allowed.
    pub fn issue_server(
        &self,
        dns: &[String],
        ips: &[IpAddr],
        validity: Duration,
    ) -> Result<KeyAndCertificate, PkiError> {
        let names = names(dns, ips)?;
        let Some(first) = dns.first().cloned().or_else(|| ips.first().map(ToString::to_string)) else {
            return Err(PkiError::Tls("a server certificate needs a name or address".into()));
        };
        self.issue(&first, names, vec![ExtendedKeyUsagePurpose::ServerAuth], validity)
    }

    fn issue(
        &self,
        common_name: &str,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        validity: Duration,
    ) -> Result<KeyAndCertificate, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params(common_name, validity);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(KeyAndCertificate { certificate_pem, key_pem: key.serialize_pem() })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

fn params(common_name: &str, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // RFC 5280 upper bound ub-common-name is 64.
    let common_name: String = common_name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCK_SLACK);
    // At most a thousand years, so that the sum stays a date.
    params.not_after = epoch + (now + validity.min(DEFAULT_VALIDITY * 100));
    params
}

fn names(dns: &[String], ips: &[IpAddr]) -> Result<Vec<SanType>, PkiError> {
    let mut names = Vec::with_capacity(dns.len() + ips.len());
    for name in dns {
        let plain = name.trim_end_matches('.').to_ascii_lowercase();
        // A wildcard or name that could cover a node name would prove what it should not.
        let suffix_or_above = NODE_SUFFIX.ends_with(plain.trim_start_matches("*."));
        if plain.ends_with(NODE_SUFFIX) || (plain.starts_with("*.") && suffix_or_above) {
            return Err(PkiError::Reserved(name.clone()));
        }
        names.push(SanType::DnsName(plain.try_into()?));
    }
    names.extend(ips.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_certificate_gets_a_node_name_that_was_not_asked_for_as_such() {
        let authority = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        for name in
            ["a.node.prickle.internal", "*.node.prickle.internal", "A.NODE.prickle.internal.", "*.internal"]
        {
            let error = authority.issue_server(&[name.to_owned()], &[], DEFAULT_VALIDITY).unwrap_err();
            assert!(matches!(error, PkiError::Reserved(_)), "{name}: {error}");
            let extra = NodeNames { dns: vec![name.to_owned()], ips: Vec::new() };
            assert!(authority.issue_node("b", &extra, DEFAULT_VALIDITY).is_err(), "{name}");
        }
        assert!(authority.issue_server(&["*.example.org".to_owned()], &[], DEFAULT_VALIDITY).is_ok());
    }

    #[test]
    fn an_authority_read_back_from_pem_issues_certificates_that_its_first_copy_trusts() {
        let first = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        let second = Authority::from_pem(first.certificate_pem(), &first.key_pem()).unwrap();
        let node = second.issue_node("a", &NodeNames::default(), DEFAULT_VALIDITY).unwrap();
        super::super::NodeTls::from_pem(first.certificate_pem(), &node).unwrap();
    }

    #[test]
    fn a_server_certificate_without_a_name_is_refused() {
        let authority = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        assert!(authority.issue_server(&[], &[], DEFAULT_VALIDITY).is_err());
    }
}
