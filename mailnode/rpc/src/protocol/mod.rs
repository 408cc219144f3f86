//! What the two ends of a connection say to each other, as bytes. No socket and no task in here.

pub(crate) mod assembly;
pub(crate) mod frame;
pub(crate) mod hello;
pub(crate) mod outgoing;
