//! What goes wrong again and again is said once, then once a minute with how often it went wrong, and once when it is over:
//! an API server that is away for an hour is no reason to fill a disk with lines.

use std::time::Duration;

/// Between two lines about the same trouble.
const AGAIN: Duration = Duration::from_secs(60);

/// One thing that may go wrong. Times are the caller's, from any clock that does not go back.
#[derive(Debug, Default)]
pub struct Trouble {
    failures: u64,
    said: Option<Duration>,
}

impl Trouble {
    /// It went wrong (again): how often since it last went well, if that is worth a line now.
    pub fn failed(&mut self, now: Duration) -> Option<u64> {
        self.failures = self.failures.saturating_add(1);
        let is_due = self.said.is_none_or(|said| now.saturating_sub(said) >= AGAIN);
        is_due.then(|| {
            self.said = Some(now);
            self.failures
        })
    }

    /// It went well: how often it had gone wrong before, if it had.
    pub fn over(&mut self) -> Option<u64> {
        let Self { failures, .. } = std::mem::take(self);
        (failures > 0).then_some(failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_failures_every_second_is_sixty_lines_and_one_when_it_is_over() {
        let mut trouble = Trouble::default();
        let said: Vec<u64> =
            (0..3600).filter_map(|second| trouble.failed(Duration::from_secs(second))).collect();
        assert_eq!((said.len(), said[0], said[1]), (60, 1, 61));
        assert_eq!((trouble.over(), trouble.over()), (Some(3600), None));
        assert_eq!(trouble.failed(Duration::from_secs(3601)), Some(1), "the next trouble is another one");
    }
}
