//! The cluster's CA vouches for an account's mode and public key, so that nobody who can only write the user database, and no node that only
//! says so, can have mail sealed to another key or to the cluster. The signature is made where the CA's key is, which is on no node.

use super::PublicKey;
use cluster::UserId;
use serde::{Deserialize, Serialize};

/// So that a signature of this is never one of anything else.
const CONTEXT: &[u8] = b"prickle 2026-11 account";
/// Longer signatures are none of ours, in bytes.
pub const LONGEST: usize = 1_024;

/// What is signed: this account's mail is sealed to this key, or, without one, to the cluster.
pub fn message(user: UserId, sealing_key: Option<PublicKey>) -> Vec<u8> {
    let key = sealing_key.map(|key| key.0.0);
    [CONTEXT, &user.to_bytes(), &[u8::from(key.is_some())], key.as_ref().map_or(&[][..], |key| key)].concat()
}

/// A signature, and what of the account it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signed {
    pub sealing_key: Option<PublicKey>,
    pub signature: Vec<u8>,
}
