//! The last large body that a session read. Clients fetch large messages in pieces (`BODY[2]<65536.65536>`, RFC 3501 6.4.5): each would
//! cost as much as the whole message, which has to be fetched, opened and put together.
//!
//! It is kept for [`KEPT`] after it was last used, and all sessions of a node together keep [`BUDGET`]; without room it is not kept.

use crate::locking::lock;
use bytes::Bytes;
use cluster::BlobId;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Smaller ones are read anew.
const LARGE: usize = 256 * 1024;
const KEPT: Duration = Duration::from_secs(10);
const KIB: usize = 1024;
/// Bytes that the sessions of a node keep, at most.
const BUDGET: usize = 64 * KIB * KIB;

/// Room for the bodies that all sessions of a node keep.
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET / KIB)))
    }
}

#[derive(Clone, Default)]
pub struct Recent(Arc<Mutex<Option<Kept>>>);

struct Kept {
    id: BlobId,
    body: Bytes,
    used: Instant,
    _room: OwnedSemaphorePermit,
}

impl Recent {
    pub fn get(&self, id: BlobId) -> Option<Bytes> {
        let mut kept = lock(&self.0);
        let kept = kept.as_mut().filter(|kept| kept.id == id)?;
        kept.used = Instant::now();
        Some(kept.body.clone())
    }

    /// Keeps this body instead of the last one, if it is large and there is room.
    pub fn put(&self, room: &Room, id: BlobId, body: &Bytes) {
        if body.len() < LARGE {
            return;
        }
        let mut place = lock(&self.0);
        let idle = place.take().is_none();
        let Ok(size) = u32::try_from(body.len().div_ceil(KIB)) else { return };
        let Ok(room) = room.0.clone().try_acquire_many_owned(size) else { return };
        *place = Some(Kept { id, body: body.clone(), used: Instant::now(), _room: room });
        if idle {
            tokio::spawn(expire(Arc::downgrade(&self.0)));
        }
    }
}

/// Until nothing is kept. A session that ends takes its body along.
async fn expire(place: Weak<Mutex<Option<Kept>>>) {
    loop {
        let Some(until) =
            place.upgrade().and_then(|place| lock(&place).as_ref().map(|kept| kept.used + KEPT))
        else {
            return;
        };
        if until <= Instant::now() {
            if let Some(place) = place.upgrade() {
                lock(&place).take();
            }
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = KIB * KIB;

    fn body(bytes: usize) -> Bytes {
        vec![7; bytes].into()
    }

    fn id(number: u8) -> BlobId {
        BlobId([number; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_large_body_is_kept_while_it_is_used() {
        let (room, recent) = (Room::default(), Recent::default());
        recent.put(&room, id(1), &body(LARGE - 1));
        assert!(recent.get(id(1)).is_none(), "a small one");
        recent.put(&room, id(2), &body(MIB));
        recent.put(&room, id(3), &body(MIB));
        assert!(recent.get(id(2)).is_none() && recent.get(id(3)).is_some());
        for _ in 0..5 {
            tokio::time::sleep(KEPT / 2).await;
            assert!(recent.get(id(3)).is_some());
        }
        tokio::time::sleep(KEPT * 2).await;
        assert!(recent.get(id(3)).is_none());
        assert_eq!(room.0.available_permits(), BUDGET / KIB);
    }

    #[tokio::test(start_paused = true)]
    async fn all_sessions_together_keep_no_more_than_the_budget() {
        let room = Room::default();
        let sessions: Vec<Recent> = (0..10).map(|_| Recent::default()).collect();
        for session in &sessions {
            session.put(&room, id(1), &body(BUDGET / 4));
        }
        assert_eq!(sessions.iter().filter(|session| session.get(id(1)).is_some()).count(), 4);
        sessions[0].put(&room, id(1), &body(BUDGET + 1));
        assert!(sessions[0].get(id(1)).is_none(), "larger than all room");
        drop(sessions);
        assert_eq!(room.0.available_permits(), BUDGET / KIB, "sessions that end give it back");
    }
}
