//! Big MIME parts kept apart (DESIGN 7, docs/decisions/parts.md): pure, no I/O, no keys made here.
//!
//! What must hold:
//! - [`join`] gives back every byte of what was [`cut`], whatever the message is: a cut is a range of its bytes, and each is checked
//!   before it is used ([`cut`]). What is not understood stays where it is.
//! - The content of a part depends on nothing but the bytes that the sender attached: not on how long the lines of their base64 are,
//!   nor on what is around them; so equal attachments are equal parts.
//! - Nothing that a manifest or a part says makes [`join`] use more memory than the message has bytes, and the parts.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`cut`] | which ranges of a message are kept apart |
//! | [`layout`] | how a range stands in the message: as it is, or as base64 of its content |
//! | [`coding`] | a content as it is stored: compressed where that pays |
//! | [`manifest`] | what is left of the message, with references; joining |

mod coding;
mod cut;
mod layout;
mod manifest;

pub use cut::{Cut, cut};
pub use layout::Layout;
pub use manifest::{Coded, JoinError, Manifest, PartKey, Reference, join};

/// Ranges cut out of one message, at most; further ones stay in it.
pub const MOST_PARTS: usize = 500;
