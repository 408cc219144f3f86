//! IMAP sessions, one for each user, a number of them at a time: they read, or they count.

use crate::error::BenchError;
use crate::imap::Client;
use crate::latency::Latencies;
use crate::messages::{self, Verdict};
use crate::options::Plan;
use crate::report::ReadLevel;
use crate::usage::Meter;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Sessions at a time when it is not about speed.
const COUNTERS: usize = 8;

#[derive(Default)]
struct Tally {
    log_ins: Latencies,
    selects: Latencies,
    fetches: Latencies,
    messages: u64,
    damaged: u64,
    bytes: u64,
}

/// How many messages all the users have.
///
/// # Errors
/// If a session fails.
pub(crate) fn count(plan: &Plan) -> Result<u64, BenchError> {
    let sums = for_each_user(plan, COUNTERS, |server, user, sum: &mut u64| {
        let mut client = Client::log_in(server, &plan.security, user, &plan.password)?;
        *sum += client.status()?;
        client.log_out()
    })?;
    Ok(sums.into_iter().sum())
}

/// A session for each user, so many at a time, in which the newest messages are read one by one.
///
/// # Errors
/// If a session fails.
pub(crate) fn level(plan: &Plan, meter: &Meter, connections: usize) -> Result<ReadLevel, BenchError> {
    let before = meter.read()?;
    let begun = Instant::now();
    let tallies = for_each_user(plan, connections, |server, user, tally| session(plan, server, user, tally))?;
    let seconds = begun.elapsed().as_secs_f64().max(1e-6);
    let used = meter.read()?.since(&before);
    let mut all = Tally::default();
    for tally in tallies {
        all.log_ins.append(tally.log_ins);
        all.selects.append(tally.selects);
        all.fetches.append(tally.fetches);
        all.messages += tally.messages;
        all.damaged += tally.damaged;
        all.bytes += tally.bytes;
    }
    Ok(ReadLevel {
        connections,
        sessions: plan.users.len(),
        messages: all.messages,
        damaged: all.damaged,
        megabytes: all.bytes as f64 / 1e6,
        seconds,
        per_second: all.messages as f64 / seconds,
        log_in: all.log_ins.percentiles(),
        select: all.selects.percentiles(),
        fetch: all.fetches.percentiles(),
        server_cpu_seconds: used.server_cpu_seconds,
        driver_cpu_seconds: used.driver_cpu_seconds,
    })
}

fn session(plan: &Plan, server: &str, user: &str, tally: &mut Tally) -> Result<(), BenchError> {
    let mut clock = Instant::now();
    let mut lap = || {
        let lap: Duration = clock.elapsed();
        clock = Instant::now();
        lap
    };
    let mut client = Client::log_in(server, &plan.security, user, &plan.password)?;
    tally.log_ins.record(lap());
    let exists = client.select()?;
    tally.selects.record(lap());
    for number in exists.saturating_sub(plan.read_per_user) + 1..=exists {
        let (verdict, size) = client.fetch(number, |body| (messages::check(body), body.len()))?;
        tally.fetches.record(lap());
        tally.messages += 1;
        tally.damaged += u64::from(verdict == Verdict::Damaged);
        tally.bytes += size as u64;
    }
    client.log_out()
}

/// Calls `visit` for every user, on so many threads; each thread has a tally, and all are returned. The first
/// error ends it.
fn for_each_user<T: Default + Send>(
    plan: &Plan,
    threads: usize,
    visit: impl Fn(&str, &str, &mut T) -> Result<(), BenchError> + Sync,
) -> Result<Vec<T>, BenchError> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let deadline = Instant::now() + plan.time;
    let work = |thread: usize| {
        let mut tally = T::default();
        while !failed.load(Ordering::Relaxed) {
            let Some(user) = plan.users.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let outcome = if Instant::now() < deadline {
                visit(Plan::dealt(&plan.imap, thread), user, &mut tally)
            } else {
                Err(BenchError::Wrong(format!("IMAP sessions took longer than {} s", plan.time.as_secs())))
            };
            if let Err(error) = outcome {
                failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(tally)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
