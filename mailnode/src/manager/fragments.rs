//! Mail maps of the users of a bucket, rebuilt by asking the members which users of the bucket they hold
//! fragments for (soft-state reconstruction, DESIGN 5). A member is asked once in each of its lives; the answer
//! for a bucket costs its share of users, whatever the size of the cluster.

use super::lock;
use crate::node::Node;
use crate::wire::{Request, Response};
use cluster::{Bucket, Entry, Incarnation, MailMap, NodeId, UserId};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Buckets asked for in one call.
const BATCH: usize = 256;
const DEADLINE: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct BucketKnowledge {
    buckets: Mutex<BTreeMap<Bucket, BucketMaps>>,
}

#[derive(Default)]
struct BucketMaps {
    /// Members whose answer is in `maps`.
    asked: BTreeMap<NodeId, Incarnation>,
    maps: BTreeMap<UserId, MailMap>,
}

impl BucketKnowledge {
    /// A replica stored an entry.
    pub fn add(&self, entry: &Entry) {
        let mut buckets = lock(&self.buckets);
        let bucket = buckets.entry(Bucket::of_user(entry.user)).or_default();
        let map = bucket.maps.entry(entry.user).or_default();
        for &node in &entry.replicas.value {
            map.add(node);
        }
    }

    /// The user's mail map, complete as far as the members that can be reached are concerned.
    pub async fn mail_map(&self, node: &Arc<Node>, user: UserId) -> MailMap {
        self.mail_map_and_answered(node, user).await.0
    }

    /// And the members that said whether they hold a fragment.
    pub async fn mail_map_and_answered(&self, node: &Arc<Node>, user: UserId) -> (MailMap, BTreeSet<NodeId>) {
        let bucket = Bucket::of_user(user);
        self.ask(node, &[bucket]).await;
        let buckets = lock(&self.buckets);
        let Some(known) = buckets.get(&bucket) else { return Default::default() };
        (known.maps.get(&user).cloned().unwrap_or_default(), known.asked.keys().copied().collect())
    }

    /// What members said of a bucket may be old: deliveries are told to its manager, and that is somebody else.
    pub fn doubt(&self, bucket: Bucket) {
        if let Some(maps) = lock(&self.buckets).get_mut(&bucket) {
            maps.asked.clear();
        }
    }

    /// After a change of view: drops buckets that are not ours, asks for those we gained.
    pub async fn rebuild(&self, node: &Arc<Node>, again: bool) {
        let state = node.topology.now();
        let ours: Vec<Bucket> = state.user_map.buckets_of(node.id).collect();
        {
            let mut buckets = lock(&self.buckets);
            buckets.retain(|bucket, _| state.user_map.manager(*bucket) == Some(node.id));
            if again {
                buckets.values_mut().for_each(|bucket| bucket.asked.clear());
            }
        }
        for batch in ours.chunks(BATCH) {
            self.ask(node, batch).await;
        }
    }

    /// Asks every readable member that was not asked yet for the users of these buckets.
    async fn ask(&self, node: &Arc<Node>, wanted: &[Bucket]) {
        let calls = node.topology.readable().into_iter().filter_map(|(member, incarnation)| {
            let buckets: Vec<Bucket> = {
                let known = lock(&self.buckets);
                let asked = |bucket: &Bucket| {
                    known.get(bucket).is_some_and(|maps| maps.asked.get(&member) == Some(&incarnation))
                };
                wanted.iter().copied().filter(|bucket| !asked(bucket)).collect()
            };
            (!buckets.is_empty()).then_some((member, incarnation, buckets))
        });
        let calls: Vec<_> = calls.collect();
        join_all(calls.into_iter().map(|(member, incarnation, buckets)| async move {
            let request = Request::Users { buckets: buckets.clone() };
            let Ok(Response::Users(users)) = node.call(member, request, DEADLINE).await else { return };
            let mut known = lock(&self.buckets);
            for (user, bucket) in users {
                known.entry(bucket).or_default().maps.entry(user).or_default().add(member);
            }
            for bucket in buckets {
                known.entry(bucket).or_default().asked.insert(member, incarnation);
            }
        }))
        .await;
    }
}
