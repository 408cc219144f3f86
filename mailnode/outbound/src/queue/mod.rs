//! What a holder has to send, and when: messages by recipients' destinations, limits for all and for each
//! destination, rests of destinations that fail. Soft state: a new holder begins with an empty one and is given what
//! the disks have.
//!
//! A *job* is one message for one destination. The shell asks for a [`Queue::connection`] whenever something may have
//! become due; for that destination it then takes jobs one after the other ([`Queue::take`]) over one connection, says
//! what came of each ([`Queue::judge`], [`Queue::settle`]), and gives the connection back ([`Queue::release`]).
//!
//! - A job is taken by one connection at a time.
//! - No more than [`Limits::connections`], and no more than [`Limits::per_destination`] to one destination. One that
//!   failed is left alone for a while, and then gets one connection until that works.
//! - A message that is too old is given up, whatever its destination does.
//!
//! Times are durations since any moment that the shell chooses, by a clock that never goes back.

mod destinations;
mod message;

pub use message::{Facts, JobView, Late, MessageView, Work};

use crate::client::Outcome;
use crate::problem::Problem;
use crate::route::Destination;
use crate::schedule::Schedule;
use destinations::Destinations;
use message::Message;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections to all destinations.
    pub connections: usize,
    pub per_destination: usize,
    /// Messages in memory; those beyond wait on disk.
    pub messages: usize,
}

/// What to do about the recipients of a job that was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Indexes into the envelope's recipients, and what the server said.
    pub delivered: Vec<(usize, String)>,
    /// To be reported to the sender; `true` if it was given up because it is too old.
    pub failed: Vec<(usize, Problem, bool)>,
    pub deferred: Vec<usize>,
}

/// `K` names a message.
#[derive(Debug)]
pub struct Queue<K> {
    limits: Limits,
    schedule: Schedule,
    messages: BTreeMap<K, Message>,
    destinations: Destinations<K>,
    connections: usize,
}

