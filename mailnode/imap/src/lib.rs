//! The IMAP server protocol without sockets: IMAP4rev1 (RFC 3501) and IMAP4rev2 (RFC 9051), bytes in, bytes out.
//!
//! The node implements [`Backend`] and [`Account`] against the cluster, [`Output`] over its socket, and drives a
//! `Session` like this (`socket` is whatever it reads from, `output` whatever it writes to):
//!
//! ```text
//! let mut session = Session::new(backend, config, session_id, tls);
//! session.greet(&mut output).await?;
//! loop {
//!     match session.process(&mut output).await? {       // runs every complete command, flushes
//!         Next::Read => {}
//!         Next::StartTls => { upgrade the socket; session.tls_started(); continue }
//!         Next::Close => break,
//!     }
//!     let (input, changed) = session.wait();            // changed is pending for ever unless the client idles
//!     select! {
//!         read = timeout(patience, socket.read_buf(input)) => if read == 0 { break },
//!         () = changed => session.notify(&mut output).await?,   // flushes
//!     }
//! }
//! ```
//! with `patience = session.patience()`.

mod backend;
mod flags;
pub mod mailbox;
pub mod message;
mod output;
pub mod search;
pub mod syntax;

pub use backend::*;
pub use flags::{Flags, KeywordError, MAX_KEYWORD_LENGTH, MAX_KEYWORDS, SystemFlag};
pub use output::{FLUSH_AT, Output};
