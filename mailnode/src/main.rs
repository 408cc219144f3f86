//! The binary: see the library.
//!
//! Its allocator zeroes whatever is freed. Mail, passwords and keys pass through buffers of many libraries (TLS, protocols,
//! codings); so none of them is left in memory when its buffer is gone (docs/security.md).

use std::alloc::System;
use zeroizing_alloc::ZeroAlloc;

#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> std::process::ExitCode {
    mailnode::run()
}
