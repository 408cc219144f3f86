//! Wall time that the nodes agree on although one of them has a wrong clock.
//!
//! Every message tells its sender's wall clock. A node whose own clock is near the median of those it heard uses its
//! own; one that is far off uses the median, so that its updates are neither refused elsewhere for being ahead
//! (DESIGN 4, `maxClockSkew`) nor lost against older ones for being behind. Nobody has to leave service, a clock that
//! jumps changes nothing, and one that is set right is used again at once. Of an even number the lower middle counts: of
//! two clocks that differ nobody knows which is right, and stamps from the future do more harm than old ones.
//!
//! Pure: wall and monotonic time, in milliseconds, are arguments.

use crate::ids::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// A reading this old says nothing any more; its sender is gone.
const AGE: u64 = 60_000;

/// The middle is looked for this often at most, unless somebody new is heard: every message brings a reading.
const LOOK: u64 = 100;

#[derive(Debug)]
pub struct AgreedTime {
    tolerance: u64,
    heard: BTreeMap<NodeId, Reading>,
    /// The median of all clocks is ours if it is between these, else the nearer one.
    between: (i64, i64),
    looked: u64,
}

/// What a peer's wall clock would show at our monotonic time 0, and when we heard it.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at_zero: i64,
    heard: u64,
}

impl AgreedTime {
    /// A clock is right if it is within half of `maxClockSkew` of the others: then any two that are right are within it.
    pub const fn new(max_skew: Duration) -> Self {
        let tolerance = max_skew.as_millis() as u64 / 2;
        Self { tolerance, heard: BTreeMap::new(), between: (i64::MIN, i64::MAX), looked: 0 }
    }

    /// A peer's wall clock, as a message tells that arrived at `monotonic`.
    pub fn hear(&mut self, peer: NodeId, wall: u64, monotonic: u64) {
        let at_zero = (wall as i64).saturating_sub(monotonic as i64);
        let known = self.heard.insert(peer, Reading { at_zero, heard: monotonic });
        if known.is_none() {
            self.look(monotonic);
        }
    }

    fn look(&mut self, monotonic: u64) {
        self.looked = monotonic;
        self.heard.retain(|_, reading| monotonic.saturating_sub(reading.heard) <= AGE);
        let mut clocks: Vec<i64> = self.heard.values().map(|reading| reading.at_zero).collect();
        clocks.sort_unstable();
        // With ours among them the lower middle is the one at this place.
        let middle = clocks.len() / 2;
        let below = middle.checked_sub(1).and_then(|below| clocks.get(below));
        self.between = (*below.unwrap_or(&i64::MIN), *clocks.get(middle).unwrap_or(&i64::MAX));
    }

    /// Unix milliseconds to work with, by our own wall clock and those that we heard.
    pub fn now(&mut self, wall: u64, monotonic: u64) -> u64 {
        if monotonic.saturating_sub(self.looked) > LOOK {
            self.look(monotonic);
        }
        let mine = (wall as i64).saturating_sub(monotonic as i64);
        let (lowest, highest) = self.between;
        let median = mine.clamp(lowest, highest);
        if mine.abs_diff(median) <= self.tolerance {
            return wall;
        }
        u64::try_from(median.saturating_add(monotonic as i64)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_700_000_000_000;

    fn heard(offsets: &[i64]) -> AgreedTime {
        let mut time = AgreedTime::new(Duration::from_secs(5));
        for (peer, offset) in offsets.iter().enumerate() {
            time.hear(NodeId(peer as u64), NOON.saturating_add_signed(*offset), 1_000);
        }
        time
    }

    #[test]
    fn a_clock_among_the_others_is_used_as_it_is() {
        assert_eq!(heard(&[-800, 1_200]).now(NOON, 1_000), NOON);
        assert_eq!(heard(&[]).now(NOON, 1_000), NOON, "alone");
        assert_eq!(heard(&[2_000]).now(NOON, 1_000), NOON);
    }

    #[test]
    fn a_clock_that_jumped_is_not_followed_either_way() {
        for jump in [-13_000, 13_000, 40_000_000] {
            let mut time = heard(&[0, 100]);
            let now = time.now((NOON + 500).saturating_add_signed(jump), 1_500);
            assert!(now.abs_diff(NOON + 500) <= 100, "{jump}: {now}");
        }
    }

    #[test]
    fn one_wrong_clock_among_the_peers_changes_nothing() {
        assert_eq!(heard(&[13_000, 0]).now(NOON, 1_000), NOON);
        assert_eq!(heard(&[-13_000, 0]).now(NOON, 1_000), NOON);
    }

    #[test]
    fn of_two_clocks_the_earlier_is_used() {
        assert_eq!(heard(&[-13_000]).now(NOON, 1_000), NOON - 13_000);
        assert_eq!(heard(&[13_000]).now(NOON, 1_000), NOON);
    }

    #[test]
    fn who_is_gone_is_not_asked_for_ever() {
        let mut time = heard(&[-13_000, -13_000]);
        assert_eq!(time.now(NOON + 1_000, 2_000), NOON + 1_000 - 13_000);
        assert_eq!(time.now(NOON + AGE + 1, 1_000 + AGE + 1), NOON + AGE + 1);
    }
}
