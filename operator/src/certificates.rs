//! The cluster's certificates over time: a CA of its own, a certificate for each node (node-to-node protocol, proves
//! the node's name) and one for the mail protocols. Pure but for the random source: the time comes from the caller.
//!
//! Rotation of the CA never breaks a connection, because it takes three steps and waits for all nodes in between:
//! - a *next* CA is made and trusted by all;
//! - when all nodes trust it, it becomes the *current* one and issues all certificates anew, while the *previous*
//!   one is still trusted;
//! - when all nodes have new certificates, the previous one is forgotten; where it vouches for accounts, it is trusted until the
//!   next replacement, because nobody but a person signs accounts anew.

use crate::crd::MailCluster;
use ring::digest::{SHA256, digest};
use rpc::pki::{Authority, NodeNames, PkiError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

const DAY: u64 = 24 * 3600;
/// Validity of a CA.
const CA_DAYS: u64 = 3650;
/// A CA is replaced when less is left.
const CA_RENEW_DAYS: u64 = 365;

/// Seconds since 1970, wall clock.
pub type UnixSeconds = u64;

/// The first 16 hexadecimal digits of SHA-256: names content, is not secret.
pub fn fingerprint(parts: &[&str]) -> String {
    let mut text = Vec::new();
    for part in parts {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    digest(&SHA256, &text).as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A CA as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredAuthority {
    pub certificate_pem: String,
    pub key_pem: String,
    pub not_after: UnixSeconds,
}

impl StoredAuthority {
    fn generate(cluster: &str, now: UnixSeconds) -> Result<Self, PkiError> {
        let authority = Authority::generate(cluster, days(CA_DAYS))?;
        Ok(Self {
            certificate_pem: authority.certificate_pem().to_owned(),
            key_pem: authority.key_pem(),
            not_after: now + CA_DAYS * DAY,
        })
    }

    fn open(&self) -> Result<Authority, PkiError> {
        Authority::from_pem(&self.certificate_pem, &self.key_pem)
    }
}

impl std::fmt::Debug for StoredAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredAuthority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * DAY)
}

/// All CAs of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorities {
    pub current: StoredAuthority,
    #[serde(default)]
    pub next: Option<StoredAuthority>,
    /// Certificate of the CA before this one.
    #[serde(default)]
    pub previous: Option<String>,
}

/// What becomes of a CA that issues no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Previous {
    Forgotten,
    /// Its signatures under accounts count ([`crate::crd::EncryptionSpec`]).
    Trusted,
}

impl Previous {
    pub fn of(cluster: &MailCluster) -> Self {
        if cluster.spec.encryption.require_signed_accounts { Self::Trusted } else { Self::Forgotten }
    }
}

impl Authorities {
    /// The step that is due. `rolled_out`: all nodes run with what `stored` says.
    ///
    /// # Errors
    /// If the random source fails.
    pub fn advance(
        stored: Option<Self>,
        cluster: &str,
        now: UnixSeconds,
        rolled_out: bool,
        once_replaced: Previous,
    ) -> Result<Self, PkiError> {
        let Some(stored) = stored else {
            return Ok(Self {
                current: StoredAuthority::generate(cluster, now)?,
                next: None,
                previous: None,
            });
        };
        let Self { current, next, previous } = stored;
        Ok(match (next, previous) {
            (Some(next), _) if rolled_out => {
                Self { current: next, next: None, previous: Some(current.certificate_pem) }
            }
            (None, Some(_)) if rolled_out && once_replaced == Previous::Forgotten => {
                Self { current, next: None, previous: None }
            }
            (None, previous) if now + CA_RENEW_DAYS * DAY > current.not_after => {
                let next = StoredAuthority::generate(cluster, now)?;
                Self { current, next: Some(next), previous }
            }
            (next, previous) => Self { current, next, previous },
        })
    }

    /// The certificates to trust, PEM.
    pub fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| next.certificate_pem.as_str());
        [Some(self.current.certificate_pem.as_str()), next, self.previous.as_deref()]
            .into_iter()
            .flatten()
            .map(|pem| format!("{}\n", pem.trim_end()))
            .collect()
    }

    fn issuer(&self) -> String {
        fingerprint(&[&self.current.certificate_pem])
    }
}

/// What certificates that were issued together have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    pub issuer: String,
    pub issued: UnixSeconds,
    pub not_after: UnixSeconds,
    /// Names in each certificate beside the node's own.
    pub names: Vec<String>,
}

