//! Bodies that should be here: what is found missing or damaged is fetched from another replica and stored again,
//! and once in a while everything is read to find it.

use super::{about, blocking, copy, lock};
use crate::node::Node;
use crate::replica::is_readable;
use cluster::BlobId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// From the start to the first look for bodies that the log did not give back.
const FIRST_LOOK: Duration = Duration::from_secs(20);
/// From there to the first round, and between two.
const FIRST_ROUND: Duration = Duration::from_secs(3_600);
const ROUND: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Between two looks whether the store came across damage.
const AFTER_DAMAGE: Duration = Duration::from_secs(20);
/// Bytes a second that are read.
const READ_RATE: u64 = 4 << 20;
const PAGE: usize = 500;
/// A body that nobody had is asked for again when somebody wants to read it, and after this time: who has it may be back.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// From a failure to the next body.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Fetches what was found missing, until the node stops.
pub async fn fetch_missing(node: &Arc<Node>) {
    let (mut nobody_has, mut again) = (BTreeSet::new(), Instant::now());
    loop {
        let next = lock(&node.healing.missing).pop_first();
        let Some(id) = next else {
            let news = node.healing.news_of_missing.notified();
            if nobody_has.is_empty() {
                news.await;
            } else if timeout_at(again, news).await.is_err() {
                lock(&node.healing.missing).append(&mut nobody_has);
            }
            continue;
        };
        match refill(node, id).await {
            Some(true) => {
                tracing::info!(blob = ?id, "a missing body is back");
                node.metrics.healing.repaired_bodies.inc();
            }
            Some(false) => {
                tracing::warn!(blob = ?id, "no other replica gives a missing body now");
                if nobody_has.is_empty() {
                    again = Instant::now() + ASK_AGAIN;
                }
                nobody_has.insert(id);
                tokio::time::sleep(AFTER_FAILURE).await;
            }
            None => {}
        }
    }
}

/// None: nobody needs it here.
async fn refill(node: &Arc<Node>, id: BlobId) -> Option<bool> {
    let referrer = blocking(node, move |node| node.store.referrer(id)).await.ok()??;
    if is_readable(node, id).await.ok()? {
        // It was stored again meanwhile.
        return None;
    }
    Some(copy::fetch_bodies(node, &[], &[referrer]).await.is_ok_and(|fetched| fetched > 0))
}

/// Reads everything, slowly, until the node stops.
pub async fn scrub(node: &Arc<Node>) {
    let mut damage = node.store.metrics().corrupt_records;
    tokio::time::sleep(about(FIRST_LOOK)).await;
    look_around(node).await;
    rest(node, about(FIRST_ROUND), &mut damage).await;
    loop {
        match round(node).await {
            Ok(bodies) => tracing::info!(bodies, "all bodies were read"),
            Err(failure) => tracing::warn!(%failure, "scrubbing ended early"),
        }
        rest(node, about(ROUND), &mut damage).await;
    }
}

/// Waits. If the store comes across damage meanwhile, looks what is missing, twice: compaction counts a body that it cannot read
/// before it drops it.
async fn rest(node: &Arc<Node>, time: Duration, known: &mut u64) {
    let (begun, mut looks) = (Instant::now(), 0);
    while begun.elapsed() < time {
        tokio::time::sleep(about(AFTER_DAMAGE).min(time)).await;
        let found = node.store.metrics().corrupt_records;
        if found != *known {
            (*known, looks) = (found, 2);
        }
        if looks > 0 {
            looks -= 1;
            look_around(node).await;
        }
    }
}

async fn look_around(node: &Arc<Node>) {
    if let Err(failure) = look(node).await {
        tracing::warn!(%failure, "not all entries could be looked at for missing bodies");
    }
}

/// Which entries have no body here?
async fn look(node: &Arc<Node>) -> Result<(), crate::wire::Failure> {
    let mut after = None;
    loop {
        let page = blocking(node, move |node| node.store.copies(after, PAGE)).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some((last.user, last.id));
        for entry in page.iter().filter(|entry| !node.store.has_blob(entry.blob.id).unwrap_or(true)) {
            node.healing.body_missing(entry.blob.id);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn round(node: &Arc<Node>) -> Result<u64, crate::wire::Failure> {
    look(node).await?;
    let (mut after, mut bodies) = (None, 0);
    loop {
        let page = blocking(node, move |node| node.store.blobs(after, PAGE)).await?;
        let Some((last, _)) = page.last() else { return Ok(bodies) };
        after = Some(*last);
        for (id, length) in page {
            // A damaged one is dropped by the store when it is read, and counted.
            if matches!(node.store.blob(id).await, Ok(None)) {
                node.healing.body_missing(id);
                node.parts.copy_damaged(node, id);
            }
            bodies += 1;
            tokio::time::sleep(Duration::from_secs_f64(f64::from(length) / READ_RATE as f64)).await;
        }
    }
}
