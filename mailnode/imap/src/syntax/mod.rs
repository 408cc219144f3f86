//! Syntax apart from action: bytes to commands ([`decoder`], [`parse`]), values to bytes ([`writer`]).
//!
//! Invariants: nothing a client sends makes this panic; memory and time are linear in what was sent, which
//! [`decoder::Limits`] bounds; nesting is bounded by [`parse_search::MAX_DEPTH`].

pub mod command;
pub mod date;
pub mod decoder;
pub mod lexer;
pub mod parse;
mod parse_fetch;
mod parse_list;
mod parse_notify;
mod parse_search;
pub mod pattern;
pub mod sequence;
pub mod utf7;
pub mod writer;
