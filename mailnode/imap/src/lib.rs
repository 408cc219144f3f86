//! The IMAP server protocol without sockets: IMAP4rev1 (RFC 3501) and IMAP4rev2 (RFC 9051), bytes in, bytes out.
//!
//! The node implements [`Backend`] and [`Account`] against the cluster, [`Output`] over its socket, and drives a
//! [`Session`] like this (`socket` is whatever it reads from, `output` whatever it writes to):
//!
//! ```text
//! let mut session = Session::new(backend, config, tls);         // Arc<impl Backend>, Arc<Config>, bool
//! session.greet(&mut output).await?;
//! loop {
//!     match session.process(&mut output).await? {               // runs every complete command, flushes
//!         Next::Read => {}
//!         Next::Pause(time) => { sleep(time).await; continue }  // a failed login; flushed by the next `process`
//!         Next::StartTls => { upgrade the socket; session.tls_started(); continue }
//!         Next::Close => break,
//!     }
//!     let patience = session.patience();
//!     let (input, changed) = session.wait();                    // changed is pending for ever unless the client idles
//!     select! {
//!         read = timeout(patience, socket.read_buf(input)) => match read {
//!             Err(_) => { session.timed_out(&mut output).await?; break }
//!             Ok(read) => if read? == 0 { break },
//!         },
//!         () = changed => if session.notify(&mut output).await? == Next::Close { break },  // flushes
//!     }
//! }
//! ```
//!
//! `session.shut_down(&mut output)` says goodbye when the node stops. `Output::flush` waits for the client; it is the node's to
//! put a limit on that, by an error. A session may be dropped at any await: what was acknowledged stays.

pub mod backend;
mod command;
pub mod config;
pub mod flags;
mod logged_in;
mod login;
pub mod mailbox;
pub mod message;
mod output;
mod reply;
mod responses;
pub mod search;
mod session;
pub mod syntax;

pub use backend::{Account, Backend};
pub use config::Config;
pub use output::{FLUSH_AT, Output};
pub use session::{Next, Session};
