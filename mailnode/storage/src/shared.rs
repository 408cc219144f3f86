//! What the handles and threads of one store share.

use crate::disk::{Disk, Space};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::options::Options;
use crate::queue::Queue;
use crate::segments::Segments;
use crate::staging::Accounts;
use crate::writer::Writer;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

pub struct Shared {
    pub disk: Box<dyn Disk>,
    pub index: Box<dyn Index>,
    pub options: Options,
    pub segments: Segments,
    pub counters: Counters,
    pub queue: Queue,
    pub writer: Mutex<Writer>,
    /// Held by whoever compacts, collects or verifies: one at a time.
    pub maintenance: Mutex<()>,
    pub accounts: Mutex<Accounts>,
    failed: OnceLock<Error>,
    stop: Mutex<bool>,
    stopping: Condvar,
    space: Mutex<Measured>,
}

/// The file system's space as last asked for.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    space: Space,
    /// Bytes written to the log by then.
    written: u64,
    /// Unix seconds; None before the first time.
    at: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Counters {
    pub commits: AtomicU64,
    pub groups: AtomicU64,
    pub fsyncs: AtomicU64,
    pub bytes_written: AtomicU64,
    pub corrupt_records: AtomicU64,
    pub compacted_bytes: AtomicU64,
    /// Moving average, microseconds.
    flush_micros: AtomicU64,
}

impl Counters {
    pub fn flushed(&self, took: Duration) {
        self.groups.fetch_add(1, Relaxed);
        let (old, new) = (self.flush_micros.load(Relaxed), took.as_micros() as u64);
        self.flush_micros.store(if old == 0 { new } else { (old * 7 + new) / 8 }, Relaxed);
    }

    pub fn flush_micros(&self) -> u64 {
        self.flush_micros.load(Relaxed)
    }

    pub fn found_corrupt(&self, records: u64) {
        self.corrupt_records.fetch_add(records, Relaxed);
    }
}

impl Shared {
    pub fn new(
        disk: Box<dyn Disk>,
        index: Box<dyn Index>,
        options: Options,
        segments: Segments,
        writer: Writer,
        accounts: Accounts,
    ) -> Self {
        Self {
            queue: Queue::new(&options),
            disk,
            index,
            options,
            segments,
            counters: Counters::default(),
            writer: Mutex::new(writer),
            maintenance: Mutex::new(()),
            accounts: Mutex::new(accounts),
            failed: OnceLock::new(),
            stop: Mutex::new(false),
            stopping: Condvar::new(),
            space: Mutex::default(),
        }
    }

    pub fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn maintenance(&self) -> MutexGuard<'_, ()> {
        self.maintenance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn stop_keeper(&self) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stopping.notify_all();
    }

    /// For the keeper: sleeps so long; true if it is to end.
    pub fn pause(&self, time: Duration) -> bool {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.stopping.wait_timeout_while(stop, time, |stop| !*stop);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Why nothing can be written any more.
    pub fn failure(&self) -> Option<Error> {
        self.failed.get().cloned()
    }

    pub fn fail(&self, error: &Error) {
        if self.failed.set(error.clone()).is_ok() {
            tracing::error!(%error, "storage failed; reads go on");
        }
    }

    /// Asked for about once a second.
    pub fn space(&self) -> Space {
        let mut measured = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.options.clock.unix_seconds();
        let written = self.counters.bytes_written.load(Relaxed);
        if measured.at != Some(now) {
            match self.disk.space() {
                Ok(space) => *measured = Measured { space, written, at: Some(now) },
                Err(error) => tracing::warn!(%error, "cannot ask for the space of the disk"),
            }
        }
        let Space { total, available } = measured.space;
        Space { total, available: available.saturating_sub(written.saturating_sub(measured.written)) }
    }

    /// What is left over for compaction and deletes, which need space to make space.
    fn reserve(&self, space: Space) -> u64 {
        (2 * u64::from(self.options.segment_bytes)).min(space.total / 50)
    }

    /// # Errors
    /// [`Error::Full`] if so many bytes of new mail would leave no room for compaction.
    pub fn admit(&self, bytes: u64) -> Result<()> {
        let space = self.space();
        if space.total > 0 && space.available < self.reserve(space).saturating_add(bytes) {
            return Err(Error::Full);
        }
        Ok(())
    }
}
