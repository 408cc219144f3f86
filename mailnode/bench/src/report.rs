//! The figures: for people as a table, for programs as JSON.

use crate::error::BenchError;
use serde::Serialize;
use std::fmt::Write;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub protocol: &'static str,
    pub targets: Vec<String>,
    pub users: usize,
    /// Of each transaction.
    pub recipients: usize,
    pub seed: u64,
    /// Of the messages as sent.
    pub mean_bytes: f64,
    pub deliveries: Vec<DeliveryLevel>,
    pub reads: Vec<ReadLevel>,
    /// None if no IMAP server was named.
    pub count: Option<Count>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    pub p50_millis: f64,
    pub p99_millis: f64,
    pub max_millis: f64,
}

/// Deliveries with one number of connections. Messages are counted once a recipient.
#[derive(Clone, Debug, Serialize)]
pub struct DeliveryLevel {
    pub connections: usize,
    pub acknowledged: u64,
    pub refused: u64,
    /// The connection broke before the answer came.
    pub uncertain: u64,
    pub first_error: Option<String>,
    pub seconds: f64,
    pub per_second: f64,
    /// From MAIL to the last answer, of transactions without refusals.
    pub latency: Percentiles,
    pub server_cpu_seconds: Option<f64>,
    pub driver_cpu_seconds: f64,
    pub fsyncs_per_thousand: Option<f64>,
}

/// IMAP sessions, so many at a time.
#[derive(Clone, Debug, Serialize)]
pub struct ReadLevel {
    pub connections: usize,
    pub sessions: usize,
    pub messages: u64,
    /// Came back with other bytes than were sent.
    pub damaged: u64,
    pub megabytes: f64,
    pub seconds: f64,
    pub per_second: f64,
    /// Connection, TLS and LOGIN.
    pub log_in: Percentiles,
    pub select: Percentiles,
    pub fetch: Percentiles,
    pub server_cpu_seconds: Option<f64>,
    pub driver_cpu_seconds: f64,
}

/// Messages in all mailboxes before and after the run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Count {
    pub before: u64,
    pub acknowledged: u64,
    pub uncertain: u64,
    pub after: u64,
}

impl Count {
    /// Every acknowledged message is there, once.
    pub fn is_right(&self) -> bool {
        let least = self.before + self.acknowledged;
        (least..=least + self.uncertain).contains(&self.after)
    }
}

impl Report {
    pub fn table(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{} to {}: {} users, {} recipient(s) each, mean {:.0} bytes, seed {}\n",
            self.protocol,
            self.targets.join(" "),
            self.users,
            self.recipients,
            self.mean_bytes,
            self.seed
        );
        let _ = writeln!(
            out,
            "{:<8} {:>5} {:>9} {:>8} {:>9} {:>9} {:>9} {:>11} {:>11} {:>12}",
            "",
            "conns",
            "messages",
            "seconds",
            "per s",
            "p50 ms",
            "p99 ms",
            "server cpu",
            "driver cpu",
            "fsyncs/1000"
        );
        for level in &self.deliveries {
            let _ = writeln!(
                out,
                "{:<8} {:>5} {:>9} {:>8.2} {:>9.0} {:>9.2} {:>9.2} {:>11} {:>11.2} {:>12}",
                "deliver",
                level.connections,
                level.acknowledged,
                level.seconds,
                level.per_second,
                level.latency.p50_millis,
                level.latency.p99_millis,
                optional(level.server_cpu_seconds, 2),
                level.driver_cpu_seconds,
                optional(level.fsyncs_per_thousand, 0),
            );
        }
        for level in &self.reads {
            let _ = writeln!(
                out,
                "{:<8} {:>5} {:>9} {:>8.2} {:>9.0} {:>9.2} {:>9.2} {:>11} {:>11.2}   log-in p50 {:.1} ms, SELECT p50 {:.1} ms",
                "read",
                level.connections,
                level.messages,
                level.seconds,
                level.per_second,
                level.fetch.p50_millis,
                level.fetch.p99_millis,
                optional(level.server_cpu_seconds, 2),
                level.driver_cpu_seconds,
                level.log_in.p50_millis,
                level.select.p50_millis,
            );
        }
        if let Some(count) = &self.count {
            let _ = writeln!(
                out,
                "\ncount: {} before, {} acknowledged, {} after: {}",
                count.before,
                count.acknowledged,
                count.after,
                if count.is_right() { "right" } else { "WRONG" }
            );
        }
        out
    }

    /// # Errors
    /// If anything was refused, broken, damaged or missing: the first such thing.
    pub fn verdict(&self) -> Result<(), BenchError> {
        for level in &self.deliveries {
            if level.refused + level.uncertain > 0 {
                return Err(BenchError::Wrong(format!(
                    "at {} connections {} messages were refused and {} cut off: {}",
                    level.connections,
                    level.refused,
                    level.uncertain,
                    level.first_error.as_deref().unwrap_or("no reason given")
                )));
            }
        }
        if let Some(level) = self.reads.iter().find(|level| level.damaged > 0) {
            return Err(BenchError::Wrong(format!("{} messages came back with other bytes", level.damaged)));
        }
        match &self.count {
            Some(count) if !count.is_right() => Err(BenchError::Wrong(format!(
                "{} messages were there and {} were acknowledged, but {} are there now",
                count.before, count.acknowledged, count.after
            ))),
            _ => Ok(()),
        }
    }
}

fn optional(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_or_doubled_message_makes_the_count_wrong() {
        let count = |after, uncertain| Count { before: 5, acknowledged: 10, uncertain, after };
        assert!(count(15, 0).is_right());
        assert!(!count(14, 0).is_right());
        assert!(!count(16, 0).is_right());
        assert!(count(16, 1).is_right());
        assert!(!count(14, 1).is_right());
    }
}
