//! Look-ups remembered for a few seconds, in bounded memory.

use super::{FOUND, MISSED};
use crate::wire::Failure;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Answers kept; about 100 bytes each.
const LIMIT: usize = 50_000;
/// Longer names are looked up each time.
const NAME: usize = 320;

/// None: surely not there.
type Entry<T> = (Instant, Option<T>);

pub struct Cache<T> {
    entries: Mutex<Entries<T>>,
}

struct Entries<T> {
    map: HashMap<Box<str>, Entry<T>>,
    /// Counts [`Cache::clear`], so that an answer from before is not kept after it.
    generation: u64,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { entries: Mutex::new(Entries { map: HashMap::new(), generation: 0 }) }
    }
}

impl<T: Clone> Cache<T> {
    /// What is known of a name, or what `look_up` says.
    ///
    /// # Errors
    /// Those of `look_up`; [`Failure::NotFound`] is remembered for a shorter time, others are not.
    pub async fn get(
        &self,
        name: &str,
        look_up: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let generation = {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, answer)) = entries.map.get(name)
                && at.elapsed() < lifetime(answer)
            {
                return answer.clone().ok_or(Failure::NotFound);
            }
            entries.generation
        };
        let outcome = look_up.await;
        let answer = match &outcome {
            Ok(answer) => Some(answer.clone()),
            Err(Failure::NotFound) => None,
            Err(_) => return outcome,
        };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.generation == generation && name.len() <= NAME {
            if entries.map.len() >= LIMIT {
                entries.map.retain(|_, (at, answer)| at.elapsed() < lifetime(answer));
            }
            if entries.map.len() >= LIMIT {
                entries.map.clear();
            }
            entries.map.insert(name.into(), (Instant::now(), answer));
        }
        outcome
    }

    pub fn clear(&self) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.map.clear();
        entries.generation += 1;
    }
}

const fn lifetime<T>(answer: &Option<T>) -> Duration {
    if answer.is_some() { FOUND } else { MISSED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_known_is_not_asked_again_until_it_is_cleared() {
        let cache = Cache::default();
        assert_eq!(cache.get("a", async { Ok(1) }).await, Ok(1));
        assert_eq!(cache.get("a", async { Ok(2) }).await, Ok(1));
        assert_eq!(cache.get("b", async { Err(Failure::NotFound) }).await, Err(Failure::NotFound));
        assert_eq!(cache.get("b", async { Ok(3) }).await, Err(Failure::NotFound));
        let away = Failure::Temporary("away".into());
        assert_eq!(cache.get("c", async { Err(away.clone()) }).await, Err(away.clone()));
        assert_eq!(cache.get("c", async { Ok(4) }).await, Ok(4));
        cache.clear();
        assert_eq!(cache.get("a", async { Ok(2) }).await, Ok(2));
    }

    #[tokio::test]
    async fn an_answer_from_before_a_change_is_not_kept() {
        let cache = Cache::default();
        let slow = async {
            cache.clear();
            Ok(1)
        };
        assert_eq!(cache.get("a", slow).await, Ok(1));
        assert_eq!(cache.get("a", async { Ok(2) }).await, Ok(2));
    }
}
