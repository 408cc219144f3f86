//! The segment files there are, their lengths, and a bounded number of open handles.

use crate::disk::{Disk, DiskFile};
use std::collections::{BTreeMap, HashMap};
use std::io::Result;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Open files at most, well below what a process usually may.
const MOST_OPEN: usize = 256;
const SUFFIX: &str = ".log";

pub fn file_name(segment: u64) -> String {
    format!("{segment:016x}{SUFFIX}")
}

/// None if it is no segment's name.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (file_name(number) == name).then_some(number)
}

#[derive(Default)]
pub struct Segments {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lengths: BTreeMap<u64, u64>,
    /// With the time of the last use, in uses.
    open: HashMap<u64, (Arc<dyn DiskFile>, u64)>,
    uses: u64,
}

impl Segments {
    pub fn numbers(&self) -> Vec<u64> {
        self.lock().lengths.keys().copied().collect()
    }

    /// Bytes written to each.
    pub fn lengths(&self) -> BTreeMap<u64, u64> {
        self.lock().lengths.clone()
    }

    pub fn total_length(&self) -> u64 {
        self.lock().lengths.values().sum()
    }

    /// Is there one with a number in this range?
    pub fn any_in(&self, range: std::ops::Range<u64>) -> bool {
        range.start < range.end && self.lock().lengths.range(range).next().is_some()
    }

    pub fn grew(&self, segment: u64, length: u64) {
        self.lock().lengths.insert(segment, length);
    }

    pub fn removed(&self, segment: u64) {
        let mut state = self.lock();
        state.lengths.remove(&segment);
        state.open.remove(&segment);
    }

    pub fn opened(&self, segment: u64, file: Arc<dyn DiskFile>) {
        let mut state = self.lock();
        state.uses += 1;
        if state.open.len() >= MOST_OPEN
            && let Some(oldest) =
                state.open.iter().min_by_key(|(_, (_, used))| *used).map(|(&number, _)| number)
        {
            state.open.remove(&oldest);
        }
        let used = state.uses;
        state.open.insert(segment, (file, used));
    }

    /// # Errors
    /// `NotFound` if it was removed.
    pub fn file(&self, disk: &dyn Disk, segment: u64) -> Result<Arc<dyn DiskFile>> {
        {
            let mut state = self.lock();
            state.uses += 1;
            let now = state.uses;
            if let Some((file, used)) = state.open.get_mut(&segment) {
                *used = now;
                return Ok(file.clone());
            }
        }
        let file = disk.open(&file_name(segment))?;
        self.opened(segment, file.clone());
        Ok(file)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_a_segments_name() {
        assert_eq!(parse_file_name(&file_name(0xab)), Some(0xab));
        for name in ["ab.log", "00000000000000AB.log", "00000000000000ab", "+0000000000000ab.log", "x"] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
