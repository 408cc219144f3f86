//! What the tests against a real API server share.

// Each test that includes these files uses a part of them.
#![allow(dead_code)]

pub mod kubelet;
pub mod nodes;
pub mod story;
