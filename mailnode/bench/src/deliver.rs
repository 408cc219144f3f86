//! Deliveries: a thread a connection, a shared counter that deals out the messages.

use crate::error::BenchError;
use crate::latency::Latencies;
use crate::messages::Messages;
use crate::options::Plan;
use crate::report::DeliveryLevel;
use crate::smtp::Client;
use crate::usage::Meter;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So many refusals in a row end a connection: the server will not change its mind.
const REFUSALS: u32 = 20;

/// What one connection, or all of them, achieved.
#[derive(Default)]
struct Tally {
    latencies: Latencies,
    acknowledged: u64,
    refused: u64,
    uncertain: u64,
    first_error: Option<String>,
}

impl Tally {
    fn append(&mut self, other: Self) {
        self.latencies.append(other.latencies);
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.uncertain += other.uncertain;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// One message to each user, whose number is returned: mailboxes come into being before the clock runs.
///
/// # Errors
/// If a server cannot be reached or refuses a user.
pub(crate) fn warm_up(plan: &Plan, messages: &Messages) -> Result<u64, BenchError> {
    let mut client = Client::connect(plan.protocol, Plan::dealt(&plan.targets, 0))?;
    for (number, user) in (0_u64..).zip(&plan.users) {
        let outcome =
            client.deliver(std::iter::once(user.as_str()), |out| messages.write(number, user, out))?;
        if let Some(refusal) = outcome.refusal {
            return Err(BenchError::Wrong(format!("the first message to {user} was refused: {refusal}")));
        }
    }
    client.quit();
    Ok(plan.users.len() as u64)
}

/// Delivers over so many connections; `next` is the number of the next message of this run.
///
/// # Errors
/// If a connection cannot be opened. One that breaks later is counted and reported.
pub(crate) fn level(
    plan: &Plan,
    messages: &Messages,
    meter: &Meter,
    connections: usize,
    next: &mut u64,
) -> Result<DeliveryLevel, BenchError> {
    let clients = (0..connections)
        .map(|number| Client::connect(plan.protocol, Plan::dealt(&plan.targets, number)))
        .collect::<Result<Vec<_>, _>>()?;
    let counter = AtomicU64::new(*next);
    let end = *next + plan.messages;
    let barrier = Barrier::new(connections + 1);
    let before = meter.read()?;
    let (tally, elapsed) = std::thread::scope(|scope| {
        let work = |client| {
            barrier.wait();
            connection(plan, messages, client, &counter, end)
        };
        let threads: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || work(client))).collect();
        barrier.wait();
        let begun = Instant::now();
        let mut tally = Tally::default();
        let mut last = Duration::ZERO;
        for thread in threads {
            match thread.join() {
                Ok((one, finished)) => {
                    tally.append(one);
                    last = last.max(finished.saturating_duration_since(begun));
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        (tally, last)
    });
    let used = meter.read()?.since(&before);
    *next = counter.load(Ordering::Relaxed).min(end);
    let seconds = elapsed.as_secs_f64().max(1e-6);
    Ok(DeliveryLevel {
        connections,
        acknowledged: tally.acknowledged,
        refused: tally.refused,
        uncertain: tally.uncertain,
        first_error: tally.first_error,
        seconds,
        per_second: tally.acknowledged as f64 / seconds,
        latency: tally.latencies.percentiles(),
        server_cpu_seconds: used.server_cpu_seconds,
        driver_cpu_seconds: used.driver_cpu_seconds,
        fsyncs_per_thousand: used
            .fsyncs
            .filter(|_| tally.acknowledged > 0)
            .map(|fsyncs| fsyncs * 1000.0 / tally.acknowledged as f64),
    })
}

/// Sends until the messages or the time are used up; says when the last answer came.
fn connection(
    plan: &Plan,
    messages: &Messages,
    mut client: Client,
    counter: &AtomicU64,
    end: u64,
) -> (Tally, Instant) {
    let mut tally = Tally::default();
    let mut refusals = 0;
    let begun = Instant::now();
    let mut now = begun;
    while now.duration_since(begun) < plan.time && refusals < REFUSALS {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        if number >= end {
            break;
        }
        let to = plan.recipients(number).next().unwrap_or_default();
        let outcome = client.deliver(plan.recipients(number), |out| messages.write(number, to, out));
        let answered = Instant::now();
        match outcome {
            Ok(outcome) => {
                let refused = plan.recipients.saturating_sub(outcome.acknowledged);
                tally.acknowledged += outcome.acknowledged as u64;
                tally.refused += refused as u64;
                tally.first_error = tally.first_error.take().or(outcome.refusal);
                refusals = if refused == 0 { 0 } else { refusals + 1 };
                if refused == 0 {
                    tally.latencies.record(answered.duration_since(now));
                }
            }
            Err(error) => {
                tally.uncertain += plan.recipients as u64;
                tally.first_error.get_or_insert_with(|| error.to_string());
                return (tally, answered);
            }
        }
        now = answered;
    }
    client.quit();
    (tally, now)
}
