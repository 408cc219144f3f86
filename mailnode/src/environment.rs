//! What the node takes from the machine under it besides its disk and network: the wall clock, random numbers
//! and threads for what would block.
//!
//! Normally these are the system's. The simulator runs many nodes in one thread and enters a node's own
//! environment whenever it lets that node run: then each has its clock, which may be wrong, and its random
//! numbers, which come from the seed, and nothing runs in another thread. Whatever a node decides may depend on
//! no other clock (but `tokio::time`, which the simulator also drives), no other random numbers, and no order of
//! a map with random hashing.

use crate::forgetting;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::task::JoinError;

/// A simulated machine's clock and random numbers.
pub trait Environment {
    /// Unix milliseconds.
    fn unix_millis(&self) -> u64;
    fn random(&self) -> u64;
}

thread_local! {
    static ENTERED: RefCell<Option<Rc<dyn Environment>>> = const { RefCell::new(None) };
}

/// While it lives, this thread is in the environment that was entered.
pub struct Entered(Option<Rc<dyn Environment>>);

/// Enters an environment, for this thread.
pub fn enter(environment: Rc<dyn Environment>) -> Entered {
    Entered(ENTERED.replace(Some(environment)))
}

impl Drop for Entered {
    fn drop(&mut self) {
        ENTERED.set(self.0.take());
    }
}

fn entered<T>(look: impl FnOnce(&dyn Environment) -> T) -> Option<T> {
    ENTERED.with_borrow(|entered| entered.as_deref().map(look))
}

pub fn unix_millis() -> u64 {
    entered(|environment| environment.unix_millis()).unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    })
}

pub fn random() -> u64 {
    entered(|environment| environment.random()).unwrap_or_else(rand::random)
}

/// For ids and tokens.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&random().to_be_bytes()[..part.len()]);
    }
    bytes
}

/// At least 0, below 1.
pub fn random_fraction() -> f64 {
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Work that may block, where it holds up nobody.
///
/// # Errors
/// If it panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if entered(|_| ()).is_some() {
        return Ok(work());
    }
    let work = || {
        let done = work();
        forgetting::wipe_stack();
        done
    };
    tokio::task::spawn_blocking(work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stopped;

    impl Environment for Stopped {
        fn unix_millis(&self) -> u64 {
            7
        }
        fn random(&self) -> u64 {
            u64::MAX
        }
    }

    #[test]
    fn an_environment_is_left_when_its_guard_is_dropped() {
        let entered = enter(Rc::new(Stopped));
        assert_eq!((unix_millis(), random_bytes::<3>()), (7, [255; 3]));
        assert!(random_fraction() < 1.0);
        drop(entered);
        assert!(unix_millis() > 7);
        assert_ne!(random(), random());
    }
}
