//! The command line, and the checked plan that is made of it.

use crate::error::BenchError;
use crate::stream::Security;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

const MAX_CONNECTIONS: usize = 1024;
const MAX_USERS: usize = 100_000;
/// Most messages of one level: their latencies are kept, 4 bytes each.
const MAX_MESSAGES: u64 = 10_000_000;
/// Longest level.
const MAX_SECONDS: u64 = 600;
/// Distinct bodies; about 10 MB.
const BODIES: u64 = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Lmtp,
    Smtp,
}

impl Protocol {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lmtp => "lmtp",
            Self::Smtp => "smtp",
        }
    }
}

/// Drive a mail server over its ports and print what it did.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Protocol of the deliveries.
    #[arg(long, value_enum, default_value = "lmtp")]
    pub protocol: Protocol,
    /// host:port to deliver to; may be repeated, connections are dealt over them in turn.
    #[arg(long = "target", required = true, value_name = "HOST:PORT")]
    pub target: Vec<String>,
    /// Numbers of connections, one level of the benchmark each.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    pub connections: Vec<usize>,
    /// Messages of each level (default 5000, or no such limit if --seconds is given).
    #[arg(long)]
    pub messages: Option<u64>,
    /// Seconds of each level (default: 600 at most).
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Number of users; each gets one message before the measured ones.
    #[arg(long, default_value_t = 200)]
    pub users: usize,
    /// Domain of the users' addresses.
    #[arg(long, default_value = "example.org")]
    pub domain: String,
    /// Local part of the users' addresses; {n} is the number of the user, from 1.
    #[arg(long, default_value = "user{n}")]
    pub user_format: String,
    /// Recipients of each transaction.
    #[arg(long, default_value_t = 1)]
    pub recipients: usize,
    /// host:port of IMAP; may be repeated. Absent: nothing is read, nothing is counted.
    #[arg(long, value_name = "HOST:PORT", requires = "password_file")]
    pub imap: Vec<String>,
    /// PEM file with the CA of the IMAP servers, which then speak TLS from the start. Absent: no TLS.
    #[arg(long, value_name = "FILE")]
    pub imap_ca: Option<PathBuf>,
    /// File with the one password of all users.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Messages that each IMAP session reads, the newest ones; there is a session for each user.
    #[arg(long, default_value_t = 20)]
    pub read_per_user: u32,
    /// Process of the server, whose CPU time, with that of its children, is reported; may be repeated.
    #[arg(long)]
    pub pid: Vec<u32>,
    /// Metrics of a Prickle node (http://host:port/metrics), from which fsyncs are counted; may be repeated.
    #[arg(long, value_name = "URL")]
    pub metrics: Vec<String>,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Sizes and recipients follow from it.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Options that were checked.
pub(crate) struct Plan {
    pub protocol: Protocol,
    pub targets: Vec<String>,
    pub connections: Vec<usize>,
    pub messages: u64,
    pub time: Duration,
    pub users: Vec<String>,
    pub recipients: usize,
    pub imap: Vec<String>,
    pub security: Security,
    pub password: String,
    pub read_per_user: u32,
    pub seed: u64,
}

fn wrong<T>(text: impl Into<String>) -> Result<T, BenchError> {
    Err(BenchError::Option(text.into()))
}

