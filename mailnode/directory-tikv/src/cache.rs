//! Records that were read, for the time when the database is away: bounded in bytes and age, the longest unused
//! go first. Absence is never remembered: a cache cannot know that there still is nothing.

use directory::{Key, Read};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const BYTES: usize = 64 * 1024 * 1024;
/// Older states are not served: whoever was deleted or locked out meanwhile must not get in for ever.
const AGE: Duration = Duration::from_secs(24 * 3600);
/// What an entry costs beside its key and value.
const OVERHEAD: usize = 200;

pub struct Cache {
    state: Mutex<State>,
    bytes: usize,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// By last use.
    order: BTreeMap<u64, Key>,
    next: u64,
    bytes: usize,
}

struct Entry {
    read: Read,
    at: Instant,
    used: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self::with_limit(BYTES)
    }
}

impl Cache {
    fn with_limit(bytes: usize) -> Self {
        Self { state: Mutex::new(State::default()), bytes }
    }

    /// What was read just now, or written.
    pub fn put(&self, key: &Key, read: &Read) {
        let mut state = self.lock();
        if let Some(old) = state.entries.get(key)
            && old.read.version > read.version
            && read.version != 0
        {
            return;
        }
        state.remove(key);
        if read.value.is_none() {
            return;
        }
        state.bytes += size(key, read);
        let used = state.touch(key);
        state.entries.insert(key.clone(), Entry { read: read.clone(), at: Instant::now(), used });
        while state.bytes > self.bytes {
            let Some((_, oldest)) = state.order.pop_first() else { break };
            state.remove(&oldest);
        }
    }

    /// The newest state that was seen, if it is young enough.
    pub fn get(&self, key: &Key) -> Option<Read> {
        let mut state = self.lock();
        let entry = state.entries.get(key)?;
        if entry.at.elapsed() > AGE {
            state.remove(key);
            return None;
        }
        let (read, before) = (entry.read.clone(), entry.used);
        state.order.remove(&before);
        let used = state.touch(key);
        if let Some(entry) = state.entries.get_mut(key) {
            entry.used = used;
        }
        Some(read)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn touch(&mut self, key: &Key) -> u64 {
        self.next += 1;
        self.order.insert(self.next, key.clone());
        self.next
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.used);
            self.bytes = self.bytes.saturating_sub(size(key, &entry.read));
        }
    }
}

fn size(key: &Key, read: &Read) -> usize {
    key.as_bytes().len() * 2 + read.value.as_ref().map_or(0, bytes::Bytes::len) + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use cluster::UserId;

    fn read(version: u64) -> Read {
        Read { version, value: Some(Bytes::from(vec![0; 1000])) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_unused_go_first_and_the_bytes_are_bounded() {
        let cache = Cache::with_limit(10_000);
        let key = |n: u128| Key::profile(UserId(n));
        for n in 0..100 {
            cache.put(&key(n), &read(1));
            assert_eq!(cache.get(&key(0)), Some(read(1)), "in use");
            assert!(cache.lock().bytes <= 10_000);
        }
        assert_eq!(cache.get(&key(1)), None);
        assert_eq!(cache.get(&key(99)), Some(read(1)));
        let state = cache.lock();
        assert_eq!(state.entries.len(), state.order.len());
    }

    #[tokio::test(start_paused = true)]
    async fn neither_older_versions_nor_deleted_records_nor_old_states_are_served() {
        let cache = Cache::default();
        let key = Key::profile(UserId(1));
        cache.put(&key, &read(3));
        cache.put(&key, &read(2));
        assert_eq!(cache.get(&key), Some(read(3)));
        tokio::time::advance(AGE + Duration::from_secs(1)).await;
        assert_eq!(cache.get(&key), None);
        cache.put(&key, &read(3));
        cache.put(&key, &Read { version: 4, value: None });
        assert_eq!(cache.get(&key), None);
        assert_eq!(cache.lock().bytes, 0);
    }
}
