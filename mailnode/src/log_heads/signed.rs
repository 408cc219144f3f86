//! A head, signed.

use super::keeping::SIGNED_KEY;
use cluster::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};
use storage::Head;

/// Longer signatures are none of ours, in bytes.
const SIGNATURE: usize = 1_024;
/// So that a signature of this is never one of anything else.
const CONTEXT: &str = "prickle 2026-11 log head";

/// Tells a node's logs apart: random, given when the log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogId(pub [u8; 16]);

/// What a node signs with.
pub trait Signer: Send + Sync {
    /// None if it cannot.
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>>;
    /// Did we sign this?
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool;
}

impl Signer for rpc::pki::NodeKey {
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        Self::sign(self, message)
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        Self::verify(self, message, signature)
    }
}

/// The end of a node's log, as its node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHead {
    pub log: LogId,
    pub head: Head,
    /// Of the process that signed it.
    pub life: Incarnation,
    signature: Vec<u8>,
}

impl SignedHead {
    pub fn new(signer: &dyn Signer, node: NodeId, log: LogId, head: Head, life: Incarnation) -> Option<Self> {
        let signature = signer.sign(&message(node, log, head, life)?)?;
        Some(Self { log, head, life, signature })
    }

    pub fn is_ours(&self, signer: &dyn Signer, node: NodeId) -> bool {
        let message = message(node, self.log, self.head, self.life);
        message.is_some_and(|message| signer.verify(&message, &self.signature))
    }

    /// One that is in a log's files; None if this record is none.
    pub fn read(key: &[u8], value: &[u8]) -> Option<Self> {
        (key == SIGNED_KEY).then(|| postcard::from_bytes(value).ok()).flatten()
    }

    /// True if the key of this certificate signed it, for the node of this name.
    pub fn is_signed_by(&self, certificate: &rpc::pki::Certificate, node: NodeId) -> bool {
        let message = message(node, self.log, self.head, self.life);
        message.is_some_and(|message| certificate.has_signed(&message, &self.signature))
    }

    /// Worth keeping instead of another one? The newer life has the word, even if its log is shorter.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.life, self.head.sequence) > (other.life, other.head.sequence)
    }

    pub const fn is_bounded(&self) -> bool {
        self.signature.len() <= SIGNATURE
    }
}

fn message(node: NodeId, log: LogId, head: Head, life: Incarnation) -> Option<Vec<u8>> {
    postcard::to_stdvec(&(CONTEXT, node, log, head, life)).ok()
}