impl Plan {
    pub(crate) fn new(options: &Options) -> Result<Self, BenchError> {
        if options.target.is_empty() {
            return wrong("--target: at least one");
        }
        if options.connections.is_empty()
            || options.connections.iter().any(|&number| number == 0 || number > MAX_CONNECTIONS)
        {
            return wrong(format!("--connections: each 1 to {MAX_CONNECTIONS}"));
        }
        if !(1..=MAX_USERS).contains(&options.users) {
            return wrong(format!("--users: 1 to {MAX_USERS}"));
        }
        if !(1..=options.users.min(1000)).contains(&options.recipients) {
            return wrong("--recipients: 1 to 1000, and not more than --users");
        }
        if options.messages.is_some_and(|messages| messages == 0 || messages > MAX_MESSAGES) {
            return wrong(format!("--messages: 1 to {MAX_MESSAGES}"));
        }
        if options.seconds.is_some_and(|seconds| seconds == 0 || seconds > MAX_SECONDS) {
            return wrong(format!("--seconds: 1 to {MAX_SECONDS}"));
        }
        if options.users > 1 && !options.user_format.contains("{n}") {
            return wrong("--user-format: must contain {n}");
        }
        // An address that is plain enough for RCPT, a header field and a quoted IMAP string.
        let plain = |text: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+{}".contains(&byte);
            !text.is_empty() && text.len() <= 200 && text.bytes().all(good)
        };
        if !plain(&options.user_format) || !plain(&options.domain) {
            return wrong("--user-format, --domain: letters, digits, '-', '_', '+' and '.' only");
        }
        let password = match &options.password_file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| BenchError::Option(format!("--password-file {}: {error}", path.display())))?
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
            None => String::new(),
        };
        if password.len() > 200 || password.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            return wrong("--password-file: one line of printable ASCII, at most 200 characters");
        }
        let security = match &options.imap_ca {
            Some(path) => Security::tls(path)?,
            None => Security::Plain,
        };
        let default_messages = if options.seconds.is_some() { MAX_MESSAGES } else { 5000 };
        Ok(Self {
            protocol: options.protocol,
            targets: options.target.clone(),
            connections: options.connections.clone(),
            messages: options.messages.unwrap_or(default_messages),
            time: Duration::from_secs(options.seconds.unwrap_or(MAX_SECONDS)),
            users: (1..=options.users)
                .map(|number| options.user_format.replace("{n}", &number.to_string()) + "@" + &options.domain)
                .collect(),
            recipients: options.recipients,
            imap: options.imap.clone(),
            security,
            password,
            read_per_user: options.read_per_user,
            seed: options.seed,
        })
    }

    /// How many bodies to make: no more than are sent.
    pub(crate) fn bodies(&self) -> u64 {
        self.messages.min(BODIES)
    }

    /// The server that the connection of this number goes to. The plan has at least one.
    pub(crate) fn dealt(servers: &[String], connection: usize) -> &str {
        servers.get(connection % servers.len().max(1)).map_or("", String::as_str)
    }

    /// Recipients of a message: any user by the seed, and its neighbours.
    pub(crate) fn recipients(&self, number: u64) -> impl Iterator<Item = &str> {
        let users = self.users.len();
        let first = usize::try_from(mix(self.seed ^ number) % users.max(1) as u64).unwrap_or(0);
        self.users.iter().cycle().skip(first).take(self.recipients).map(String::as_str)
    }
}

/// Spreads the bits of a counter (the finalizer of SplitMix64).
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::HashMap;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn plan(arguments: &str) -> Result<Plan, BenchError> {
        let arguments = ["bench", "--target", "127.0.0.1:1"].into_iter().chain(arguments.split_whitespace());
        Plan::new(
            &Cli::try_parse_from(arguments).map_err(|error| BenchError::Option(error.to_string()))?.options,
        )
    }

    #[test]
    fn users_are_numbered_from_one() {
        let plan = plan("--users 3 --user-format u{n}x --domain example.net").unwrap();
        assert_eq!(plan.users, ["u1x@example.net", "u2x@example.net", "u3x@example.net"]);
        assert_eq!(plan.connections, [1, 8, 32]);
        assert_eq!(plan.messages, 5000);
    }

    #[test]
    fn a_wrong_option_is_named() {
        for (arguments, name) in [
            ("--connections 0", "--connections"),
            ("--connections 1,5000", "--connections"),
            ("--users 0", "--users"),
            ("--users 2 --recipients 3", "--recipients"),
            ("--user-format user", "--user-format"),
            ("--domain a>b", "--domain"),
            ("--seconds 0", "--seconds"),
            ("--messages 0", "--messages"),
            ("--password-file /nowhere/at/all", "--password-file"),
            ("--imap 127.0.0.1:1", "--password-file"),
        ] {
            let error = plan(arguments).err().unwrap().to_string();
            assert!(error.contains(name), "{arguments}: {error}");
        }
    }

    #[test]
    fn recipients_are_distinct_and_all_users_get_their_share() {
        let plan = plan("--users 200 --recipients 3").unwrap();
        let mut counts: HashMap<&str, u32> = HashMap::new();
        for number in 0..20_000 {
            let recipients: Vec<&str> = plan.recipients(number).collect();
            assert_eq!(recipients.len(), 3);
            assert!(recipients[0] != recipients[1] && recipients[1] != recipients[2]);
            for user in recipients {
                *counts.entry(user).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), 200);
        assert!(counts.values().all(|&count| (200..400).contains(&count)));
    }
}
