//! Operations under way: deliveries and retrievals, with what each waits for.

use super::Mail;
use crate::Time;
use cluster::{ReplicaWrite, StoreCall};

/// A place in [`Jobs`], and whose it was: what comes late for another is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobId {
    at: u32,
    number: u32,
}

/// Somebody who was asked, and in which of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub node: usize,
    pub life: u32,
    pub since: Time,
}

pub struct Job {
    pub connection: usize,
    pub front: usize,
    pub user: usize,
    pub began: Time,
    pub kind: Kind,
}

pub enum Kind {
    Delivery(Delivery),
    Retrieval(Retrieval),
}

pub struct Delivery {
    pub size: u32,
    /// The manager that is asked now; None when it has answered.
    pub manager: Option<Asked>,
    /// Managers that did not answer.
    pub tried: Vec<usize>,
    pub write: ReplicaWrite,
    pub calls: Vec<(StoreCall, Asked)>,
}

/// A session that reads and deletes all mail of a user.
pub struct Retrieval {
    pub manager: Asked,
    pub step: Step,
    pub parts: Vec<Part>,
    /// Parts without an answer.
    pub open: usize,
    pub mails: Vec<Mail>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The manager reads the fragments.
    Fragments,
    /// The front reads bodies from their replicas.
    Bodies,
    /// The manager writes tombstones to the replicas.
    Tombstones,
}

/// One node's share of a step.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub asked: Asked,
    pub count: u64,
    pub bytes: u64,
    /// Reads that the disk has not done yet.
    pub reads: u64,
    pub answered: bool,
}

#[derive(Default)]
pub struct Jobs {
    places: Vec<(u32, Option<Job>)>,
    free: Vec<u32>,
}

impl Jobs {
    pub fn insert(&mut self, job: Job) -> JobId {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[at as usize];
        place.0 = place.0.wrapping_add(1);
        place.1 = Some(job);
        JobId { at, number: place.0 }
    }

    pub fn job(&mut self, id: JobId) -> Option<&mut Job> {
        self.places.get_mut(id.at as usize).filter(|place| place.0 == id.number)?.1.as_mut()
    }

    pub fn remove(&mut self, id: JobId) -> Option<Job> {
        let place = self.places.get_mut(id.at as usize).filter(|place| place.0 == id.number)?;
        let job = place.1.take()?;
        self.free.push(id.at);
        Some(job)
    }

    pub fn ids(&self) -> Vec<JobId> {
        let taken = self.places.iter().enumerate().filter(|(_, place)| place.1.is_some());
        taken.map(|(at, place)| JobId { at: at as u32, number: place.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(user: usize) -> Job {
        let delivery = Delivery {
            size: 1,
            manager: None,
            tried: Vec::new(),
            write: ReplicaWrite::new(1, 1, Vec::new()),
            calls: Vec::new(),
        };
        Job { connection: 0, front: 0, user, began: 0, kind: Kind::Delivery(delivery) }
    }

    #[test]
    fn a_place_that_was_taken_again_is_not_the_old_job() {
        let mut jobs = Jobs::default();
        let first = jobs.insert(job(1));
        assert!(jobs.remove(first).is_some());
        let second = jobs.insert(job(2));
        assert!(jobs.job(first).is_none() && jobs.remove(first).is_none());
        assert_eq!(jobs.job(second).map(|job| job.user), Some(2));
        assert_eq!(jobs.ids(), [second]);
    }
}
