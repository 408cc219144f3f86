//! Client sessions: listeners, TLS, and one module a protocol that joins its state machine to the cluster.

pub mod access;
pub mod imap;
pub mod listener;
pub mod pop3;
mod rewrap;
pub mod smtp;
pub mod socket;

use cluster::UserId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The users with sessions on this node, each with a channel that wakes those sessions when the manager says
/// that something changed.
#[derive(Default)]
pub struct Watchers {
    users: Mutex<BTreeMap<UserId, Arc<watch::Sender<u64>>>>,
}

impl Watchers {
    /// A receiver that sees every later [`Watchers::wake`] of the user.
    pub fn watch(&self, user: UserId) -> watch::Receiver<u64> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.entry(user).or_insert_with(|| Arc::new(watch::Sender::new(0))).subscribe()
    }

    pub fn wake(&self, user: UserId) {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = users.get(&user) {
            sender.send_modify(|count| *count += 1);
        }
    }

    /// After a change of view the manager may be another, which does not know of our sessions yet.
    pub fn wake_all(&self) {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in users.values() {
            sender.send_modify(|count| *count += 1);
        }
    }

    /// Forgets users whose last session ended.
    pub fn sweep(&self) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, sender| sender.receiver_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_woken_and_forgotten_after_its_end() {
        let watchers = Watchers::default();
        let mut session = watchers.watch(UserId(1));
        watchers.wake(UserId(2));
        assert!(!session.has_changed().unwrap());
        watchers.wake(UserId(1));
        assert!(session.has_changed().unwrap());
        session.mark_unchanged();
        drop(session);
        watchers.sweep();
        assert!(watchers.users.lock().unwrap().is_empty());
    }
}
