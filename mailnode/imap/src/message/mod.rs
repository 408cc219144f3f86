//! Messages as they are: byte ranges of the original, found without changing anything (RFC 5322, RFC 2045, RFC 2046).
//!
//! Invariants: any bytes at all are a message; header and body together are exactly the message; every part is a range of
//! it; depth and number of parts are bounded by [`mime::MAX_DEPTH`] and [`mime::MAX_PARTS`]; time is linear in the size.

pub mod address;
pub mod bodystructure;
pub mod encoded_word;
pub mod envelope;
pub mod header;
pub mod mime;
pub mod section;
pub mod transfer;
