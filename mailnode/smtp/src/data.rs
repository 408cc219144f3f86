//! The end of DATA and its transparency (RFC 5321 4.1.1.4, 4.5.2).
//!
//! The rules, chosen against SMTP smuggling and so that mail comes back byte for byte:
//! - Only CRLF `.` CRLF ends the data (at its begin, `.` CRLF). Neither LF `.` LF nor LF `.` CRLF, CRLF `.` LF or
//!   CR `.` CR does (RFC 5321 4.1.1.4 forbids them).
//! - A dot is removed only at the begin or right behind CRLF.
//! - A bare CR or LF is content like any other byte and is kept. A client that sent one broke RFC 5321 2.3.8, but
//!   nothing is passed on to servers that might read it as a line end.

use memchr::memmem;

/// Takes the stuffing out of DATA, in any chunks.
#[derive(Clone, Debug)]
pub struct Unstuffer {
    /// The next byte is the first of a line.
    line_start: bool,
}

impl Default for Unstuffer {
    fn default() -> Self {
        Self { line_start: true }
    }
}

impl Unstuffer {
    /// Appends the content of `input` to `content`. Returns how many bytes of `input` were used, and whether the
    /// data is over. At most two bytes are left unused while it is not; they must come again with more behind.
    pub fn feed(&mut self, input: &[u8], content: &mut Vec<u8>) -> (usize, bool) {
        let mut rest = input;
        let used = |rest: &[u8]| input.len() - rest.len();
        while !rest.is_empty() {
            if self.line_start {
                match rest {
                    [b'.', b'\r', b'\n', after @ ..] => return (used(after), true),
                    [b'.'] | [b'.', b'\r'] => break,
                    [b'.', after @ ..] => rest = after,
                    _ => {}
                }
                self.line_start = false;
            }
            // Up to the next line that begins with a dot, all is content.
            let end = match memmem::find(rest, b"\r\n.") {
                Some(position) => {
                    self.line_start = true;
                    position + 2
                }
                None if rest.ends_with(b"\r\n") => {
                    self.line_start = true;
                    rest.len()
                }
                None if rest.ends_with(b"\r") => rest.len() - 1,
                None => rest.len(),
            };
            let (line, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            content.extend_from_slice(line);
            rest = after;
            if !self.line_start {
                break;
            }
        }
        (used(rest), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client does (RFC 5321 4.5.2).
    fn stuff(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, &byte) in content.iter().enumerate() {
            if byte == b'.' && (index == 0 || content[..index].ends_with(b"\r\n")) {
                out.push(b'.');
            }
            out.push(byte);
        }
        out.extend_from_slice(if content.is_empty() || content.ends_with(b"\r\n") {
            b".\r\n"
        } else {
            b"\r\n.\r\n"
        });
        out
    }

    /// Content, and what is left behind the end; `None` if there is no end.
    fn unstuff(input: &[u8], chunks: &mut dyn FnMut() -> usize) -> (Vec<u8>, Option<usize>) {
        let mut unstuffer = Unstuffer::default();
        let (mut content, mut waiting, mut taken) = (Vec::new(), Vec::new(), 0);
        while taken < input.len() {
            let size = chunks().clamp(1, input.len() - taken);
            waiting.extend_from_slice(&input[taken..taken + size]);
            taken += size;
            let (used, over) = unstuffer.feed(&waiting, &mut content);
            waiting.drain(..used);
            if over {
                return (content, Some(input.len() - taken + waiting.len()));
            }
            assert!(waiting.len() <= 2, "only what may be the end waits");
        }
        (content, None)
    }

    struct Random(u64);
    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }
    }

    #[test]
    fn any_bytes_come_back_in_any_chunks() {
        let mut random = Random(1);
        for _ in 0..20_000 {
            let length = random.below(24);
            let mut content: Vec<u8> =
                (0..length).map(|_| [b'.', b'\r', b'\n', b'x', 0, 255][random.below(6)]).collect();
            if !content.is_empty() && !content.ends_with(b"\r\n") {
                content.extend_from_slice(b"\r\n");
            }
            let mut wire = stuff(&content);
            wire.extend_from_slice(b"QUIT\r\n");
            let (back, left) = unstuff(&wire, &mut || 1 + random.below(9));
            // What is left may still be on the wire, but never less than the next command.
            assert_eq!((back, left), (content, Some(6)), "{wire:?}");
        }
    }

    #[test]
    fn content_without_a_last_line_end_gets_the_one_that_the_protocol_needs() {
        let (back, left) = unstuff(&stuff(b"a\n.\nb"), &mut || 1000);
        assert_eq!((back.as_slice(), left), (&b"a\n.\nb\r\n"[..], Some(0)));
    }

    #[test]
    fn nothing_but_crlf_dot_crlf_ends_the_data() {
        let false_ends: [&[u8]; 12] = [
            b"a\n.\nb",
            b"a\n.\r\nb",
            b"a\r\n.\nb",
            b"a\r.\rb",
            b"a\r\n.\rb",
            b"a\r.\r\nb",
            b"a\n.\rb",
            b"a\r\n.\0\r\nb",
            b"a\r\r\n.\nb",
            b"a\n\r.\r\nb",
            b".\nb",
            b".\r.\r\nb",
        ];
        for input in false_ends {
            for chunk in 1..5 {
                assert_eq!(unstuff(input, &mut || chunk).1, None, "{input:?}");
            }
        }
        assert_eq!(unstuff(b"a\r\r\n.\r\nb", &mut || 1).1, Some(1));
        assert_eq!(unstuff(b".\r\nb", &mut || 3), (Vec::new(), Some(1)));
    }
}
