//! The sending side of SMTP (RFC 5321) without sockets: replies in, commands and outcomes out.
//!
//! ```text
//! let mut session = Session::new(config);
//! loop {
//!     match session.proceed() {
//!         Next::Write => write session.output(), then go on
//!         Next::Read(within) => write session.output(), read into session.buffer(); session.broken(..) if it fails
//!         Next::StartTls => write output, upgrade the socket; session.tls_started()
//!         Next::Ready => session.begin(transaction), or session.quit()
//!         Next::Done(outcomes) => one a recipient; the session goes on
//!         Next::Closed(problem) => close the socket
//!     }
//! }
//! ```
//! Rules that hold throughout:
//! - A recipient counts as delivered only if the server took it and then said 2yz to the end of the message.
//! - What a server says before it was asked is no answer: the session ends.
//! - What a server said before TLS is forgotten when TLS begins (RFC 3207 4.2).
//! - Memory is bounded, whatever a server says (`reply.rs`); of the message only a window is in the output.
//! - A password is sent only where the config says so, and never printed.

mod capabilities;
mod reply;
mod session;
mod stuffing;
mod transaction;

pub use reply::Reply;
pub use session::{Config, Login, Next, Session, Tls};
pub use transaction::{Outcome, Transaction};
