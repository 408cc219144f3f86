//! Opens a connection whenever something is due that may have one, or begins to bring messages to lists, and gives up what is too old.

use super::conclude::{conclude, finish, warn};
use super::holder;
use super::resolver::Resolver;
use super::worker::{Worker, work_on_lists};
use crate::environment;
use crate::node::Node;
use outbound::{Destination, Outcome};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often it is looked for messages that are late or too old; of an expiry that is shorter, a tenth.
const EXPIRY: Duration = Duration::from_secs(10);
/// Of these, so many at a time.
const AT_ONCE: usize = 100;
/// What is being sent when the node stops may take so long.
const FAREWELL: Duration = Duration::from_secs(4);

/// Holds and sends this node's share of the queue until the node stops.
pub async fn run(node: Arc<Node>, stopping: watch::Receiver<bool>) {
    let resolver = match Resolver::new(&node.outbound.settings) {
        Ok(resolver) => Some(Arc::new(resolver)),
        // Lists have members here.
        Err(_) if !node.outbound.settings.enabled => None,
        Err(problem) => {
            tracing::error!(%problem, "mail to other servers waits until this node is started again");
            return;
        }
    };
    let mut stopped = stopping.clone();
    let mut workers = JoinSet::new();
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stopping| *stopping) => {}
        () = holder::read_loop(node.clone()) => {}
        () = holder::look_loop(node.clone()) => {}
        () = expiry_loop(node.clone()) => {}
        () = dispatch_loop(node.clone(), resolver.as_ref(), &stopping, &mut workers) => {}
    }
    // A message whose acknowledgement is on its way would be sent again by the next holder.
    let farewell = async { while workers.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::warn!("some messages to other servers were under way; they may be sent again");
    }
}

async fn dispatch_loop(
    node: Arc<Node>,
    resolver: Option<&Arc<Resolver>>,
    stopping: &watch::Receiver<bool>,
    workers: &mut JoinSet<()>,
) {
    let outbound = &node.outbound;
    loop {
        while let Some(destination) = connection(&node) {
            if destination == Destination::lists() {
                workers.spawn(work_on_lists(node.clone(), stopping.clone()));
                continue;
            }
            let Some(resolver) = resolver else {
                outbound.lock().queue.release(&destination);
                break;
            };
            let worker = Worker {
                node: node.clone(),
                destination,
                resolver: resolver.clone(),
                stopping: stopping.clone(),
                open: None,
            };
            workers.spawn(worker.run());
        }
        let next = outbound.lock().queue.next_event();
        let wait = next.map_or(EXPIRY, |next| next.saturating_sub(outbound.now()));
        tokio::select! {
            biased;
            () = outbound.news.notified() => {}
            () = tokio::time::sleep(wait) => {}
            Some(_) = workers.join_next() => {}
        }
    }
}

fn connection(node: &Node) -> Option<Destination> {
    node.outbound.lock().queue.connection(node.outbound.now())
}

async fn expiry_loop(node: Arc<Node>) {
    let outbound = &node.outbound;
    let every = EXPIRY.min(outbound.settings.schedule.expiry / 10).max(Duration::from_millis(200));
    loop {
        tokio::time::sleep(every).await;
        finish(&node).await;
        let late = outbound.lock().queue.late(outbound.now(), AT_ONCE);
        for late in late {
            warn(&node, late).await;
        }
        let expired = outbound.lock().queue.expired(outbound.now(), AT_ONCE);
        for (work, destination, problem) in expired {
            let held = outbound.lock().held.get(&work.id).cloned();
            let outcomes = vec![Outcome::Failed(problem); work.recipients.len()];
            match held {
                Some(held) => conclude(&node, &held, &work, &destination, outcomes, false).await,
                None => {
                    let (now, random) = (outbound.now(), environment::random());
                    outbound.lock().queue.settle(&work, &destination, None, now, random);
                }
            }
        }
    }
}
