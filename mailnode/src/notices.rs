//! What a replica tells the managers about entries that are new on its disk (DESIGN 2, step 7).
//!
//! The replica tells, not the node that took the message from the client: whoever has the entry on disk can
//! repeat it, so a manager hears of every entry even if the node that delivered it died right after its 250. One
//! call at a time is under way to each manager and carries all that gathered meanwhile, so that many deliveries
//! cost few calls and a single one waits for nobody. What cannot be told is kept and told again; when too much is
//! kept, or for too long, it is dropped, and the manager is told to read this node's fragments again
//! ([`Request::NoticesLost`]).

use crate::node::{CallError, Node};
use crate::wire::{Failure, PAGE, Request};
use cluster::{Entry, NodeId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(50);
/// Entries kept for one manager, at most (some 300 bytes each).
const KEPT: usize = 50_000;
/// So long, at most, and no longer than half the life of a tombstone: that of a message may be forgotten while we still tell of the
/// message.
const KEPT_FOR: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Notices {
    managers: Mutex<BTreeMap<NodeId, Waiting>>,
}

#[derive(Default)]
struct Waiting {
    entries: Vec<Entry>,
    lost: bool,
    /// Since when it takes nothing.
    failing_since: Option<Instant>,
}

impl Waiting {
    /// What could not be told is the first to be told again.
    fn put_back(&mut self, page: Vec<Entry>, now: Instant, kept_for: Duration) {
        let since = *self.failing_since.get_or_insert(now);
        if now.duration_since(since) < kept_for {
            self.entries.splice(0..0, page);
        } else {
            self.entries.clear();
            self.lost = true;
        }
    }
}

impl Notices {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Waiting>> {
        self.managers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the managers of these entries, except those that `except` manages.
    pub fn send(&self, node: &Arc<Node>, entries: impl IntoIterator<Item = Entry>, except: Option<NodeId>) {
        let topology = node.topology.now();
        let mut managers = self.lock();
        for entry in entries {
            let Some(manager) = topology.user_map.manager_of(entry.user).filter(|id| Some(*id) != except)
            else {
                continue;
            };
            let waiting = managers.entry(manager).or_insert_with(|| {
                let node = node.clone();
                tokio::spawn(async move { node.notices.deliver(&node, manager).await });
                Waiting::default()
            });
            if waiting.entries.len() < KEPT {
                waiting.entries.push(entry);
            } else {
                waiting.entries.clear();
                waiting.lost = true;
            }
        }
    }

    /// Runs while there is something for this manager.
    async fn deliver(&self, node: &Arc<Node>, manager: NodeId) {
        loop {
            let (page, lost) = {
                let mut managers = self.lock();
                let Some(waiting) = managers.get_mut(&manager) else { return };
                if waiting.entries.is_empty() && !waiting.lost {
                    managers.remove(&manager);
                    return;
                }
                let rest = waiting.entries.split_off(waiting.entries.len().min(PAGE));
                (std::mem::replace(&mut waiting.entries, rest), std::mem::take(&mut waiting.lost))
            };
            if lost
                && node.call(manager, Request::NoticesLost, DEADLINE).await.is_err()
                && let Some(waiting) = self.lock().get_mut(&manager)
            {
                waiting.lost = true;
            }
            let request = Request::Notice { entries: page.clone(), number: false, acting: false };
            match node.call(manager, request, DEADLINE).await {
                Ok(_) => {
                    if let Some(waiting) = self.lock().get_mut(&manager) {
                        waiting.failing_since = None;
                    }
                }
                // It answered and will not: nothing that repeating could mend.
                Err(CallError::Refused(failure)) if !matches!(failure, Failure::NotManager(_)) => {
                    tracing::warn!(%manager, %failure, "notice refused");
                }
                Err(_) => {
                    tokio::time::sleep(RETRY).await;
                    self.route_again(node, manager, page);
                }
            }
        }
    }

    /// The users may have another manager by now, which builds its indexes from the fragments and is told all
    /// the same. If the manager is gone for good this ends, because nobody's manager it is any more.
    fn route_again(&self, node: &Arc<Node>, manager: NodeId, page: Vec<Entry>) {
        let topology = node.topology.now();
        let (same, other): (Vec<Entry>, Vec<Entry>) =
            page.into_iter().partition(|entry| topology.user_map.manager_of(entry.user) == Some(manager));
        self.send(node, other, Some(manager));
        if let Some(waiting) = self.lock().get_mut(&manager) {
            waiting.put_back(same, Instant::now(), KEPT_FOR.min(node.healing.tombstone_lifetime() / 2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::entry;

    #[test]
    fn what_cannot_be_told_for_too_long_is_lost_and_that_is_told() {
        let begun = Instant::now();
        let mut waiting = Waiting::default();
        let told = |count| (0..count).map(entry).collect::<Vec<_>>();
        waiting.put_back(told(2), begun, KEPT_FOR);
        waiting.put_back(told(1), begun + KEPT_FOR / 2, KEPT_FOR);
        assert_eq!((waiting.entries.len(), waiting.lost), (3, false));
        assert_eq!(waiting.entries[0], entry(0), "in their order");
        waiting.put_back(told(1), begun + KEPT_FOR, KEPT_FOR);
        assert_eq!((waiting.entries.len(), waiting.lost), (0, true));
    }
}
