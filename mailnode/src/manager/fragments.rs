//! Mail maps of the users that this node manages, rebuilt by asking the members: the shell around
//! [`cluster::reconstruction`].

use super::lock;
use crate::node::Node;
use crate::wire::{Request, Response};
use cluster::reconstruction::{BATCH, MailMaps};
use cluster::{Bucket, Entry, MailMap, NodeId, UserId};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct BucketKnowledge(Mutex<MailMaps>);

impl BucketKnowledge {
    /// A replica stored an entry.
    pub fn add(&self, entry: &Entry) {
        lock(&self.0).add(entry.user, &entry.replicas.value);
    }

    /// The user's mail map, complete as far as the members that can be reached are concerned.
    pub async fn mail_map(&self, node: &Arc<Node>, user: UserId) -> MailMap {
        self.ask(node, &[Bucket::of_user(user)]).await;
        lock(&self.0).mail_map(user)
    }

    /// And the members that said whether they hold a fragment.
    pub async fn mail_map_and_answered(&self, node: &Arc<Node>, user: UserId) -> (MailMap, BTreeSet<NodeId>) {
        let bucket = Bucket::of_user(user);
        self.ask(node, &[bucket]).await;
        let maps = lock(&self.0);
        (maps.mail_map(user), maps.heard(bucket))
    }

    /// What members said of a bucket may be old: deliveries are told to its manager, and that is somebody else.
    pub fn doubt(&self, bucket: Bucket) {
        lock(&self.0).doubt_bucket(bucket);
    }

    /// After a change of view: drops buckets that are not ours, asks for those we gained.
    pub async fn rebuild(&self, node: &Arc<Node>, again: bool) {
        let state = node.topology.now();
        {
            let mut maps = lock(&self.0);
            maps.keep(&state.user_map, node.id);
            if again {
                maps.doubt();
            }
        }
        let ours: Vec<Bucket> = state.user_map.buckets_of(node.id).collect();
        // A batch at a time: not everything is asked of everybody at once.
        for batch in ours.chunks(BATCH) {
            self.ask(node, batch).await;
        }
    }

    /// Asks every readable member that was not asked yet for the users of these buckets.
    async fn ask(&self, node: &Arc<Node>, wanted: &[Bucket]) {
        let questions = lock(&self.0).questions(wanted, &node.topology.readable());
        join_all(questions.into_iter().map(|question| async move {
            let request = Request::Users { buckets: question.buckets.clone() };
            let Ok(Response::Users(users)) = node.call(question.member, request, DEADLINE).await else {
                return;
            };
            lock(&self.0).answered(&question, users.into_iter().map(|(user, _)| user));
        }))
        .await;
    }
}
