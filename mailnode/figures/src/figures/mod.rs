//! One module a figure: the runs it takes, and the rows of its CSV.

pub mod detection;
pub mod failures;
pub mod fast_disks;
pub mod skew;
pub mod throughput;
pub mod traffic;

use crate::table::Table;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much work a figure may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As published, or without the clusters above this size.
    Full { largest: usize },
    /// Small clusters and short runs, to see that all works.
    Quick,
}

impl Size {
    fn cut(self, sizes: &[usize]) -> Vec<usize> {
        let most = match self {
            Self::Full { largest } => largest,
            Self::Quick => 10,
        };
        sizes.iter().copied().filter(|&nodes| nodes <= most).collect()
    }
}

pub struct Figure {
    pub name: &'static str,
    /// The tables by name, from a seed.
    pub make: fn(Size, u64) -> Vec<(&'static str, Table)>,
}

pub const ALL: &[Figure] = &[
    Figure { name: "throughput", make: throughput::tables },
    Figure { name: "skew", make: skew::tables },
    Figure { name: "fast-disks", make: fast_disks::tables },
    Figure { name: "failures", make: failures::tables },
    Figure { name: "detection", make: detection::tables },
    Figure { name: "traffic", make: traffic::tables },
];

/// Does the work for each input, on all cores; results are in the order of the inputs.
pub fn parallel<I: Sync, O: Send>(inputs: &[I], work: impl Fn(&I) -> O + Sync) -> Vec<O> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let outputs: Mutex<Vec<(usize, O)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(inputs.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(input) = inputs.get(at) else { return };
                    let output = work(input);
                    outputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((at, output));
                }
            });
        }
    });
    let mut outputs = outputs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    outputs.sort_by_key(|(at, _)| *at);
    outputs.into_iter().map(|(_, output)| output).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_inputs_whoever_was_first() {
        let inputs: Vec<u64> = (0..50).collect();
        let work = |input: &u64| {
            std::thread::sleep(std::time::Duration::from_micros(500 * (50 - input) % 1_500));
            input * 2
        };
        assert_eq!(parallel(&inputs, work), inputs.iter().map(|input| input * 2).collect::<Vec<_>>());
    }
}
