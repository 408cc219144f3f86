//! The transport over real sockets on loopback and real TLS.

mod calls;
mod ends;
mod garbage;
mod limits;
mod refusals;
mod support;