impl<K: Copy + Ord> Queue<K> {
    pub const fn new(limits: Limits, schedule: Schedule) -> Self {
        Self {
            limits,
            schedule,
            messages: BTreeMap::new(),
            destinations: Destinations::new(),
            connections: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.messages.len() >= self.limits.messages
    }

    pub fn contains(&self, id: K) -> bool {
        self.messages.contains_key(&id)
    }

    pub fn ids(&self) -> impl Iterator<Item = K> {
        self.messages.keys().copied()
    }

    /// Connections in use.
    pub const fn connections(&self) -> usize {
        self.connections
    }

    /// Age of the oldest message; zero if there is none.
    pub fn oldest(&self, now: Duration) -> Duration {
        self.messages.values().map(|message| message.age(now)).max().unwrap_or_default()
    }

    /// A message that is new here, to be tried from `due` on. False if it is known or the queue is full.
    pub fn insert(&mut self, id: K, facts: Facts, due: Duration) -> bool {
        if self.contains(id) || self.is_full() {
            return false;
        }
        let message = Message::new(facts, due);
        for destination in message.jobs.keys() {
            self.destinations.wait(destination, due, id);
        }
        self.messages.insert(id, message);
        true
    }

    /// The message is gone, or somebody else's.
    pub fn remove(&mut self, id: K) {
        let Some(message) = self.messages.remove(&id) else { return };
        for (destination, job) in &message.jobs {
            self.destinations.forget(destination, job.due, id);
        }
    }

    /// The destination of a connection that is to be opened now. Give it back with [`Queue::release`].
    pub fn connection(&mut self, now: Duration) -> Option<Destination> {
        if self.connections >= self.limits.connections {
            return None;
        }
        let destination = self.destinations.connect(now, self.limits.per_destination)?;
        self.connections += 1;
        Some(destination)
    }

    pub fn release(&mut self, destination: &Destination) {
        self.connections = self.connections.saturating_sub(1);
        self.destinations.release(destination);
    }

    /// The next job that is due there. It ends with [`Queue::settle`] or [`Queue::give_back`].
    pub fn take(&mut self, destination: &Destination, now: Duration) -> Option<Work<K>> {
        loop {
            let id = self.destinations.take(destination, now)?;
            let Some(job) = self.messages.get_mut(&id).and_then(|message| message.jobs.get_mut(destination))
            else {
                continue;
            };
            job.active = true;
            return Some(Work { id, recipients: job.recipients.clone() });
        }
    }

    /// When something can be done that cannot be done now. None: not before something else happens.
    pub fn next_event(&self) -> Option<Duration> {
        if self.connections >= self.limits.connections {
            return None;
        }
        self.destinations.next_event(self.limits.per_destination)
    }

    /// What the outcomes of a job mean, with the message's age. Nothing is changed yet: what is decided here is first
    /// made durable.
    pub fn judge(&self, work: &Work<K>, outcomes: Vec<Outcome>, now: Duration) -> Judgement {
        let old = self.messages.get(&work.id).is_some_and(|message| message.age(now) >= self.schedule.expiry);
        let mut judgement = Judgement::default();
        for (&recipient, outcome) in work.recipients.iter().zip(outcomes) {
            match outcome {
                Outcome::Delivered(text) => judgement.delivered.push((recipient, text)),
                Outcome::Failed(problem) if problem.permanent => {
                    judgement.failed.push((recipient, problem, false));
                }
                Outcome::Failed(problem) if old => judgement.failed.push((recipient, problem, true)),
                Outcome::Failed(_) => judgement.deferred.push(recipient),
            }
        }
        judgement
    }

    /// These recipients of a message are done, wherever they were handled. True if none is left; None if the message is
    /// not here, so that nothing is known of the others.
    pub fn done(&mut self, id: K, recipients: &[usize]) -> Option<bool> {
        let message = self.messages.get_mut(&id)?;
        let mut empty = Vec::new();
        for (destination, job) in &mut message.jobs {
            job.recipients.retain(|recipient| !recipients.contains(recipient));
            if job.recipients.is_empty() && !job.active {
                empty.push((destination.clone(), job.due));
            }
        }
        for (destination, due) in empty {
            message.jobs.remove(&destination);
            self.destinations.forget(&destination, due, id);
        }
        Some(message.jobs.values().all(|job| job.recipients.is_empty()))
    }

    /// The job is over for now: what is left of it is tried again later. `last` is why.
    pub fn settle(
        &mut self,
        work: &Work<K>,
        destination: &Destination,
        last: Option<&Problem>,
        now: Duration,
        random: u64,
    ) {
        self.destinations.ended(destination);
        let Some(message) = self.messages.get_mut(&work.id) else { return };
        let age = message.age(now);
        let Some(job) = message.jobs.get_mut(destination).filter(|job| job.active) else { return };
        if job.recipients.is_empty() {
            message.jobs.remove(destination);
            return;
        }
        job.active = false;
        job.attempts += 1;
        job.last = last.map(ToString::to_string);
        // Not past the expiry, so that the sender hears of it then.
        let left = self.schedule.expiry.saturating_sub(age).max(Duration::from_millis(100));
        job.due = now + self.schedule.wait(age, random).min(left);
        self.destinations.wait(destination, job.due, work.id);
    }

    /// Gives a job back that was not tried.
    pub fn give_back(&mut self, work: &Work<K>, destination: &Destination) {
        self.destinations.ended(destination);
        let job = self.messages.get_mut(&work.id).and_then(|message| message.jobs.get_mut(destination));
        if let Some(job) = job.filter(|job| job.active) {
            job.active = false;
            self.destinations.wait(destination, job.due, work.id);
        }
    }

    /// No host of the destination can be used: it rests.
    pub fn destination_failed(
        &mut self,
        destination: &Destination,
        why: &Problem,
        now: Duration,
        random: u64,
    ) {
        self.destinations.failed(destination, &self.schedule, why, now, random);
    }

    /// It works (again).
    pub fn destination_works(&mut self, destination: &Destination) {
        self.destinations.works(destination);
    }

    /// Messages whose senders should know now that they are late, at most `most`; each is given once. Those for lists are not: their
    /// members are here.
    pub fn late(&mut self, now: Duration, most: usize) -> Vec<Late<K>> {
        let (schedule, destinations) = (&self.schedule, &self.destinations);
        let is_late = |message: &Message| !message.facts.warned && schedule.is_late(message.age(now));
        let messages = self.messages.iter_mut().filter(|(_, message)| is_late(message)).take(most);
        let late = messages.map(|(&id, message)| {
            message.facts.warned = true;
            let jobs = message.jobs.iter().filter(|(destination, _)| **destination != Destination::lists());
            let recipients = jobs.flat_map(|(destination, job)| {
                let last = job.last.clone().or_else(|| destinations.last_error(destination));
                let text = last.unwrap_or_else(|| "it could not be tried yet".into());
                // RFC 3463 3.5: no more is known of what was deferred than its text.
                let problem = Problem::temporary(4, 0, text);
                job.recipients.iter().map(move |&recipient| (recipient, problem.clone()))
            });
            Late { id, recipients: recipients.collect() }
        });
        late.filter(|late| !late.recipients.is_empty()).collect()
    }

    /// The sender of a late message could not be told.
    pub fn warn_again(&mut self, id: K) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.facts.warned = false;
        }
    }

    /// Takes the jobs of messages that are too old and wait, at most `most`, with the last error of each.
    pub fn expired(&mut self, now: Duration, most: usize) -> Vec<(Work<K>, Destination, Problem)> {
        let mut expired = Vec::new();
        for (&id, message) in &mut self.messages {
            if message.age(now) < self.schedule.expiry {
                continue;
            }
            for (destination, job) in message.jobs.iter_mut().filter(|(_, job)| !job.active) {
                if expired.len() >= most {
                    return expired;
                }
                job.active = true;
                let last = job.last.clone().or_else(|| self.destinations.last_error(destination));
                self.destinations.forget(destination, job.due, id);
                let text = last.unwrap_or_else(|| "it could not be tried in time".into());
                let work = Work { id, recipients: job.recipients.clone() };
                // RFC 3463 3.5: delivery time expired.
                expired.push((work, destination.clone(), Problem::temporary(4, 7, text)));
            }
        }
        expired
    }

    /// Tries a message now, whatever the schedule says, and its destinations too. False if it is not here.
    pub fn retry(&mut self, id: K, now: Duration) -> bool {
        let Some(message) = self.messages.get_mut(&id) else { return false };
        for (destination, job) in &mut message.jobs {
            self.destinations.works(destination);
            if !job.active {
                self.destinations.forget(destination, job.due, id);
                job.due = now;
                self.destinations.wait(destination, now, id);
            }
        }
        true
    }

    pub fn view(&self, id: K, now: Duration) -> Option<MessageView> {
        let message = self.messages.get(&id)?;
        Some(message.view(now, |destination, due| {
            let rest = self.destinations.rests_until(destination);
            (rest.map_or(due, |rest| rest.max(due)), self.destinations.last_error(destination))
        }))
    }
}

#[cfg(test)]
mod tests;
