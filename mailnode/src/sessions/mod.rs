//! Client sessions: listeners, TLS, and one module a protocol that joins its state machine to the cluster.

pub mod access;
pub mod imap;
pub mod listener;
pub mod pop3;
pub mod recent;
mod rewrap;
pub mod smtp;
pub mod socket;

use cluster::UserId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// The users with sessions on this node, each with a topic whose news wake those sessions when the manager says that
/// something changed.
#[derive(Default)]
pub struct Watchers {
    users: Mutex<BTreeMap<UserId, Arc<Topic>>>,
}

/// How often a user's sessions were woken. They wake in the order of waiting, unlike those of a `watch`.
#[derive(Default)]
struct Topic {
    count: AtomicU64,
    news: Notify,
}

impl Topic {
    fn wake(&self) {
        self.count.fetch_add(1, Ordering::Release);
        self.news.notify_waiters();
    }
}

/// What one session has heard of its user's topic.
pub struct News {
    topic: Arc<Topic>,
    heard: u64,
}

impl News {
    /// Grows with all news.
    pub fn count(&self) -> u64 {
        self.topic.count.load(Ordering::Acquire)
    }

    pub fn mark_heard(&mut self) {
        self.heard = self.count();
    }

    /// Resolves when there was news since the last time, or since the session began to watch.
    pub async fn changed(&mut self) {
        loop {
            // Made before the look: news that comes after it is not missed.
            let news = self.topic.news.notified();
            let count = self.topic.count.load(Ordering::Acquire);
            if count != self.heard {
                self.heard = count;
                return;
            }
            news.await;
        }
    }
}

impl Watchers {
    /// Hears of every later [`Watchers::wake`] of the user.
    pub fn watch(&self, user: UserId) -> News {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = users.entry(user).or_default().clone();
        let heard = topic.count.load(Ordering::Acquire);
        News { topic, heard }
    }

    pub fn wake(&self, user: UserId) {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = users.get(&user) {
            topic.wake();
        }
    }

    /// After a change of view the manager may be another, which does not know of our sessions yet.
    pub fn wake_all(&self) {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.values().for_each(|topic| topic.wake());
    }

    /// Forgets users whose last session ended.
    pub fn sweep(&self) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, topic| Arc::strong_count(topic) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_is_woken_and_forgotten_after_its_end() {
        let watchers = Watchers::default();
        let mut session = watchers.watch(UserId(1));
        let patience = std::time::Duration::from_millis(20);
        watchers.wake(UserId(2));
        assert!(tokio::time::timeout(patience, session.changed()).await.is_err());
        watchers.wake(UserId(1));
        session.changed().await;
        assert!(tokio::time::timeout(patience, session.changed()).await.is_err(), "once");
        drop(session);
        watchers.sweep();
        assert!(watchers.users.lock().unwrap().is_empty());
    }
}
