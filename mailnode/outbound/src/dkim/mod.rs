//! DKIM signatures (RFC 6376): `rsa-sha256`, or `ed25519-sha256` (RFC 8463), of header and body, both `relaxed`.
//!
//! A message is signed for its sender's domain, and only if that is also the author's (`From:`): the sender was checked,
//! the author is only what the client wrote, and nobody shall get another domain's signature.
//!
//! The place for DMARC (RFC 7489): it asks for just this alignment; what it says of incoming mail is checked elsewhere.

mod canonical;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use canonical::{Field, body_hash, header, split};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

/// RFC 6376 5.4.1, and what says how to read the body. Each is named once more than it is there, so that nobody can add
/// another one (RFC 6376 8.15).
const SIGNED: [&str; 14] = [
    "from",
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "reply-to",
    "sender",
    "in-reply-to",
    "references",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "list-unsubscribe",
];
/// Fields of one name that are signed.
const MOST: usize = 20;
const LINE: usize = 72;

/// A key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("no private key in PEM form")]
    Pem,
    #[error("must be an RSA key of 2048 to 4096 bits or an Ed25519 key ({0})")]
    Kind(String),
}

enum Key {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Signs for one domain.
pub struct Signer {
    domain: String,
    selector: String,
    key: Key,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({}._domainkey.{})", self.selector, self.domain)
    }
}

impl Signer {
    /// # Errors
    /// If the text has no key that can be used.
    pub fn new(domain: &str, selector: &str, pem: &[u8]) -> Result<Self, KeyError> {
        let kind = |error: ring::error::KeyRejected| KeyError::Kind(error.to_string());
        let key = match PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Pem)? {
            PrivateKeyDer::Pkcs1(key) => {
                RsaKeyPair::from_der(key.secret_pkcs1_der()).map(Key::Rsa).map_err(kind)?
            }
            PrivateKeyDer::Pkcs8(key) => {
                let der = key.secret_pkcs8_der();
                match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                    Ok(key) => Key::Ed25519(key),
                    Err(_) => RsaKeyPair::from_pkcs8(der).map(Key::Rsa).map_err(kind)?,
                }
            }
            _ => return Err(KeyError::Kind("another kind of key".into())),
        };
        Ok(Self { domain: domain.to_ascii_lowercase(), selector: selector.to_owned(), key })
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The `DKIM-Signature:` field of a message with CRLF line ends, to be put before it. None if the message is not
    /// by an author of this domain, or the key fails.
    pub fn sign(&self, message: &[u8], unix_seconds: i64) -> Option<String> {
        let (fields, body) = split(message);
        let author = fields.iter().find(|field| field.name.eq_ignore_ascii_case(b"from"))?;
        if !author_domain(author)?.eq_ignore_ascii_case(&self.domain) {
            return None;
        }
        let (names, mut input) = signed_fields(&fields);
        let algorithm = match &self.key {
            Key::Rsa(_) => "rsa-sha256",
            Key::Ed25519(_) => "ed25519-sha256",
        };
        let value = format!(
            " v=1; a={algorithm}; c=relaxed/relaxed; d={};\r\n\ts={}; t={unix_seconds};\r\n\th={};\r\n\tbh={};\r\n\tb=",
            self.domain,
            self.selector,
            folded(&names, ':'),
            STANDARD.encode(body_hash(body)),
        );
        // RFC 6376 3.7: the field itself comes last, with nothing behind `b=` and no line end.
        input.extend_from_slice(&header(b"dkim-signature", value.as_bytes()));
        let signature = STANDARD.encode(self.signature(&input)?);
        let lines: Vec<&str> = chunks(&signature, LINE).collect();
        Some(format!("DKIM-Signature:{value}{}\r\n", lines.join("\r\n\t")))
    }

    fn signature(&self, input: &[u8]) -> Option<Vec<u8>> {
        match &self.key {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input, &mut signature).ok()?;
                Some(signature)
            }
            // RFC 8463 3: the hash is what is signed.
            Key::Ed25519(key) => {
                let digest = ring::digest::digest(&ring::digest::SHA256, input);
                Some(key.sign(digest.as_ref()).as_ref().to_vec())
            }
        }
    }
}

/// Names for `h=`, and the canonical fields: of fields with one name the last comes first (RFC 6376 5.4.2).
fn signed_fields(fields: &[Field<'_>]) -> (Vec<String>, Vec<u8>) {
    let (mut names, mut input) = (Vec::new(), Vec::new());
    for name in SIGNED {
        let same = |field: &&Field<'_>| field.name.eq_ignore_ascii_case(name.as_bytes());
        for field in fields.iter().rev().filter(same).take(MOST) {
            names.push(name.to_owned());
            input.extend_from_slice(&header(field.name, field.value));
            input.extend_from_slice(b"\r\n");
        }
        names.push(name.to_owned());
    }
    (names, input)
}

/// A list in lines that are not too long.
fn folded(words: &[String], separator: char) -> String {
    let mut text = String::new();
    let mut line = 0;
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            text.push(separator);
            if line + word.len() > LINE {
                text.push_str("\r\n\t");
                line = 0;
            }
        }
        text.push_str(word);
        line += word.len() + 1;
    }
    text
}

