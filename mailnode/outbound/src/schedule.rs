//! When a message is tried again (RFC 5321 4.5.4.1): intervals that grow, until it is too old.
//!
//! The wait follows from the message's age alone, so nothing about attempts need be kept: whoever takes the message
//! over goes on where the last holder was.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Between attempts; the last is repeated. Not empty.
    pub waits: Vec<Duration>,
    /// The sender of a message that is older is told that it is delayed; zero: never.
    pub warning: Duration,
    /// A message that is older is given up.
    pub expiry: Duration,
}

impl Default for Schedule {
    /// RFC 5321 4.5.4.1: at least 30 minutes between attempts after the first few, four to five days in all.
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            waits: [5, 10, 15, 30, 60, 120, 240].map(minutes).to_vec(),
            warning: Duration::from_secs(4 * 3_600),
            expiry: Duration::from_secs(5 * 24 * 3_600),
        }
    }
}

impl Schedule {
    /// Is a message late enough that its sender should know?
    pub fn is_late(&self, age: Duration) -> bool {
        !self.warning.is_zero() && age >= self.warning
    }

    /// How long to wait after an attempt at this age. `random` spreads what came together by a tenth either way.
    pub fn wait(&self, age: Duration, random: u64) -> Duration {
        let mut end = Duration::ZERO;
        let mut wait = self.waits.last().copied().unwrap_or(Duration::from_secs(1_800));
        for &interval in &self.waits {
            end += interval;
            if age < end {
                wait = interval;
                break;
            }
        }
        spread(wait, random)
    }

    /// How long a destination is left alone after so many failures in a row: the first wait, doubled, up to half an
    /// hour, so that a new message does not wait for hours because of old ones.
    pub fn back_off(&self, failures: u32, random: u64) -> Duration {
        let most = Duration::from_secs(1_800);
        let first = self.waits.first().copied().unwrap_or(most);
        let longest = self.waits.last().copied().unwrap_or(most).min(most).max(first);
        let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        spread(doubled.min(longest), random)
    }
}

fn spread(wait: Duration, random: u64) -> Duration {
    // 900 to 1100 thousandths.
    wait.mul_f64(0.9 + (random % 201) as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_grow_with_the_age_and_the_last_is_repeated() {
        let waits = vec![seconds(10), seconds(20), seconds(40)];
        let schedule = Schedule { waits, ..Schedule::default() };
        let wait = |age| schedule.wait(seconds(age), 100).as_secs();
        assert_eq!([wait(0), wait(9), wait(10), wait(29), wait(30), wait(900)], [10, 10, 20, 20, 40, 40]);
    }

    #[test]
    fn what_came_together_does_not_come_again_together() {
        let schedule = Schedule::default();
        let waits: Vec<_> = (0..201).map(|random| schedule.wait(seconds(0), random)).collect();
        assert!(waits.iter().all(|wait| (seconds(270)..=seconds(330)).contains(wait)));
        assert!(
            waits.iter().any(|wait| *wait < seconds(280)) && waits.iter().any(|wait| *wait > seconds(320))
        );
    }

    #[test]
    fn a_destination_rests_longer_with_each_failure_but_not_for_hours() {
        let schedule = Schedule::default();
        let rest = |failures| schedule.back_off(failures, 100).as_secs() / 60;
        assert_eq!([rest(1), rest(2), rest(3), rest(4), rest(5), rest(1_000)], [5, 10, 20, 30, 30, 30]);
    }
}
