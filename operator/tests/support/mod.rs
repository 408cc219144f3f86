//! What the tests against a real API server share.

pub mod kubelet;
pub mod nodes;
pub mod story;
