//! One message of the queue, and its jobs.

use crate::problem::Problem;
use crate::route::Destination;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the queue must know of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its age when it was put into the queue, and when that was.
    pub age_since: Duration,
    pub learnt: Duration,
    /// Its sender knows that it is late.
    pub warned: bool,
    /// Recipients that are not done, by destination.
    pub recipients: BTreeMap<Destination, Vec<usize>>,
}

/// A message for one destination, taken by a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work<K> {
    pub id: K,
    /// Indexes into the envelope's recipients.
    pub recipients: Vec<usize>,
}

/// A message whose sender should know that it is late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late<K> {
    pub id: K,
    /// Who has not got it yet, and why.
    pub recipients: Vec<(usize, Problem)>,
}

#[derive(Debug)]
pub struct Job {
    pub recipients: Vec<usize>,
    pub due: Duration,
    pub active: bool,
    pub attempts: u32,
    pub last: Option<String>,
}

#[derive(Debug)]
pub struct Message {
    pub facts: Facts,
    pub jobs: BTreeMap<Destination, Job>,
}

/// For people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageView {
    pub age: Duration,
    pub jobs: Vec<JobView>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    pub destination: Destination,
    pub recipients: Vec<usize>,
    pub active: bool,
    pub attempts: u32,
    /// From now.
    pub next: Duration,
    pub last: Option<String>,
}

impl Message {
    pub fn new(mut facts: Facts, due: Duration) -> Self {
        let recipients = std::mem::take(&mut facts.recipients);
        let job = |recipients| Job { recipients, due, active: false, attempts: 0, last: None };
        Self {
            facts,
            jobs: recipients.into_iter().map(|(destination, indexes)| (destination, job(indexes))).collect(),
        }
    }

    pub fn age(&self, now: Duration) -> Duration {
        self.facts.age_since + now.saturating_sub(self.facts.learnt)
    }

    /// `next` says when a job will be tried, and the destination's last error.
    pub fn view(
        &self,
        now: Duration,
        next: impl Fn(&Destination, Duration) -> (Duration, Option<String>),
    ) -> MessageView {
        let jobs = self.jobs.iter().map(|(destination, job)| {
            let (due, error) = next(destination, job.due);
            JobView {
                destination: destination.clone(),
                recipients: job.recipients.clone(),
                active: job.active,
                attempts: job.attempts,
                next: due.saturating_sub(now),
                last: job.last.clone().or(error),
            }
        });
        MessageView { age: self.age(now), jobs: jobs.collect() }
    }
}
