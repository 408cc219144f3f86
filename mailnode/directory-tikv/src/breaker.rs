//! A circuit breaker: while the database does not answer, callers hear so at once instead of waiting, and the
//! database is not flooded when it comes back.
//!
//! Closed: everybody asks. After [`FAILURES`] failures in a row it opens: nobody asks for a pause. After the
//! pause one caller asks for all (half-open): if there is an answer it closes, else it opens for twice as long.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// In a row, over all callers.
const FAILURES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// None: closed.
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    until: Instant,
    pause: Duration,
    /// Somebody is asking for all.
    probing: bool,
}

/// Permission to ask. Dropped without a word it counts as neither.
#[derive(Debug)]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

impl Breaker {
    /// None: not now.
    pub fn permit(&self) -> Option<Permit<'_>> {
        let mut state = self.lock();
        let Some(open) = &mut state.open else {
            return Some(Permit { breaker: self, probe: false });
        };
        if open.probing || Instant::now() < open.until {
            return None;
        }
        open.probing = true;
        Some(Permit { breaker: self, probe: true })
    }

    /// False while callers are turned away.
    pub fn is_closed(&self) -> bool {
        self.lock().open.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The database answered, whatever it said.
    pub fn answered(&self) {
        let before = std::mem::take(&mut *self.breaker.lock());
        if before.open.is_some() {
            tracing::info!("user database: TiKV answers again");
        }
    }

    /// It did not. True if nobody is let through from here on.
    pub fn failed(&self) -> bool {
        let mut state = self.breaker.lock();
        state.failures = state.failures.saturating_add(1);
        let pause = match state.open {
            None if state.failures < FAILURES => return false,
            None => {
                tracing::warn!("user database: TiKV does not answer; callers are told so at once");
                FIRST_PAUSE
            }
            // Those who began to ask before it opened tell nothing new.
            Some(_) if !self.probe => return true,
            Some(open) => (open.pause * 2).min(LONGEST_PAUSE),
        };
        let jitter = pause.mul_f64(rand::random_range(0.0..0.25));
        state.open = Some(Open { until: Instant::now() + pause + jitter, pause, probing: false });
        true
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe
            && let Some(open) = &mut self.breaker.lock().open
        {
            open.probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker.permit().unwrap().failed();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_only() {
        let breaker = Breaker::default();
        fail(&breaker, FAILURES - 1);
        breaker.permit().unwrap().answered();
        fail(&breaker, FAILURES - 1);
        assert!(breaker.is_closed());
        fail(&breaker, 1);
        assert!(!breaker.is_closed() && breaker.permit().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_asks_for_all_after_the_pause() {
        let breaker = Breaker::default();
        fail(&breaker, FAILURES);
        tokio::time::advance(FIRST_PAUSE * 2).await;
        let probe = breaker.permit().unwrap();
        assert!(breaker.permit().is_none());
        // Gave up: the next may ask.
        drop(probe);
        let probe = breaker.permit().unwrap();
        probe.answered();
        drop(probe);
        assert!(breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_grows_to_its_limit() {
        let breaker = Breaker::default();
        fail(&breaker, FAILURES);
        for _ in 0..10 {
            tokio::time::advance(LONGEST_PAUSE * 2).await;
            fail(&breaker, 1);
        }
        tokio::time::advance(LONGEST_PAUSE - Duration::from_millis(1)).await;
        assert!(breaker.permit().is_none());
        tokio::time::advance(LONGEST_PAUSE / 2).await;
        assert!(breaker.permit().is_some());
    }
}
