//! Destinations: the jobs that wait for each, its connections, and its rest after failures.

use crate::problem::Problem;
use crate::route::Destination;
use crate::schedule::Schedule;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug)]
struct State<K> {
    waiting: BTreeSet<(Duration, K)>,
    connections: usize,
    /// Jobs that were taken and not settled yet.
    busy: usize,
    /// Failures in a row.
    failures: u32,
    rests_until: Duration,
    last_error: Option<String>,
}

/// States that have neither jobs nor connections are dropped, so there are no more than jobs and connections.
#[derive(Debug)]
pub struct Destinations<K> {
    states: BTreeMap<Destination, State<K>>,
    /// When each destination with jobs wants its next connection. Those that have all they may have are in it, too, and
    /// are skipped.
    wanting: BTreeSet<(Duration, Destination)>,
}

impl<K: Copy + Ord> State<K> {
    const fn new() -> Self {
        Self {
            waiting: BTreeSet::new(),
            connections: 0,
            busy: 0,
            failures: 0,
            rests_until: Duration::ZERO,
            last_error: None,
        }
    }

    /// When it wants its next connection, limits aside.
    fn wants(&self) -> Option<Duration> {
        self.waiting.first().map(|(due, _)| self.rests_until.max(*due))
    }

    /// Not more than it has jobs for; after failures one connection has to work first.
    fn may_have(&self, most: usize) -> bool {
        let idle = self.connections.saturating_sub(self.busy);
        self.waiting.len() > idle && self.connections < if self.failures > 0 { 1 } else { most }
    }
}

impl<K: Copy + Ord> Destinations<K> {
    pub const fn new() -> Self {
        Self { states: BTreeMap::new(), wanting: BTreeSet::new() }
    }

    /// Changes a destination's state and keeps `wanting` in step.
    fn change<T>(&mut self, destination: &Destination, change: impl FnOnce(&mut State<K>) -> T) -> T {
        let state = self.states.entry(destination.clone()).or_insert_with(State::new);
        let before = state.wants();
        let outcome = change(state);
        let after = state.wants();
        if before != after {
            if let Some(before) = before {
                self.wanting.remove(&(before, destination.clone()));
            }
            if let Some(after) = after {
                self.wanting.insert((after, destination.clone()));
            }
        }
        if state.waiting.is_empty() && state.connections == 0 && state.failures == 0 {
            self.states.remove(destination);
        }
        outcome
    }

    pub fn wait(&mut self, destination: &Destination, due: Duration, id: K) {
        self.change(destination, |state| state.waiting.insert((due, id)));
    }

    pub fn forget(&mut self, destination: &Destination, due: Duration, id: K) {
        self.change(destination, |state| {
            state.waiting.remove(&(due, id));
            // Nobody would ever try whether it works again.
            if state.waiting.is_empty() && state.connections == 0 {
                state.failures = 0;
            }
        });
    }

    /// A destination that wants a connection and may have one.
    pub fn connect(&mut self, now: Duration, most: usize) -> Option<Destination> {
        let destination = self
            .wanting
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, destination)| destination)
            .find(|destination| self.states.get(destination).is_some_and(|state| state.may_have(most)))?
            .clone();
        self.change(&destination, |state| state.connections += 1);
        Some(destination)
    }

    pub fn release(&mut self, destination: &Destination) {
        self.change(destination, |state| {
            state.connections = state.connections.saturating_sub(1);
            if state.waiting.is_empty() && state.connections == 0 {
                state.failures = 0;
            }
        });
    }

    /// The job that has been due for longest.
    pub fn take(&mut self, destination: &Destination, now: Duration) -> Option<K> {
        self.change(destination, |state| {
            let &(due, id) = state.waiting.first().filter(|(due, _)| *due <= now)?;
            state.waiting.remove(&(due, id));
            state.busy += 1;
            Some(id)
        })
    }

    /// A job that was taken is settled.
    pub fn ended(&mut self, destination: &Destination) {
        if self.states.contains_key(destination) {
            self.change(destination, |state| state.busy = state.busy.saturating_sub(1));
        }
    }

    pub fn next_event(&self, most: usize) -> Option<Duration> {
        let mut wanting = self.wanting.iter();
        let may_have = |destination: &Destination| {
            self.states.get(destination).is_some_and(|state| state.may_have(most))
        };
        wanting.find(|(_, destination)| may_have(destination)).map(|(at, _)| *at)
    }

    pub fn failed(
        &mut self,
        destination: &Destination,
        schedule: &Schedule,
        why: &Problem,
        now: Duration,
        random: u64,
    ) {
        self.change(destination, |state| {
            // Several connections may fail at once; that is one failure.
            if state.rests_until <= now {
                state.failures = state.failures.saturating_add(1);
                state.rests_until = now + schedule.back_off(state.failures, random);
            }
            state.last_error = Some(why.to_string());
        });
    }

    pub fn works(&mut self, destination: &Destination) {
        if self.states.contains_key(destination) {
            self.change(destination, |state| {
                state.failures = 0;
                state.rests_until = Duration::ZERO;
                state.last_error = None;
            });
        }
    }

    pub fn rests_until(&self, destination: &Destination) -> Option<Duration> {
        self.states.get(destination).map(|state| state.rests_until)
    }

    pub fn last_error(&self, destination: &Destination) -> Option<String> {
        self.states.get(destination)?.last_error.clone()
    }
}
