//! The two threads of a store: one writes, one keeps house. Without threads, nothing.

use crate::compaction;
use crate::error::{Error, Result};
use crate::prepare::Operation;
use crate::shared::Shared;
use crate::write::Outcome;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub struct Threads {
    shared: Arc<Shared>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub fn start(shared: Arc<Shared>) -> Result<Self> {
        let mut running = Vec::new();
        if shared.options.threads {
            running.push(spawn("storage-writer", write, &shared)?);
            running.push(spawn("storage-keeper", compaction::keep_house, &shared)?);
        }
        Ok(Self { shared, running: Mutex::new(running) })
    }

    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn close(&self) {
        self.shared.queue.close();
        self.shared.stop_keeper();
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in running {
            if thread.join().is_err() {
                self.shared.fail(&Error::ReadOnly("a thread of storage ended with a bug".into()));
            }
        }
        // After a failure the index is left as it is: it may know of what is not on disk.
        if self.shared.failure().is_none()
            && let Err(error) = self.shared.index.persist()
        {
            tracing::warn!(%error, "the next start will have to replay more");
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
    }
}

fn spawn(name: &str, work: fn(&Arc<Shared>), shared: &Arc<Shared>) -> Result<JoinHandle<()>> {
    let shared = shared.clone();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&shared));
    thread.map_err(|error| Error::Open(format!("cannot start a thread: {error}")))
}

/// If the writer ends for whatever reason, nobody waits for it in vain.
struct Abandon<'a>(&'a Shared);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.queue.abandon();
    }
}

fn write(shared: &Arc<Shared>) {
    let _abandon = Abandon(shared);
    while let Some(mut jobs) = shared.queue.take() {
        let commits: Vec<Vec<Operation>> =
            jobs.iter_mut().map(|job| std::mem::take(&mut job.operations)).collect();
        let outcome = shared.writer().commit(shared, &commits);
        shared.queue.done(jobs.len());
        match outcome {
            Ok(outcomes) => jobs.into_iter().zip(outcomes).for_each(|(job, outcome)| job.answer(Ok(outcome))),
            Err(error) => jobs.into_iter().for_each(|job| job.answer(Err(error.clone()))),
        }
    }
}

/// Commits for maintenance, wherever commits are made.
pub fn commit(shared: &Shared, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
    if shared.options.threads {
        return shared.queue.submit_and_wait(operations);
    }
    let outcomes = shared.writer().commit(shared, &[operations])?;
    Ok(outcomes.into_iter().next().unwrap_or_default())
}
