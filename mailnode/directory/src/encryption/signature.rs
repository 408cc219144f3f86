//! The cluster's CA vouches for a user's public key, so that nobody who can only write the user database, and no node that only
//! says so, can have mail sealed to another key. The signature is made where the CA's key is, which is on no node.

use super::PublicKey;
use cluster::UserId;

/// So that a signature of this is never one of anything else.
const CONTEXT: &[u8] = b"prickle 2026-11 key of a user";
/// Longer signatures are none of ours, in bytes.
pub const LONGEST: usize = 1_024;

/// What is signed: this key is this user's.
pub fn message(user: UserId, public: PublicKey) -> Vec<u8> {
    [CONTEXT, &user.to_bytes(), &public.0.0].concat()
}
