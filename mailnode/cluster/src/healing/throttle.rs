//! So many bytes a second: healing must not be felt by those who read and send mail.

use std::time::Duration;

/// What a body costs at least while clients are served. A small one costs a call and a flush at both ends, which they feel
/// long before its bytes.
const FELT: u64 = 128 * 1024;

/// Time is the node's monotonic time since its start.
#[derive(Clone, Copy, Debug)]
pub struct Throttle {
    bytes_per_second: u64,
    free_at: Duration,
}

impl Throttle {
    pub const fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: if bytes_per_second == 0 { 1 } else { bytes_per_second },
            free_at: Duration::ZERO,
        }
    }

    /// How long to wait before a body of so many bytes may be copied; it counts as copied. Rest is not saved up.
    /// `serving`: there are clients who would feel it.
    pub fn spend(&mut self, bytes: u64, serving: bool, now: Duration) -> Duration {
        let bytes = if serving { bytes.max(FELT) } else { bytes };
        let wait = self.free_at.saturating_sub(now);
        let took = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.free_at = self.free_at.max(now).saturating_add(took);
        wait
    }

    /// How long so many bytes will take.
    pub fn estimate(&self, bytes: u64) -> Duration {
        Duration::from_secs(bytes / self.bytes_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lets_through_its_rate_and_saves_nothing_up() {
        let mut throttle = Throttle::new(1_000);
        let second = Duration::from_secs(1);
        assert_eq!(throttle.spend(500, false, second * 100), Duration::ZERO);
        assert_eq!(throttle.spend(2_000, false, second * 100), second / 2);
        assert_eq!(throttle.spend(1, false, second * 101), second * 3 / 2);
        assert_eq!(throttle.spend(1, false, second * 900), Duration::ZERO);
        assert_eq!(throttle.spend(1, true, second * 2_000), Duration::ZERO);
        assert!(
            throttle.spend(1, false, second * 2_001) > second * 100,
            "a small body costs more while clients are served"
        );
        assert_eq!(Throttle::new(0).estimate(5), second * 5);
    }
}
