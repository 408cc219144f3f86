//! The receiving side of SMTP (RFC 5321), submission (RFC 6409) and LMTP (RFC 2033) without sockets: bytes in,
//! bytes and questions out. One state machine with a [`Mode`].
//!
//! The node drives a [`Session`] like this:
//!
//! ```text
//! let mut session = Session::new(config);              // the greeting is in its output
//! loop {
//!     match session.proceed(unix_seconds) {
//!         Next::Write => write session.output()
//!         Next::Read => write session.output(), then read into session.buffer()
//!         Next::Sender(address) => session.sender_checked(..)
//!         Next::Verify(addresses) => session.verified(one Verdict each)
//!         Next::LogIn(login) => session.logged_in(..)
//!         Next::Deliver(message) => session.delivered(one Delivery a recipient)
//!         Next::StartTls => write output, upgrade the socket; session.tls_started()
//!         Next::Close => write output, close
//!     }
//! }
//! ```
//! `R` is whatever the node wants to find again with an accepted recipient at delivery.
//!
//! Rules that hold throughout:
//! - No `250` for a message before the node said that every copy is stored (DESIGN 3, invariant 1).
//! - Only CRLF `.` CRLF ends DATA, and a dot is only removed behind CRLF (`data.rs`), so that nobody can hide a
//!   second message in the first (SMTP smuggling). Bare CR and LF are kept: what was sent comes back byte for byte.
//! - What came before TLS is forgotten when TLS begins (RFC 3207 4.2).
//! - Memory is bounded: a line by its limit, recipients and message by [`Limits`], waiting replies by
//!   [`FLUSH_AT`], whatever a client sends.
//! - One transaction gives at most one message a recipient (invariant 5). SMTP has one reply for all recipients:
//!   if one copy cannot be stored, the client is told 451 and will send to all again, so the node must take
//!   the other copies back ([`Message::all_or_none`]). LMTP has a reply for each.

mod address;
mod auth;
mod command;
mod data;
pub mod date;
mod input;
mod session;
mod submission;
mod trace;

pub use address::Address;
pub use auth::Login;
pub use data::Unstuffer;
pub use session::{
    Config, Delivery, FLUSH_AT, Limits, LoginOutcome, Message, Mode, Next, Outcome, Recipient, SenderOutcome,
    Session, Verdict,
};
