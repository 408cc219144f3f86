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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Options, Protocol};
    use clap::Parser;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::Arc;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    /// What a server does with a message when it has all of it.
    type Judge = fn(u64) -> Option<&'static str>;

    /// An LMTP server for single recipients that counts the messages it got; it closes where the judge gives no
    /// reply.
    fn server(judge: Judge) -> (String, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, count) = (stream.unwrap(), Arc::clone(&counted));
                std::thread::spawn(move || -> std::io::Result<()> {
                    stream.write_all(b"220 x\r\n")?;
                    let mut in_data = false;
                    for line in BufReader::new(stream.try_clone()?).lines() {
                        let line = line?;
                        let reply = match (in_data, line.as_str()) {
                            (true, ".") => match judge(count.fetch_add(1, Ordering::Relaxed) + 1) {
                                Some(reply) => reply,
                                None => return Ok(()),
                            },
                            (true, _) => continue,
                            (false, "DATA") => "354 go\r\n",
                            (false, _) if line.starts_with("LHLO") => "250-x\r\n250 PIPELINING\r\n",
                            (false, _) => "250 ok\r\n",
                        };
                        in_data = reply.starts_with("354");
                        stream.write_all(reply.as_bytes())?;
                    }
                    Ok(())
                });
            }
        });
        (address, count)
    }

    fn run(targets: &[&str], arguments: &str) -> (DeliveryLevel, u64) {
        let targets = targets.iter().flat_map(|target| ["--target", target]);
        let arguments = ["bench"].into_iter().chain(targets).chain(arguments.split_whitespace());
        let plan = Plan::new(&Cli::parse_from(arguments).options).unwrap();
        assert_eq!(plan.protocol, Protocol::Lmtp);
        let messages = Messages::generate(1, 20);
        let mut next = 0;
        let level = level(&plan, &messages, &Meter::new(&[], &[]), plan.connections[0], &mut next).unwrap();
        (level, next)
    }

    #[test]
    fn all_messages_are_sent_once_and_connections_are_dealt_over_the_servers() {
        let (one, of_one) = server(|_| Some("250 ok\r\n"));
        let (two, of_two) = server(|_| Some("250 ok\r\n"));
        let (level, next) = run(&[&one, &two], "--connections 4 --messages 200");
        let (of_one, of_two) = (of_one.load(Ordering::Relaxed), of_two.load(Ordering::Relaxed));
        assert!(of_one > 0 && of_two > 0);
        assert_eq!((level.acknowledged, level.refused, level.uncertain), (200, 0, 0));
        assert_eq!((of_one + of_two, next), (200, 200));
    }

    #[test]
    fn a_message_without_an_answer_is_uncertain_and_the_others_go_on() {
        let (address, _) = server(|number| if number == 10 { None } else { Some("250 ok\r\n") });
        let (level, next) = run(&[&address], "--connections 3 --messages 60");
        assert_eq!((level.acknowledged, level.refused, level.uncertain, next), (59, 0, 1, 60));
        assert!(level.first_error.is_some());
    }

    #[test]
    fn a_server_that_refuses_everything_is_not_asked_for_ever() {
        let (address, count) = server(|_| Some("452 4.2.2 full\r\n"));
        let (level, _) = run(&[&address], "--connections 2 --messages 5000");
        assert_eq!((level.acknowledged, level.refused), (0, 2 * u64::from(REFUSALS)));
        assert_eq!(count.load(Ordering::Relaxed), 2 * u64::from(REFUSALS));
        assert_eq!(level.first_error.as_deref(), Some("452 4.2.2 full"));
    }

    #[test]
    fn time_ends_a_level() {
        let (address, _) = server(|_| Some("250 ok\r\n"));
        let begun = Instant::now();
        let (level, next) = run(&[&address], "--connections 2 --seconds 1");
        assert!(level.acknowledged > 0 && level.acknowledged == next);
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
