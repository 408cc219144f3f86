//! Queue users: whose "mail" the outbound queue is (docs/decisions/outbound.md). A message to other servers is an
//! entry of one of them, so that all that is done for entries - copies before 250, update log, tombstones, healing,
//! mail maps, managers - is done for it.
//!
//! There is one for each bucket, so that any node's share of buckets is its share of the queue. None has a profile
//! or an address, so nobody can log in as one (invariant 8). Their ids are a fixed tag and the smallest number that
//! makes the whole hash to the bucket; every node computes the same.

use crate::ids::{Bucket, UserId};
use std::sync::OnceLock;

/// The upper 96 bits. Accounts' ids are random: one in 2^96 would look like it.
const TAG: u128 = u128::from_be_bytes(*b"prickle-queu\0\0\0\0");
const NUMBER: u128 = 0xffff_ffff;

/// The queue user of a bucket. The first call makes all of them, which takes some 40,000 hashes.
pub fn queue_user(bucket: Bucket) -> UserId {
    let all = ALL.get_or_init(all);
    all.get(usize::from(bucket.0)).copied().unwrap_or(UserId(TAG))
}

/// Whether this is a queue user, and no account's id.
pub fn is_queue_user(user: UserId) -> bool {
    user.0 & !NUMBER == TAG
}

static ALL: OnceLock<Vec<UserId>> = OnceLock::new();

fn all() -> Vec<UserId> {
    let mut users = vec![None; Bucket::COUNT];
    let mut missing = users.len();
    for user in (0..=NUMBER).map(|number| UserId(TAG | number)) {
        if let Some(place @ None) = users.get_mut(usize::from(Bucket::of_user(user).0)) {
            *place = Some(user);
            missing -= 1;
        }
        if missing == 0 {
            break;
        }
    }
    users.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_has_a_queue_user_of_its_own() {
        for bucket in Bucket::all() {
            let user = queue_user(bucket);
            assert_eq!(Bucket::of_user(user), bucket);
            assert!(is_queue_user(user));
        }
    }

    #[test]
    fn an_account_is_no_queue_user() {
        assert!(!is_queue_user(UserId(7)));
        assert!(!is_queue_user(UserId(TAG ^ (1 << 32))));
    }

    #[test]
    fn the_ids_are_the_same_for_ever() {
        // They are on disks: another way to make them would lose the queue.
        assert_eq!(queue_user(Bucket(0)).to_string(), "707269636b6c652d71756575000009da");
        assert_eq!(queue_user(Bucket(4095)).to_string(), "707269636b6c652d71756575000008ca");
    }
}
