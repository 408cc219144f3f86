//! Commits on their way to the writer thread. While it flushes one group, the next gathers here; that is all
//! the batching there is. Bounded by bytes: who would pass the limit waits.

use crate::error::{Error, Result};
use crate::options::Options;
use crate::prepare::Operation;
use crate::write::{Durability, Outcome};
use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Most commits of one group, so that a group's memory is bounded also for small ones.
const MOST_COMMITS: usize = 4_096;

pub struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    room: Arc<Semaphore>,
    room_bytes: u32,
    group_bytes: u64,
    lazy_delay: Duration,
    pending: AtomicU32,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    urgent: usize,
    /// When the first lazy commit has waited long enough.
    due: Option<Instant>,
    closed: bool,
}

pub struct Job {
    pub operations: Vec<Operation>,
    bytes: u64,
    urgent: bool,
    reply: Reply,
    _room: Option<OwnedSemaphorePermit>,
}

enum Reply {
    Task(oneshot::Sender<Result<Vec<Outcome>>>),
    Thread(mpsc::Sender<Result<Vec<Outcome>>>),
    Nobody,
}

impl Job {
    pub fn answer(self, outcome: Result<Vec<Outcome>>) {
        // Whoever asked may have gone away.
        match self.reply {
            Reply::Task(sender) => drop(sender.send(outcome)),
            Reply::Thread(sender) => drop(sender.send(outcome)),
            Reply::Nobody => {}
        }
    }
}

fn bytes_of(operations: &[Operation]) -> u64 {
    operations.iter().map(Operation::most_bytes).sum()
}

impl Queue {
    pub fn new(options: &Options) -> Self {
        let room_bytes = options.queue_bytes.clamp(1, u32::MAX >> 3);
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(room_bytes as usize)),
            room_bytes,
            group_bytes: options.group_bytes.into(),
            lazy_delay: options.lazy_delay,
            pending: AtomicU32::new(0),
        }
    }

    /// Commits that wait or are being flushed.
    pub fn pending(&self) -> u32 {
        self.pending.load(Relaxed)
    }

    /// Waits for room, then for the outcome.
    pub async fn submit(&self, operations: Vec<Operation>, durability: Durability) -> Result<Vec<Outcome>> {
        let bytes = bytes_of(&operations);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.room_bytes);
        let room = self.room.clone().acquire_many_owned(permits).await.map_err(|_| Error::Closed)?;
        let (sender, receiver) = oneshot::channel();
        let urgent = durability == Durability::Synced;
        self.push(Job { operations, bytes, urgent, reply: Reply::Task(sender), _room: Some(room) })?;
        receiver.await.map_err(|_| Error::Closed)?
    }

    /// For the maintenance thread, which has one commit at a time.
    pub fn submit_and_wait(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let bytes = bytes_of(&operations);
        let (sender, receiver) = mpsc::channel();
        self.push(Job { operations, bytes, urgent: true, reply: Reply::Thread(sender), _room: None })?;
        receiver.recv().map_err(|_| Error::Closed)?
    }

    /// Only if there is room, and nobody waits for it.
    pub fn try_submit(&self, operations: Vec<Operation>) {
        let bytes = bytes_of(&operations);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.room_bytes);
        if let Ok(room) = self.room.clone().try_acquire_many_owned(permits) {
            let job = Job { operations, bytes, urgent: false, reply: Reply::Nobody, _room: Some(room) };
            // Closed: then it need not be done.
            let _ = self.push(job);
        }
    }

    fn push(&self, job: Job) -> Result<()> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        self.pending.fetch_add(1, Relaxed);
        if job.urgent {
            state.urgent += 1;
        } else if state.due.is_none() {
            state.due = Some(Instant::now() + self.lazy_delay);
        }
        state.jobs.push_back(job);
        // One thread waits, and it knows already unless this is the first to be due.
        let wake = state.urgent == 1 || state.urgent == 0;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// The next group; waits for it. None after [`Queue::close`] when all is done.
    pub fn take(&self) -> Option<Vec<Job>> {
        let mut state = self.lock();
        loop {
            let wait = state.due.map(|due| due.saturating_duration_since(Instant::now()));
            if state.urgent > 0 || wait.is_some_and(|wait| wait.is_zero()) || state.closed {
                break;
            }
            state = match wait {
                Some(wait) => self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        let (mut group, mut bytes) = (Vec::new(), 0);
        while group.len() < MOST_COMMITS
            && let Some(job) = state.jobs.front()
            && (group.is_empty() || bytes + job.bytes <= self.group_bytes)
            && let Some(job) = state.jobs.pop_front()
        {
            bytes += job.bytes;
            state.urgent -= usize::from(job.urgent);
            group.push(job);
        }
        if state.jobs.len() == state.urgent {
            state.due = None;
        }
        (!group.is_empty()).then_some(group)
    }

    /// So many commits were answered.
    pub fn done(&self, commits: usize) {
        self.pending.fetch_sub(commits as u32, Relaxed);
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Closes, and answers what is queued with [`Error::Closed`].
    pub fn abandon(&self) {
        self.close();
        let jobs = std::mem::take(&mut self.lock().jobs);
        self.done(jobs.len());
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
