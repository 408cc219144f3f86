//! A node's word on bytes that others keep for it: signed by the key of its certificate, and recognised by itself or whoever has that.

use super::PkiError;
use super::tls::{certificates, unusable};
use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::sign::SigningKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;
use webpki::EndEntityCert;

/// Kinds of signatures, the best first.
const SCHEMES: [SignatureScheme; 5] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PSS_SHA256,
];

/// A certificate, to check signatures with.
#[derive(Clone)]
pub struct Certificate {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Certificate {
    /// # Errors
    /// If there is no certificate in the text.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(unusable)?;
        Ok(Self { certificate, provider: Arc::new(rustls::crypto::ring::default_provider()) })
    }

    /// All certificates in a text.
    ///
    /// # Errors
    /// If there is none, or one cannot be read.
    pub fn all_from_pem(pem: &str) -> Result<Vec<Self>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let all = certificates(pem, "certificate")?.into_iter();
        Ok(all.map(|certificate| Self { certificate, provider: provider.clone() }).collect())
    }

    /// True if this certificate's key signed the message.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let Some((scheme, signature)) = signature.split_first_chunk::<2>() else { return false };
        let scheme = SignatureScheme::from(u16::from_be_bytes(*scheme));
        let Ok(certificate) = EndEntityCert::try_from(&self.certificate) else { return false };
        let known = self.provider.signature_verification_algorithms.mapping;
        let mut algorithms = known.iter().filter(|(of, _)| *of == scheme).flat_map(|(_, all)| *all);
        algorithms.any(|&algorithm| certificate.verify_signature(algorithm, message, signature).is_ok())
    }
}

pub(super) fn sign(key: &dyn SigningKey, message: &[u8]) -> Option<Vec<u8>> {
    let signer = key.choose_scheme(&SCHEMES)?;
    let mut signature = u16::from(signer.scheme()).to_be_bytes().to_vec();
    signature.extend(signer.sign(message).ok()?);
    Some(signature)
}

/// The key and certificate with which a node proves its name.
#[derive(Clone)]
pub struct NodeKey {
    key: Arc<dyn SigningKey>,
    certificate: Certificate,
}

impl NodeKey {
    pub(super) fn new(
        key: Arc<dyn SigningKey>,
        certificate: CertificateDer<'static>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self { key, certificate: Certificate { certificate, provider } }
    }

    /// A signature, which says of what kind it is. None if the key can make none that we know.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        sign(&*self.key, message)
    }

    /// True if this certificate's key signed the message.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.certificate.has_signed(message, signature)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Authority, DEFAULT_VALIDITY, NodeNames, NodeTls};

    #[test]
    fn a_node_recognises_its_own_signature_and_no_other() {
        let authority = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        let key = |name: &str| {
            let node = authority.issue_node(name, &NodeNames::default(), DEFAULT_VALIDITY).unwrap();
            NodeTls::from_pem(authority.certificate_pem(), &node).unwrap().key().clone()
        };
        let (a, b) = (key("a"), key("b"));
        let signature = a.sign(b"head").unwrap();
        assert!(a.verify(b"head", &signature));
        assert!(!a.verify(b"heat", &signature));
        assert!(!b.verify(b"head", &signature));
        assert!(!a.verify(b"head", &signature[..5]));
        assert!(!a.verify(b"head", &[]));
    }
}
