//! Why a call brought no answer, in terms of what the caller can do about it.

use std::sync::Arc;

/// Why a call brought no answer. [`Error::certainly_not_executed`] says which of them leave no doubt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No connection could be made. The request never left: route around the peer.
    #[error("peer {peer} is unreachable: {reason}")]
    Unreachable { peer: Arc<str>, reason: Arc<str> },
    /// A connection was made, and one side refused the other (certificate, name, cluster, protocol version).
    /// The request never left; somebody has to change a configuration.
    #[error("connection with peer {peer} refused: {reason}")]
    Refused { peer: Arc<str>, reason: Arc<str> },
    /// The connection broke before the answer came. Whether the request was executed is not known.
    #[error("connection to peer {peer} lost: {reason}")]
    ConnectionLost { peer: Arc<str>, reason: Arc<str> },
    /// The deadline passed after the request was handed to the connection. Whether it was executed is not known.
    #[error("no answer before the deadline")]
    DeadlineExceeded,
    /// The deadline passed while the call waited for its turn, because too much is in flight to this peer already.
    /// The request never left.
    #[error("too much in flight to this peer")]
    Overloaded,
    /// Head or body is above the limit of one of the two sides. The request never left.
    #[error("{what} of {size} bytes, {limit} allowed")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
    /// The handler panicked, or gave an answer above the limits. Whether the request was executed is not known.
    #[error("the peer failed on this request")]
    HandlerFailed,
}

impl Error {
    /// True if the peer has not seen the whole request and never will, so that sending it elsewhere cannot
    /// execute it twice.
    pub const fn certainly_not_executed(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Refused { .. } | Self::Overloaded | Self::TooLarge { .. } => {
                true
            }
            Self::ConnectionLost { .. } | Self::DeadlineExceeded | Self::HandlerFailed => false,
        }
    }
}
