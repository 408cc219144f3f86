//! Sets of UIDs, as ranges: mailboxes are mostly numbered without gaps.

use serde::{Deserialize, Serialize};

/// Ranges with both ends, ascending, with a gap between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UidRanges(Vec<(u32, u32)>);

impl UidRanges {
    pub fn has(&self, uid: u32) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= uid);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|&(_, last)| uid <= last)
    }

    /// Leaves the highest `count` ranges, and says from which number on nothing was left out.
    pub fn keep_highest(&mut self, count: usize) -> u32 {
        let forgotten = self.0.len().saturating_sub(count);
        self.0.drain(..forgotten).next_back().map_or(0, |(_, last)| last.saturating_add(1))
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().copied()
    }
}

impl FromIterator<u32> for UidRanges {
    /// Of ascending numbers.
    fn from_iter<T: IntoIterator<Item = u32>>(uids: T) -> Self {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for uid in uids {
            match ranges.last_mut() {
                Some((_, last)) if uid == last.saturating_add(1) => *last = uid,
                _ => ranges.push((uid, uid)),
            }
        }
        Self(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_in_and_nothing_else() {
        let mut ranges: UidRanges = [1, 2, 3, 7, 9, 10].into_iter().collect();
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(1, 3), (7, 7), (9, 10)]);
        assert_eq!((0..12).filter(|&uid| ranges.has(uid)).collect::<Vec<_>>(), [1, 2, 3, 7, 9, 10]);
        assert_eq!(ranges.keep_highest(3), 0);
        assert_eq!(ranges.keep_highest(2), 4);
        assert_eq!((0..12).filter(|&uid| ranges.has(uid)).collect::<Vec<_>>(), [7, 9, 10]);
    }
}
