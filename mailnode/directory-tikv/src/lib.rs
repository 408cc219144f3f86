//! The user profile database in TiKV (DESIGN 8; docs/tikv.md): [`directory::Records`] over the stock
//! `tikv-client`.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`config`] | where TiKV is, and how to speak TLS with it |
//! | [`key`] | names of records, key by key |
//! | [`stored`] | what is under such a name |
//! | [`breaker`] | fails at once while the database is away |
//! | [`session`] | one call of the client: bounded, its errors sorted |
//! | [`database`] | read, compare-and-set, list |
//! | [`cache`] | profiles that were read, for the time when the database is away |
//! | [`maintenance`] | dead locks, old versions, old tombstones; one node does it |
//!
//! What must hold, whatever the client does:
//! - A transaction writes one key. The client can tear those with several (docs/tikv.md).
//! - No `commit` is believed: the record is read back at the timestamp of the commit, and must carry the token.
//! - An outcome that is not known is looked for by the token until it is known or the time is up. Then the
//!   error says so.
//! - Every call has a deadline; every wait, queue and map has a bound.

pub mod breaker;
pub mod cache;
pub mod config;
pub mod database;
pub mod key;
pub mod maintenance;
pub mod session;
pub mod stored;

pub use config::{ConfigError, TikvConfig, Tls};
pub use database::{Status, Tikv};
pub use maintenance::{Maintained, Position};
