//! The user profile database (DESIGN 8): users, domains, aliases, credentials, quota, folder trees, UID
//! reservations. No I/O here.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`address`] | addresses and domains in their normal form |
//! | [`folder`] | a folder, its name, its UIDs |
//! | [`password`] | Argon2id credentials |
//! | [`encryption`] | a user's keys, and the passwords that open them |
//! | [`profile`] | a user's record |
//! | [`record`] | keys, versions, and the trait of a database: one-key compare-and-set |
//! | [`accounts`] | users, aliases and domains on top of it, as idempotent steps of one record each |
//! | [`embedded`] | the database that the nodes make among themselves, as a state machine |
//!
//! What must change together is one record. What spans records is a sequence of steps that is safe at every
//! point, with a repair pass ([`accounts::Accounts::repair`]).

pub mod accounts;
pub mod address;
pub mod embedded;
pub mod encryption;
pub mod folder;
pub mod password;
pub mod profile;
pub mod record;

pub use accounts::{AccountError, Accounts};
pub use address::{Address, AddressError};
pub use encryption::Encryption;
pub use folder::{Folder, SpecialUse};
pub use password::Credentials;
pub use profile::{Profile, ProfileError, Renamed};
pub use record::{DatabaseError, Key, Kind, Read, Records, Token};
