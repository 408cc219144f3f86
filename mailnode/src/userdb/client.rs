//! Finds the primary of a record and asks it, patiently through changes of view.

use crate::node::{CallError, Node};
use crate::wire::{Request, Response};
use bytes::Bytes;
use cluster::{Bucket, NodeId, record_places, record_replicas};
use directory::embedded::{EmbeddedRequest, EmbeddedResponse};
use directory::{DatabaseError, Key, Kind, Read, Records, Token};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// How long a request is repeated while the primary is away or not ready.
const PATIENCE: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(50);
const READ: Duration = Duration::from_secs(1);
/// A write waits for the slowest replica; see the machine's own deadline.
const WRITE: Duration = Duration::from_secs(3);
/// Other nodes asked for a record whose primary cannot say.
const OTHERS: usize = 4;

pub struct Client {
    node: Arc<OnceLock<Weak<Node>>>,
}

fn unavailable(text: impl Into<String>) -> DatabaseError {
    DatabaseError::Unavailable(text.into())
}

impl Client {
    pub const fn new(node: Arc<OnceLock<Weak<Node>>>) -> Self {
        Self { node }
    }

    fn node(&self) -> Result<Arc<Node>, DatabaseError> {
        self.node.get().and_then(Weak::upgrade).ok_or_else(|| unavailable("the node is not running"))
    }

    /// One attempt to read; the error says why it failed.
    async fn try_read(node: &Arc<Node>, key: &Key, stale: bool) -> Result<Read, String> {
        let state = node.topology.now();
        let Some(primary) = state.user_map.manager(key.bucket()) else {
            return Err("this node knows no other yet".into());
        };
        let request = EmbeddedRequest::Read { key: key.clone(), stale };
        let mut why = format!("node {primary} is avoided");
        if !node.topology.is_avoided(primary) || !stale {
            match ask(node, primary, request.clone(), READ).await {
                Ok(EmbeddedResponse::Record { version, value }) => return Ok(Read { version, value }),
                Ok(other) => why = reason(other),
                Err(error) => why = error.to_string(),
            }
        }
        if !stale {
            return Err(why);
        }
        // The first ones hold the record; a few more may have it from an earlier view.
        let places = record_places(&state.view);
        let holders = record_replicas(&places, key.bucket(), places.len());
        let others = holders.into_iter().filter(|&id| id != primary && !node.topology.is_avoided(id));
        for other in others.take(OTHERS) {
            // Only what is there is believed: others cannot know that there is nothing.
            if let Ok(EmbeddedResponse::Record { version, value: Some(value) }) =
                ask(node, other, request.clone(), READ).await
            {
                return Ok(Read { version, value: Some(value) });
            }
        }
        Err(why)
    }

    async fn try_list(
        node: &Arc<Node>,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Read)>, String> {
        let state = node.topology.now();
        let primaries: BTreeSet<NodeId> =
            Bucket::all().filter_map(|bucket| state.user_map.manager(bucket)).collect();
        if primaries.is_empty() {
            return Err("this node knows no other yet".into());
        }
        let request = EmbeddedRequest::List {
            kind,
            after: after.map(Bytes::copy_from_slice),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let answers =
            join_all(primaries.into_iter().map(|primary| ask(node, primary, request.clone(), WRITE))).await;
        let mut merged = BTreeMap::new();
        for answer in answers {
            match answer {
                Ok(EmbeddedResponse::Listed(records)) => {
                    for (key, version, value) in records {
                        let id = Bytes::copy_from_slice(key.id());
                        merged.insert(id, (key, Read { version, value: Some(value) }));
                        if merged.len() > limit {
                            merged.pop_last();
                        }
                    }
                }
                Ok(other) => return Err(reason(other)),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(merged.into_values().collect())
    }
}

impl Records for Client {
    async fn read(&self, key: &Key, stale: bool) -> Result<Read, DatabaseError> {
        let node = self.node()?;
        patiently(|| Client::try_read(&node, key, stale)).await
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: u64,
        token: Token,
        value: Option<Bytes>,
    ) -> Result<u64, DatabaseError> {
        let node = self.node()?;
        let begun = Instant::now();
        loop {
            let Some(primary) = node.topology.now().user_map.manager(key.bucket()) else {
                return Err(unavailable("this node knows no other yet"));
            };
            let millis = node.clock.millis();
            let (key, value) = (key.clone(), value.clone());
            // The same token each time: an attempt that succeeded unheard is known again.
            let request = EmbeddedRequest::CompareAndSet { key, expected, token, millis, value };
            let why = match ask(&node, primary, request, WRITE).await {
                Ok(EmbeddedResponse::Committed { version }) => return Ok(version),
                Ok(EmbeddedResponse::Conflict { .. }) => return Err(DatabaseError::Conflict),
                Ok(EmbeddedResponse::Invalid) => return Err(unavailable(reason(EmbeddedResponse::Invalid))),
                Ok(other) => reason(other),
                Err(error) => error.to_string(),
            };
            if begun.elapsed() > PATIENCE {
                return Err(unavailable(why));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn list(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Read)>, DatabaseError> {
        let node = self.node()?;
        patiently(|| Client::try_list(&node, kind, after, limit)).await
    }
}

async fn ask(
    node: &Arc<Node>,
    to: NodeId,
    request: EmbeddedRequest,
    deadline: Duration,
) -> Result<EmbeddedResponse, CallError> {
    match node.call(to, Request::Directory(request), deadline).await? {
        Response::Directory(response) => Ok(response),
        _ => Err(CallError::Away(to)),
    }
}

fn reason(response: EmbeddedResponse) -> String {
    match response {
        EmbeddedResponse::Unavailable(text) => text,
        EmbeddedResponse::NotPrimary(_) => "the cluster is changing".into(),
        EmbeddedResponse::Unknown => "the record cannot be read for now".into(),
        EmbeddedResponse::Invalid => "the record is too long, or its name is wrong".into(),
        _ => "unexpected answer".into(),
    }
}

/// Tries again while the cluster is changing; the last error says why it did not help.
async fn patiently<T, F>(attempt: impl Fn() -> F) -> Result<T, DatabaseError>
where
    F: Future<Output = Result<T, String>>,
{
    let begun = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(why) if begun.elapsed() > PATIENCE => return Err(unavailable(why)),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
