//! Puts a message together again from the payloads of its frames, each byte copied once.
//!
//! Memory is taken as bytes arrive: a peer that claims 64 MiB and sends nothing costs next to nothing.

use bytes::Bytes;

/// First allocation for a head or body; it doubles from there, up to what was claimed.
const FIRST: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Assembly {
    head: Part,
    body: Part,
}

#[derive(Debug)]
struct Part {
    bytes: Vec<u8>,
    claimed: usize,
}

impl Assembly {
    /// The caller has checked both lengths against the limits.
    pub(crate) fn new(head: usize, body: usize) -> Self {
        Self {
            head: Part { bytes: Vec::new(), claimed: head },
            body: Part { bytes: Vec::new(), claimed: body },
        }
    }

    pub(crate) fn missing(&self) -> usize {
        self.head.missing() + self.body.missing()
    }

    /// Where the next bytes go, with room for at least one of them, and how many of `available` belong there.
    pub(crate) fn next(&mut self, available: usize) -> (&mut Vec<u8>, usize) {
        let part = if self.head.missing() > 0 { &mut self.head } else { &mut self.body };
        let wanted = part.missing().min(available);
        let length = part.bytes.len();
        if length == part.bytes.capacity() && wanted > 0 {
            let target = (length * 2).max(FIRST).min(part.claimed);
            part.bytes.reserve_exact(target - length);
        }
        let room = part.bytes.capacity() - length;
        (&mut part.bytes, wanted.min(room))
    }

    /// Head and body, when nothing is missing.
    pub(crate) fn finish(self) -> (Bytes, Bytes) {
        (self.head.bytes.into(), self.body.bytes.into())
    }
}

impl Part {
    const fn missing(&self) -> usize {
        self.claimed.saturating_sub(self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(assembly: &mut Assembly, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (part, wanted) = assembly.next(bytes.len());
            assert!(wanted > 0);
            let (now, rest) = bytes.split_at(wanted);
            part.extend_from_slice(now);
            bytes = rest;
        }
    }

    #[test]
    fn head_and_body_come_apart_wherever_the_frames_were_cut() {
        for step in 1..=9 {
            let mut assembly = Assembly::new(4, 5);
            for frame in b"headbody!".chunks(step) {
                feed(&mut assembly, frame);
            }
            assert_eq!(assembly.missing(), 0);
            let (head, body) = assembly.finish();
            assert_eq!((&head[..], &body[..]), (&b"head"[..], &b"body!"[..]));
        }
    }

    #[test]
    fn a_claim_alone_takes_no_memory_and_never_more_than_claimed_is_taken() {
        let mut assembly = Assembly::new(0, 64 << 20);
        assert_eq!(assembly.body.bytes.capacity(), 0);
        feed(&mut assembly, &[1]);
        assert_eq!(assembly.body.bytes.capacity(), FIRST);
        let mut small = Assembly::new(3, FIRST + 1);
        feed(&mut small, &[0; 3 + FIRST + 1]);
        assert_eq!((small.head.bytes.capacity(), small.body.bytes.capacity()), (3, FIRST + 1));
    }
}
