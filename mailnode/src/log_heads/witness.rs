//! A log's files against the signatures in them: each says what the log was up to some group, by the node's own key. Who alters a log
//! without that key, and puts the chain of hashes right again, contradicts them.

use super::SignedHead;
use cluster::NodeId;
use rpc::pki::Certificate;
use std::collections::HashMap;
use storage::Seen;

/// Looks on while the files are read ([`storage::verify_files`]). Memory: some 50 bytes a group.
pub struct Witness {
    certificate: Certificate,
    node: NodeId,
    chains: HashMap<u64, [u8; 32]>,
    found: Witnessed,
}

/// What the signatures say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Witnessed {
    /// The log is what was signed.
    pub agree: u64,
    /// It is not.
    pub contradicted: u64,
    /// Signed by another key than the certificate's, or damaged.
    pub unknown: u64,
    /// Of groups that compaction has removed since.
    pub removed: u64,
    /// The last group that a signature agrees with.
    pub up_to: u64,
}

impl Witness {
    pub fn new(certificate: Certificate, node: NodeId) -> Self {
        Self { certificate, node, chains: HashMap::new(), found: Witnessed::default() }
    }

    pub fn see(&mut self, seen: Seen<'_>) {
        match seen {
            Seen::Group(head) => {
                self.chains.insert(head.sequence, head.chain);
            }
            Seen::Value { key, value } => {
                if let Some(signed) = SignedHead::read(key, value) {
                    self.judge(&signed);
                }
            }
        }
    }

    fn judge(&mut self, signed: &SignedHead) {
        if !signed.is_signed_by(&self.certificate, self.node) {
            self.found.unknown += 1;
            return;
        }
        match self.chains.get(&signed.head.sequence) {
            Some(chain) if *chain == signed.head.chain => {
                self.found.agree += 1;
                self.found.up_to = self.found.up_to.max(signed.head.sequence);
            }
            // Compaction wrote it again behind what it is about, which is elsewhere or gone.
            None => self.found.removed += 1,
            Some(_) => self.found.contradicted += 1,
        }
    }

    pub const fn found(&self) -> Witnessed {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogId, SignedHead};
    use super::*;
    use crate::log_heads::keeping::SIGNED_KEY;
    use cluster::Incarnation;
    use rpc::pki::{Authority, DEFAULT_VALIDITY, NodeNames, NodeTls};
    use storage::Head;

    #[test]
    fn signatures_agree_with_what_was_signed_and_contradict_what_was_altered() {
        let authority = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        let issue = |name: &str| authority.issue_node(name, &NodeNames::default(), DEFAULT_VALIDITY).unwrap();
        let (ours, theirs) = (issue("a"), issue("b"));
        let node = NodeId::of_name("a");
        let certificate = Certificate::from_pem(&ours.certificate_pem).unwrap();
        let mut witness = Witness::new(certificate, node);
        let head = |sequence, chain| Head { sequence, chain: [chain; 32] };
        let mut see_signed = |by: &rpc::pki::KeyAndCertificate, of: Head, there: Option<Head>| {
            let key = NodeTls::from_pem(authority.certificate_pem(), by).unwrap();
            let signed = SignedHead::new(key.key(), node, LogId([1; 16]), of, Incarnation(1)).unwrap();
            there.into_iter().for_each(|there| witness.see(Seen::Group(there)));
            witness.see(Seen::Value { key: SIGNED_KEY, value: &postcard::to_stdvec(&signed).unwrap() });
            witness.see(Seen::Value { key: b"other", value: b"x" });
            witness.found()
        };
        see_signed(&ours, head(4, 1), Some(head(4, 1)));
        assert_eq!(see_signed(&theirs, head(5, 1), Some(head(5, 1))).unknown, 1);
        see_signed(&ours, head(6, 1), Some(head(6, 2)));
        let found = see_signed(&ours, head(2, 1), None);
        assert_eq!(found, Witnessed { agree: 1, contradicted: 1, unknown: 1, removed: 1, up_to: 4 });
    }
}
