//! Mail to other servers (RFC 5321, the sending side) without sockets, clocks or tasks. The node's shell around it is
//! `mailnode/src/outbound`; what the whole does is in docs/outbound.md, why it is so in docs/decisions/outbound.md.
//!
//! | module | what it does | source |
//! | --- | --- | --- |
//! | [`envelope`] | sender and recipients, stored with the message | RFC 5321 2.3.1 |
//! | [`queue`] | what is to be sent when, and by how many connections | RFC 5321 4.5.4 |
//! | [`schedule`] | waits between attempts, expiry, rests of destinations | RFC 5321 4.5.4.1 |
//! | [`route`] | the hosts of a domain in order | RFC 5321 5.1, RFC 7505 |
//! | [`client`] | the dialogue with a server | RFC 5321, 1870, 2920, 3207, 4954, 6152, 6531 |
//! | [`dkim`] | signatures | RFC 6376, 8463 |
//! | [`report`] | what the sender is told of failures | RFC 3464, 6522, 6533 |
//! | [`problem`] | why it did not work, and whether to try again | RFC 3463 |
//!
//! Whatever a server or the DNS says costs bounded memory. Nothing here panics on it.

pub mod client;
pub mod dkim;
pub mod envelope;
pub mod problem;
pub mod queue;
pub mod report;
pub mod route;
pub mod schedule;

pub use client::{Outcome, Transaction};
pub use envelope::{Envelope, EnvelopeError};
pub use problem::{Problem, Status};
pub use queue::{Facts, Queue, Work};
pub use route::{Destination, MailExchangers};
pub use schedule::Schedule;
