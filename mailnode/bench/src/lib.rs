//! `mailnode bench`: drives a mail server over its ports and prints what it did. The server may be any that
//! speaks LMTP or SMTP and IMAP, so that others can be measured with the same driver.
//!
//! A run: one message to each user (mailboxes come into being, missing users are found), then deliveries at each
//! number of connections, then IMAP sessions that read at each, then a count: what was acknowledged must be there.
//!
//! What holds:
//! - One message in flight a connection, commands pipelined within a transaction only (RFC 2920), as an ordinary
//!   MTA does it.
//! - Every message is different, whatever the seed, so that single-copy storage cannot help.
//! - Nothing is counted that the server did not acknowledge; what is read back is compared by checksum.
//! - The driver shares the machine with the server, so it is frugal (blocking threads, messages made beforehand,
//!   buffers kept) and reports its own CPU time.
//! - Everything is bounded: messages, time, connections, reply lines, memory.

mod deliver;
mod error;
mod imap;
mod latency;
mod messages;
mod options;
mod read;
mod report;
mod smtp;
mod stream;
mod usage;

pub use error::BenchError;
pub use options::{Options, Protocol};
pub use report::{Count, DeliveryLevel, Percentiles, ReadLevel, Report};

use messages::Messages;
use options::Plan;
use usage::Meter;

/// Runs the whole benchmark, prints a table, and writes the JSON file if one was asked for.
///
/// # Errors
/// If an option is wrong, a server cannot be reached, or what it did was not right: a refused message, a message
/// that came back different, acknowledged messages that are missing. Figures are printed in that case, too.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let report = measure(options)?;
    print!("{}", report.table());
    if let Some(path) = &options.json {
        let text =
            serde_json::to_string_pretty(&report).map_err(|error| BenchError::Option(error.to_string()))?;
        std::fs::write(path, text + "\n")
            .map_err(|error| BenchError::Option(format!("--json {}: {error}", path.display())))?;
    }
    report.verdict()
}

/// Runs the whole benchmark and gives its figures, right or wrong.
///
/// # Errors
/// If an option is wrong or a server cannot be reached or used at all.
pub fn measure(options: &Options) -> Result<Report, BenchError> {
    let plan = Plan::new(options)?;
    let messages = Messages::generate(plan.seed, plan.bodies());
    let meter = Meter::new(&options.pid, &options.metrics);
    let before = if plan.imap.is_empty() { None } else { Some(read::count(&plan)?) };
    let mut next = deliver::warm_up(&plan, &messages)?;
    let mut acknowledged = next;
    let mut uncertain = 0;
    let mut deliveries = Vec::with_capacity(plan.connections.len());
    for &connections in &plan.connections {
        let level = deliver::level(&plan, &messages, &meter, connections, &mut next)?;
        acknowledged += level.acknowledged;
        uncertain += level.uncertain;
        deliveries.push(level);
    }
    let mut reads = Vec::new();
    let mut count = None;
    if let Some(before) = before {
        if plan.read_per_user > 0 {
            for &connections in &plan.connections {
                reads.push(read::level(&plan, &meter, connections)?);
            }
        }
        count = Some(Count { before, acknowledged, uncertain, after: read::count(&plan)? });
    }
    Ok(Report {
        protocol: plan.protocol.name(),
        targets: options.target.clone(),
        users: plan.users.len(),
        recipients: plan.recipients,
        seed: plan.seed,
        mean_bytes: messages.mean_bytes(),
        deliveries,
        reads,
        count,
    })
}
