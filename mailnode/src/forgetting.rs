//! What a thread leaves on its stack: pieces of mail and keys in frames of functions that have returned. Freed heap memory is zeroed
//! by the allocator (`main.rs`); the dead part of a stack is not memory that anybody frees. So whenever a thread has done its
//! work, before it sleeps, the part that it may have used is overwritten.
//!
//! No promise for keys in use: of a thread that is at work, or a page that was swapped out, nothing is said here.

use std::hint::black_box;

/// Bytes below the caller's frame that are overwritten. Frames that handle mail and keys are in the first few KiB of it; those of an
/// unoptimised build are several times as large.
const DEPTH: usize = if cfg!(debug_assertions) { 768 * 1024 } else { 128 * 1024 };

/// Overwrites the dead part of this thread's stack. A few microseconds.
#[inline(never)]
pub fn wipe_stack() {
    let mut dead = [0_u8; DEPTH];
    black_box(&mut dead);
}