fn chunks(text: &str, length: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (chunk, after) = rest.split_at_checked(length.min(rest.len()))?;
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// The domain of a `From:` with one address (RFC 5322 3.6.2): the last in angle brackets, or all of it. None if it cannot
/// be told for sure.
fn author_domain(from: &Field<'_>) -> Option<String> {
    let text = std::str::from_utf8(from.value).ok()?;
    if text.matches('@').count() != 1 {
        // Several authors, or an address in the name: whose signature it should be is not clear.
        let (_, address) = text.rsplit_once('<')?;
        let (name, _) = text.rsplit_once('<')?;
        if name.contains('<') || address.matches('@').count() != 1 {
            return None;
        }
        return domain_of(address);
    }
    domain_of(text)
}

fn domain_of(text: &str) -> Option<String> {
    let (_, domain) = text.rsplit_once('@')?;
    let end = domain.find(|c: char| !(c.is_alphanumeric() || c == '-' || c == '.')).unwrap_or(domain.len());
    let (domain, rest) = domain.split_at_checked(end)?;
    // Nothing but the end of the address, and comments or white space.
    let rest = rest.trim();
    let ended = rest.is_empty() || rest == ">" || rest.starts_with('(') || rest.starts_with("> ");
    (ended && !domain.is_empty()).then(|| idna::domain_to_ascii(domain).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ED25519, KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    const MESSAGE: &[u8] = b"Received: x\r\nFrom: \"A, B\" <alice@Example.ORG>\r\nSubject: one\r\n\tfolded\r\nSubject: two\r\n\r\nbody \r\n";

    fn ed25519() -> Signer {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        Signer::new("example.org", "s1", pem.as_bytes()).unwrap()
    }

    /// What a verifier would hash, put together here by other means.
    fn input(field: &str) -> Vec<u8> {
        let (unsigned, _) = field.rsplit_once("b=").unwrap();
        let unsigned = unsigned.strip_prefix("DKIM-Signature:").unwrap().replace("\r\n\t", " ");
        let mut input =
            b"from:\"A, B\" <alice@Example.ORG>\r\nsubject:two\r\nsubject:one folded\r\n".to_vec();
        input.extend_from_slice(format!("dkim-signature:{}b=", unsigned.trim_start()).as_bytes());
        input
    }

    fn signature(field: &str) -> Vec<u8> {
        let (_, signature) = field.rsplit_once("b=").unwrap();
        STANDARD.decode(signature.replace(['\r', '\n', '\t'], "")).unwrap()
    }

    #[test]
    fn an_ed25519_signature_is_one_of_the_hash() {
        let signer = ed25519();
        let field = signer.sign(MESSAGE, 7).unwrap();
        assert!(
            field.contains("a=ed25519-sha256; c=relaxed/relaxed; d=example.org;\r\n\ts=s1; t=7;"),
            "{field}"
        );
        let Key::Ed25519(key) = &signer.key else { panic!() };
        let digest = ring::digest::digest(&ring::digest::SHA256, &input(&field));
        let public = UnparsedPublicKey::new(&ED25519, key.public_key().as_ref());
        public.verify(digest.as_ref(), &signature(&field)).unwrap();
    }

    #[test]
    fn an_rsa_signature_fits_its_key() {
        let signer = Signer::new("example.org", "s1", include_bytes!("../../tests/dkim.pem")).unwrap();
        let field = signer.sign(MESSAGE, 7).unwrap();
        assert!(field.contains("h=from:from:to:cc:subject:subject:subject:"), "{field}");
        assert!(field.lines().all(|line| line.len() < 90), "{field}");
        let Key::Rsa(key) = &signer.key else { panic!() };
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
        public.verify(&input(&field), &signature(&field)).unwrap();
    }

    #[test]
    fn only_authors_of_the_domain_are_signed_for() {
        let signer = ed25519();
        let sign = |from: &str| signer.sign(format!("From: {from}\r\n\r\nx\r\n").as_bytes(), 0).is_some();
        for from in [
            "alice@example.org",
            "<alice@example.org>",
            "A (x) <alice@example.org>",
            "alice@example.org (A)",
            "\"b@c\" <alice@example.org>",
        ] {
            assert!(sign(from), "{from}");
        }
        for from in [
            "alice@example.net",
            "alice@sub.example.org",
            "a@example.net, alice@example.org",
            "<a@example.net>, <alice@example.org>",
            "alice@example.org, a@example.net",
            "alice@example.org.example.net",
            "alice@example.org <a",
            "nobody",
            "",
        ] {
            assert!(!sign(from), "{from}");
        }
        assert!(signer.sign(b"Subject: no author\r\n\r\n", 0).is_none());
    }

    #[test]
    fn what_is_no_key_is_refused_and_none_is_printed() {
        assert_eq!(Signer::new("a.example", "s", b"hello").unwrap_err(), KeyError::Pem);
        let nonsense = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
        assert!(matches!(Signer::new("a.example", "s", nonsense.as_bytes()), Err(KeyError::Kind(_))));
        assert_eq!(format!("{:?}", ed25519()), "Signer(s1._domainkey.example.org)");
    }
}
