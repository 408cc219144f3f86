//! Notices a peer that is gone without a word: after `ping_interval` of silence it is asked, after `silence_limit`
//! the connection ends.

use super::outbox::Outbox;
use crate::Options;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// When something came last.
#[derive(Debug)]
pub(super) struct Heard {
    origin: Instant,
    last_millis: AtomicU64,
}

impl Heard {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), last_millis: AtomicU64::new(0) }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn now(&self) {
        self.last_millis.store(self.millis(), Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        Duration::from_millis(self.millis().saturating_sub(self.last_millis.load(Ordering::Relaxed)))
    }
}

/// Returns when the peer has been silent for too long.
pub(super) async fn watch(heard: &Heard, outbox: &Outbox, options: &Options) {
    let step = (options.ping_interval / 2).max(Duration::from_millis(1));
    loop {
        tokio::time::sleep(step).await;
        let silence = heard.silence();
        if silence >= options.silence_limit {
            return;
        }
        if silence >= options.ping_interval {
            outbox.ping();
        }
    }
}
