//! What an operator decides about IMAP, and the limits that are not for decision.

use std::time::Duration;

use crate::syntax::decoder::Limits;

#[derive(Clone, Debug)]
pub struct Config {
    /// Largest message of an APPEND, in bytes; told to clients as APPENDLIMIT (RFC 7889).
    pub max_message: u32,
    /// Offer STARTTLS to clients that came in clear text.
    pub start_tls: bool,
    /// Take passwords over a connection without TLS. For tests and private networks only (RFC 9051 11.1).
    pub clear_text_login: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config { max_message: 64 * 1024 * 1024, start_tls: true, clear_text_login: false }
    }
}

impl Config {
    pub(crate) fn limits(&self) -> Limits {
        Limits { append: self.max_message, ..Limits::default() }
    }
}

/// A client must have logged in this long after it connected.
pub const LOGIN_TIME: Duration = Duration::from_secs(60);
/// A logged-in client may be silent this long (RFC 9051 5.4: at least 30 minutes), IDLE included.
pub const IDLE_TIME: Duration = Duration::from_secs(31 * 60);
/// After this many failed logins the connection is closed.
pub const MAX_FAILED_LOGINS: u32 = 5;
/// After this many BAD commands in a row the connection is closed.
pub const MAX_BAD_COMMANDS: u32 = 10;

/// How long the answer to a failed login is held back: 1, 2, 4, then 8 seconds.
pub(crate) fn pause_after(failed_logins: u32) -> Duration {
    Duration::from_secs(1 << failed_logins.saturating_sub(1).min(3))
}
