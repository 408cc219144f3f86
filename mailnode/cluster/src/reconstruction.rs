//! Soft-state reconstruction (DESIGN 5; Porcupine, PAPERS A4): a manager's mail maps, rebuilt from what the members hold.
//!
//! After a change of view a manager drops the buckets that another node manages now, and asks each member once, in
//! each of its lives, for the users of the buckets that it gained. Until all have answered a map may lack nodes, so
//! whoever needs one user's map before that asks for its bucket first.
//!
//! - One question carries many buckets ([`BATCH`]), and an answer costs its share of users: at constant users a node
//!   the cost of a change does not grow with the cluster (`tests/reconstruction.rs`).
//! - An answer about buckets that were not asked for is not believed.
//! - Maps only grow between two rebuilds: a node too many in a map costs a question, one too few hides mail.

use crate::ids::{Bucket, Incarnation, NodeId, UserId};
use crate::mail_map::MailMap;
use crate::user_map::UserMap;
use std::collections::{BTreeMap, BTreeSet};

/// Buckets asked for in one question.
pub const BATCH: usize = 256;

/// Which users of these buckets do you hold fragments of?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub member: NodeId,
    pub incarnation: Incarnation,
    pub buckets: Vec<Bucket>,
}

#[derive(Clone, Debug, Default)]
struct BucketMaps {
    /// Members whose answer is in `maps`.
    asked: BTreeMap<NodeId, Incarnation>,
    maps: BTreeMap<UserId, MailMap>,
}

/// The mail maps of the users of some buckets.
#[derive(Clone, Debug, Default)]
pub struct MailMaps {
    buckets: BTreeMap<Bucket, BucketMaps>,
}

impl MailMaps {
    /// These nodes hold messages of the user.
    pub fn add(&mut self, user: UserId, nodes: &[NodeId]) {
        let bucket = self.buckets.entry(Bucket::of_user(user)).or_default();
        let map = bucket.maps.entry(user).or_default();
        for &node in nodes {
            map.add(node);
        }
    }

    /// Complete only if [`MailMaps::questions`] has none for the user's bucket.
    pub fn mail_map(&self, user: UserId) -> MailMap {
        let bucket = self.buckets.get(&Bucket::of_user(user));
        bucket.and_then(|bucket| bucket.maps.get(&user)).cloned().unwrap_or_default()
    }

    /// Members whose answer about the bucket is in.
    pub fn heard(&self, bucket: Bucket) -> BTreeSet<NodeId> {
        self.buckets.get(&bucket).map(|maps| maps.asked.keys().copied().collect()).unwrap_or_default()
    }

    /// Users whose mail maps are known, complete or not.
    pub fn users(&self) -> usize {
        self.buckets.values().map(|bucket| bucket.maps.len()).sum()
    }

    /// Drops what another node manages by this map.
    pub fn keep(&mut self, user_map: &UserMap, me: NodeId) {
        self.buckets.retain(|&bucket, _| user_map.manager(bucket) == Some(me));
    }

    /// Something may have been missed: everybody is to be asked again.
    pub fn doubt(&mut self) {
        self.buckets.values_mut().for_each(|bucket| bucket.asked.clear());
    }

    /// The same for one bucket.
    pub fn doubt_bucket(&mut self, bucket: Bucket) {
        if let Some(maps) = self.buckets.get_mut(&bucket) {
            maps.asked.clear();
        }
    }

    /// What is to be asked of these members, so that the maps of these buckets are complete.
    pub fn questions(&self, wanted: &[Bucket], members: &[(NodeId, Incarnation)]) -> Vec<Question> {
        let mut questions = Vec::new();
        for &(member, incarnation) in members {
            let open = wanted.iter().copied().filter(|bucket| {
                let known = self.buckets.get(bucket).and_then(|maps| maps.asked.get(&member));
                known != Some(&incarnation)
            });
            let open: Vec<Bucket> = open.collect();
            let batches = open.chunks(BATCH);
            questions.extend(batches.map(|batch| Question { member, incarnation, buckets: batch.to_vec() }));
        }
        questions
    }

    /// A member's answer: all users of these buckets of whom it holds fragments.
    pub fn answered(&mut self, question: &Question, users: impl IntoIterator<Item = UserId>) {
        let mut asked = question.buckets.clone();
        asked.sort_unstable();
        for user in users {
            let bucket = Bucket::of_user(user);
            if asked.binary_search(&bucket).is_ok() {
                self.buckets.entry(bucket).or_default().maps.entry(user).or_default().add(question.member);
            }
        }
        for bucket in asked {
            let maps = self.buckets.entry(bucket).or_default();
            maps.asked.insert(question.member, question.incarnation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERS: [(NodeId, Incarnation); 2] = [(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(1))];

    fn all() -> Vec<Bucket> {
        Bucket::all().collect()
    }

    #[test]
    fn members_are_asked_once_in_each_of_their_lives() {
        let mut maps = MailMaps::default();
        let questions = maps.questions(&all(), &MEMBERS);
        assert_eq!(questions.len(), 2 * Bucket::COUNT / BATCH);
        for question in &questions {
            maps.answered(question, (0..100).map(UserId));
        }
        assert!(maps.questions(&all(), &MEMBERS).is_empty());
        assert_eq!((maps.users(), maps.mail_map(UserId(7)).len()), (100, 2));
        let reborn = [(NodeId(1), Incarnation(2)), MEMBERS[1]];
        assert!(maps.questions(&all(), &reborn).iter().all(|question| question.member == NodeId(1)));
        assert_eq!(maps.heard(Bucket(0)), MEMBERS.map(|(id, _)| id).into());
        maps.doubt_bucket(Bucket(0));
        assert_eq!(maps.questions(&all(), &MEMBERS).len(), 2);
        maps.doubt();
        assert_eq!(maps.questions(&all(), &MEMBERS).len(), questions.len());
        assert_eq!(maps.users(), 100, "what is known is not forgotten meanwhile");
    }

    #[test]
    fn users_of_buckets_that_were_not_asked_for_are_not_believed() {
        let mut maps = MailMaps::default();
        let bucket = Bucket::of_user(UserId(7));
        let question = Question { member: NodeId(1), incarnation: Incarnation(1), buckets: vec![bucket] };
        maps.answered(&question, (0..100).map(UserId));
        assert!(maps.mail_map(UserId(7)).contains(NodeId(1)));
        assert!(maps.users() < 10, "{}", maps.users());
    }

    #[test]
    fn what_replicas_tell_between_two_rebuilds_is_added() {
        let mut maps = MailMaps::default();
        maps.add(UserId(7), &[NodeId(3), NodeId(4)]);
        assert_eq!(maps.mail_map(UserId(7)).len(), 2);
        assert!(maps.mail_map(UserId(8)).is_empty());
    }
}
