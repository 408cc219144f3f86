//! What the tests need: the test server of e2e/tikv as a child process, the embedded database on one node.
#![allow(dead_code)] // Each test program uses a part of it.

pub mod embedded;
pub mod server;
pub mod suite;

use cluster::UserId;
use directory::{Key, Token};

pub fn token() -> Token {
    rand::random()
}

/// A key that nobody else uses.
pub fn new_key() -> Key {
    Key::profile(UserId(rand::random()))
}
