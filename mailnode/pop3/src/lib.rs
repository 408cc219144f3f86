//! The POP3 server protocol without sockets: bytes in, bytes and questions out. RFC 1939, with CAPA (RFC 2449),
//! STLS (RFC 2595), AUTH PLAIN (RFC 5034), response codes (RFC 3206) and UTF8 (RFC 6856).
//!
//! The node drives a [`Session`] like this:
//!
//! ```text
//! let mut session = Session::new(config);              // the greeting is in its output
//! loop {
//!     match session.proceed() {
//!         Next::Write => write session.output()
//!         Next::Read => write session.output(), then read into session.buffer()
//!         Next::LogIn(login) => session.logged_in(..)   // with the list of messages
//!         Next::Body(index) => session.body(..)
//!         Next::Expunge(indexes) => session.expunged(..)
//!         Next::StartTls => write output, upgrade the socket; session.tls_started()
//!         Next::Close => write output, close
//!     }
//! }
//! ```
//!
//! Rules that hold throughout:
//! - Messages are numbered once, at login; what arrives later is for the next session (RFC 1939 4).
//! - Nothing is removed but by QUIT (RFC 1939 6), and reading changes no flag.
//! - Bodies are sent byte for byte, as pieces of the very [`bytes::Bytes`] that the node gave, and dot-stuffed at
//!   lines that end with CRLF (`stuffing.rs`). A body whose last line has no CRLF gets one, because the protocol
//!   cannot end without; STAT and LIST tell the size without it. A client that takes a bare LF for a line end
//!   breaks RFC 1939 3, and may see the end too early in a message that holds LF `.` LF.
//! - Messages with UTF-8 in their header are given as they are, whether or not the client said UTF8: what was
//!   delivered comes back as it was.
//! - Memory is bounded whatever a client sends: a line, the replies that wait, the errors in a row.

mod command;
mod input;
mod output;
mod session;
mod stuffing;

pub use command::Login;
pub use session::{Body, Config, Listed, LoginFailure, Maildrop, Next, Session};
pub use stuffing::Stuffing;
