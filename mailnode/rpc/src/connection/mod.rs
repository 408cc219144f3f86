//! One connection: handshake, queue and writer, reader, liveness, and the two roles on it. The side that connected
//! is the caller, the side that accepted answers; calls in the other direction have a connection of their own.
//!
//! Each connection is one task, which reads, writes and watches in turn; it ends as a whole, and whatever waits
//! for it is told why.

pub(crate) mod answerer;
pub(crate) mod caller;
pub(crate) mod handshake;
mod liveness;
mod outbox;
mod reader;
mod socket;
mod writer;

use crate::metrics::{Metrics, add};
use crate::protocol::frame::Malformed;
use std::fmt;
use std::io;

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The peer closed it between two frames.
    Closed,
    Network(io::Error),
    Malformed(Malformed),
    Silent,
    /// The peer did not want it, and says why.
    RefusedByPeer(String),
    /// This side has no use for it any more.
    Retired,
}

impl Ended {
    fn count(&self, metrics: &Metrics) {
        match self {
            Self::Malformed(_) => add(&metrics.protocol_errors, 1),
            Self::Silent => add(&metrics.silent_connections, 1),
            Self::Closed | Self::Network(_) | Self::RefusedByPeer(_) | Self::Retired => {}
        }
    }
}

impl From<Malformed> for Ended {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Network(error)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by the peer"),
            Self::Network(error) => error.fmt(f),
            Self::Malformed(error) => write!(f, "the peer broke the protocol: {error}"),
            Self::Silent => f.write_str("the peer fell silent"),
            Self::RefusedByPeer(reason) => write!(f, "refused by the peer: {reason}"),
            Self::Retired => f.write_str("not needed any more"),
        }
    }
}