impl Batch {
    fn new(authorities: &Authorities, names: &[String], now: UnixSeconds, validity_days: u64) -> Self {
        // No longer than the CA itself.
        let not_after = (now + validity_days * DAY).min(authorities.current.not_after);
        Self { issuer: authorities.issuer(), issued: now, not_after, names: names.to_vec() }
    }

    /// By the current CA, for these names, and more than a third of its time is left.
    fn is_good(&self, authorities: &Authorities, names: &[String], now: UnixSeconds) -> bool {
        let third = self.not_after.saturating_sub(self.issued) / 3;
        self.issuer == authorities.issuer() && self.names == names && now + third < self.not_after
    }

    fn left(&self, now: UnixSeconds) -> Duration {
        Duration::from_secs(self.not_after.saturating_sub(now))
    }
}

/// Certificates and keys of all nodes.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeCertificates {
    pub batch: Batch,
    /// `<node>.crt` and `<node>.key` to PEM.
    pub files: BTreeMap<String, String>,
}

impl NodeCertificates {
    /// Keeps what is good, adds new nodes to the batch, issues all anew when the batch is not good any more.
    /// Nodes that are not named any more lose theirs.
    ///
    /// # Errors
    /// If a name is not allowed in a certificate, or the random source fails.
    pub fn renew(
        stored: Option<Self>,
        authorities: &Authorities,
        nodes: &[String],
        now: UnixSeconds,
        validity_days: u64,
    ) -> Result<Self, PkiError> {
        let stored = stored.filter(|stored| stored.batch.is_good(authorities, &[], now));
        let (batch, mut known) = match stored {
            Some(stored) => (stored.batch, stored.files),
            None => (Batch::new(authorities, &[], now, validity_days), BTreeMap::new()),
        };
        let authority = authorities.current.open()?;
        let mut files = BTreeMap::new();
        for node in nodes {
            let names = [format!("{node}.crt"), format!("{node}.key")];
            let (certificate, key) = match (known.remove(&names[0]), known.remove(&names[1])) {
                (Some(certificate), Some(key)) => (certificate, key),
                _ => {
                    let issued = authority.issue_node(node, &NodeNames::default(), batch.left(now))?;
                    (issued.certificate_pem, issued.key_pem)
                }
            };
            let [certificate_name, key_name] = names;
            files.extend([(certificate_name, certificate), (key_name, key)]);
        }
        Ok(Self { batch, files })
    }
}

/// The certificate of the mail protocols.
#[derive(Clone, PartialEq, Eq)]
pub struct MailCertificate {
    pub batch: Batch,
    pub certificate_pem: String,
    pub key_pem: String,
}

