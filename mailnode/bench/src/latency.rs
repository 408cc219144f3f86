//! Latencies: each one is kept, in microseconds, and percentiles are exact.

use crate::report::Percentiles;
use std::time::Duration;

#[derive(Default)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    pub(crate) fn record(&mut self, time: Duration) {
        self.0.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// By nearest rank; zero if nothing was recorded.
    pub(crate) fn percentiles(mut self) -> Percentiles {
        self.0.sort_unstable();
        let at = |percent: usize| {
            let rank = (self.0.len() * percent).div_ceil(100).max(1);
            self.0.get(rank - 1).map_or(0.0, |&micros| f64::from(micros) / 1000.0)
        };
        Percentiles { p50_millis: at(50), p99_millis: at(99), max_millis: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut latencies = Latencies::default();
        for millis in (1..=200).rev() {
            latencies.record(Duration::from_millis(millis));
        }
        let percentiles = latencies.percentiles();
        assert_eq!(percentiles.p50_millis, 100.0);
        assert_eq!(percentiles.p99_millis, 198.0);
        assert_eq!(percentiles.max_millis, 200.0);
        assert_eq!(Latencies::default().percentiles().p99_millis, 0.0);
    }
}
