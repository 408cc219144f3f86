//! How long a message of a peer was on its way, without trust in anybody's wall clock: how much longer than the
//! fastest of the last minute. A request may have waited in a socket while its receiver was stopped or its link cut;
//! its caller has gone elsewhere, and to do it now would undo what was done since.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::ids::Incarnation;

/// The fastest message of one to two such times is what others are compared with, so clocks may drift.
const WINDOW: i64 = 60_000;

/// When a message was sent: milliseconds of a clock that this life of the sender began with and that never jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub life: Incarnation,
    pub millis: u64,
}

/// What is known of the way from one peer.
#[derive(Clone, Copy, Debug)]
pub struct Lateness {
    life: Incarnation,
    /// When the current window began, and the least difference of our clock and the sender's in it.
    begun: i64,
    current: i64,
    previous: i64,
}

impl Lateness {
    /// `now`: milliseconds of a clock of ours that never jumps.
    pub fn new(sent: Sent, now: u64) -> Self {
        let difference = difference(sent, now);
        Self { life: sent.life, begun: to_signed(now), current: difference, previous: difference }
    }

    /// How late a message is.
    pub fn observe(&mut self, sent: Sent, now: u64) -> Duration {
        if sent.life != self.life {
            *self = Self::new(sent, now);
        }
        let difference = difference(sent, now);
        let late = difference - self.current.min(self.previous);
        if to_signed(now) - self.begun > WINDOW {
            // One step only, however long we were stopped: what waited meanwhile is compared with what came before.
            (self.previous, self.current, self.begun) = (self.current, difference, to_signed(now));
        }
        self.current = self.current.min(difference);
        Duration::from_millis(late.try_into().unwrap_or(0))
    }
}

fn to_signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

fn difference(sent: Sent, now: u64) -> i64 {
    to_signed(now).saturating_sub(to_signed(sent.millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(millis: u64) -> Sent {
        Sent { life: Incarnation(1), millis }
    }

    fn late(lateness: &mut Lateness, at: u64, now: u64) -> u64 {
        u64::try_from(lateness.observe(sent(at), now).as_millis()).unwrap()
    }

    #[test]
    fn what_waited_while_we_were_stopped_is_late_and_what_follows_is_not() {
        let mut lateness = Lateness::new(sent(5_000), 100);
        assert_eq!(late(&mut lateness, 5_010, 108), 0, "the fastest so far");
        assert_eq!(late(&mut lateness, 6_000, 1_102), 4);
        // Stopped for five minutes.
        assert_eq!(late(&mut lateness, 7_000, 302_098), 300_000);
        assert_eq!(late(&mut lateness, 300_000, 302_098), 7_000);
        assert_eq!(late(&mut lateness, 307_000, 302_098), 0);
    }

    #[test]
    fn clocks_may_drift() {
        let mut lateness = Lateness::new(sent(0), 0);
        // A second a day slower, ten messages a second.
        for message in 0..864_000_u64 {
            let at = message * 100;
            assert!(late(&mut lateness, at, at + message / 864) < 10, "{message}");
        }
    }

    #[test]
    fn another_life_has_another_clock() {
        let mut lateness = Lateness::new(sent(1_000_000), 1_000);
        let next = Sent { life: Incarnation(2), millis: 3 };
        assert_eq!(lateness.observe(next, 2_000), Duration::ZERO);
    }
}