impl MailCertificate {
    /// Keeps it while it is good.
    ///
    /// # Errors
    /// As [`NodeCertificates::renew`].
    pub fn renew(
        stored: Option<Self>,
        authorities: &Authorities,
        names: &[String],
        now: UnixSeconds,
        validity_days: u64,
    ) -> Result<Self, PkiError> {
        if let Some(stored) = stored.filter(|stored| stored.batch.is_good(authorities, names, now)) {
            return Ok(stored);
        }
        let batch = Batch::new(authorities, names, now, validity_days);
        let issued = authorities.current.open()?.issue_server(names, &[], batch.left(now))?;
        Ok(Self { batch, certificate_pem: issued.certificate_pem, key_pem: issued.key_pem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc::pki::{KeyAndCertificate, NodeTls};

    const NOW: UnixSeconds = 1_800_000_000;

    fn nodes(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("mail-{n}")).collect()
    }

    fn first() -> Authorities {
        Authorities::advance(None, "mail", NOW, false, Previous::Forgotten).unwrap()
    }

    fn renew(stored: Option<NodeCertificates>, by: &Authorities, count: usize, now: u64) -> NodeCertificates {
        NodeCertificates::renew(stored, by, &nodes(count), now, 90).unwrap()
    }

    #[test]
    fn a_young_ca_stays_as_it_is() {
        let ca = first();
        assert_eq!(
            Authorities::advance(Some(ca.clone()), "mail", NOW + 2000 * DAY, true, Previous::Forgotten)
                .unwrap(),
            ca
        );
    }

    #[test]
    fn an_old_ca_is_replaced_in_three_steps_that_wait_for_all_nodes() {
        let ca = first();
        let late = NOW + 3300 * DAY;
        let step = |stored: &Authorities, rolled_out| {
            Authorities::advance(Some(stored.clone()), "mail", late, rolled_out, Previous::Forgotten).unwrap()
        };
        let trusted = step(&ca, false);
        assert_eq!(trusted.current, ca.current);
        assert!(trusted.bundle().contains(trusted.next.as_ref().unwrap().certificate_pem.trim_end()));
        assert_eq!(step(&trusted, false), trusted);

        let promoted = step(&trusted, true);
        assert_eq!(promoted.current, trusted.next.clone().unwrap());
        assert!(promoted.bundle().contains(ca.current.certificate_pem.trim_end()));
        assert_eq!(step(&promoted, false), promoted);

        let done = step(&promoted, true);
        assert_eq!(done.bundle().matches("BEGIN CERTIFICATE").count(), 1);
        assert_eq!(step(&done, true), done);
    }

    #[test]
    fn a_ca_that_vouches_for_accounts_is_trusted_until_the_next_replacement() {
        let (ca, late, later) = (first(), NOW + 3300 * DAY, NOW + 6600 * DAY);
        let step = |stored: Authorities, now| {
            Authorities::advance(Some(stored), "mail", now, true, Previous::Trusted).unwrap()
        };
        let trusts = |now: &Authorities, ca: &Authorities| {
            now.bundle().contains(ca.current.certificate_pem.trim_end())
        };
        let second = step(step(ca.clone(), late), late);
        assert_ne!(second.current, ca.current);
        assert_eq!(step(second.clone(), late), second);
        assert!(trusts(&second, &ca));

        let prepared = step(second.clone(), later);
        assert!(prepared.next.is_some() && trusts(&prepared, &ca));
        let third = step(prepared, later);
        assert!(trusts(&third, &second) && !trusts(&third, &ca));
        // Signatures are not asked for any more.
        let forgotten = Authorities::advance(Some(third), "mail", later, true, Previous::Forgotten).unwrap();
        assert!(!trusts(&forgotten, &second));
    }

    #[test]
    fn a_new_node_gets_a_certificate_and_the_others_keep_theirs() {
        let ca = first();
        let three = renew(None, &ca, 3, NOW);
        let four = renew(Some(three.clone()), &ca, 4, NOW + DAY);
        assert_eq!(four.batch, three.batch);
        assert_eq!(four.files.len(), 8);
        assert!(three.files.iter().all(|(name, pem)| four.files.get(name) == Some(pem)));
        let two = renew(Some(four), &ca, 2, NOW + DAY);
        assert_eq!(two.files.len(), 4);
    }

    #[test]
    fn certificates_are_renewed_with_a_third_of_their_time_left_or_by_a_new_ca() {
        let ca = first();
        let three = renew(None, &ca, 3, NOW);
        assert!(renew(Some(three.clone()), &ca, 3, NOW + 59 * DAY) == three);
        assert!(renew(Some(three.clone()), &ca, 3, NOW + 61 * DAY).batch != three.batch);
        assert!(renew(Some(three.clone()), &first(), 3, NOW).batch != three.batch);
    }

    #[test]
    fn nodes_with_a_batch_of_the_old_ca_and_of_the_new_one_trust_each_other() {
        let ca = first();
        let trusted =
            Authorities::advance(Some(ca), "mail", NOW + 3300 * DAY, false, Previous::Forgotten).unwrap();
        let promoted =
            Authorities::advance(Some(trusted), "mail", NOW + 3300 * DAY, true, Previous::Forgotten).unwrap();
        let new = renew(None, &promoted, 1, NOW + 3300 * DAY);
        let identity = KeyAndCertificate {
            certificate_pem: new.files["mail-0.crt"].clone(),
            key_pem: new.files["mail-0.key"].clone(),
        };
        NodeTls::from_pem(&promoted.bundle(), &identity).unwrap();
    }

    #[test]
    fn the_mail_certificate_follows_the_names() {
        let ca = first();
        let names = ["mail.example.org".to_owned()];
        let issued = MailCertificate::renew(None, &ca, &names, NOW, 90).unwrap();
        let same = MailCertificate::renew(Some(issued.clone()), &ca, &names, NOW + DAY, 90).unwrap();
        assert!(same == issued);
        let other = ["imap.example.org".to_owned()];
        assert!(MailCertificate::renew(Some(issued), &ca, &other, NOW, 90).unwrap().batch.names == other);
    }

    #[test]
    fn a_fingerprint_depends_on_where_parts_end() {
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
        assert_eq!(fingerprint(&["ab", "c"]).len(), 16);
    }
}
