//! How a content stands in a message: as it is, or as base64 in lines of one length (RFC 2045 6.8). Only base64 that encoding gives
//! back to the byte is taken for it; everything else stands as it is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// A longer first line is no line of base64: RFC 2045 6.8 allows 76, mail 998 (RFC 5322 2.1.1).
const LONGEST_LINE: usize = 998;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    AsIs,
    /// Lines of so many characters but the last, which has one or more and no line end. `crlf`: or else LF.
    Base64 {
        line: u16,
        crlf: bool,
    },
}

impl Layout {
    /// The layout of a range of a message, and the content if it is not the range itself. Costs reading it twice at most.
    pub fn of(range: &[u8]) -> (Self, Option<Vec<u8>>) {
        let found = base64(range);
        found.map_or((Self::AsIs, None), |(layout, content)| (layout, Some(content)))
    }

    /// Bytes in a message of a content of so many bytes. None if no content has this layout.
    pub fn length(self, content: usize) -> Option<usize> {
        let Self::Base64 { line, crlf } = self else { return Some(content) };
        let characters = content.div_ceil(3).checked_mul(4)?;
        let ends = characters.div_ceil(usize::from(line.max(1))).saturating_sub(1);
        characters.checked_add(ends.checked_mul(1 + usize::from(crlf))?)
    }

    /// Appends the content to the message that it was taken from.
    pub fn write(self, content: &[u8], message: &mut Vec<u8>) {
        let Self::Base64 { line, crlf } = self else {
            message.extend_from_slice(content);
            return;
        };
        // Whole lines of about this many bytes at a time: no second message in memory.
        const CHUNK: usize = 48 << 10;
        let (line, end) = (usize::from(line.max(1)), if crlf { &b"\r\n"[..] } else { b"\n" });
        let mut column = 0;
        for chunk in content.chunks(CHUNK) {
            let text = STANDARD.encode(chunk);
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                if column == line {
                    message.extend_from_slice(end);
                    column = 0;
                }
                let (now, later) = rest.split_at(rest.len().min(line - column));
                message.extend_from_slice(now);
                column += now.len();
                rest = later;
            }
        }
    }
}

/// Strict: every line but the last as long as the first, one kind of line end, none at the end, no bits left over.
fn base64(range: &[u8]) -> Option<(Layout, Vec<u8>)> {
    let first = range.iter().take(LONGEST_LINE + 1).position(|byte| matches!(byte, b'\r' | b'\n'))?;
    let crlf = range.get(first..)?.starts_with(b"\r\n");
    if first == 0 || (!crlf && range.get(first) != Some(&b'\n')) {
        return None;
    }
    let end = if crlf { &b"\r\n"[..] } else { b"\n" };
    let mut text = Vec::with_capacity(range.len());
    let mut rest = range;
    while rest.len() > first {
        let (line, after) = rest.split_at(first);
        text.extend_from_slice(line);
        rest = after.strip_prefix(end)?;
        if rest.is_empty() {
            return None;
        }
    }
    text.extend_from_slice(rest);
    // What is no base64 is mostly seen at once.
    let begins = text.len().min(1 << 10) & !3;
    if text.len() % 4 != 0 || (begins < text.len() && STANDARD.decode(text.get(..begins)?).is_err()) {
        return None;
    }
    let content = STANDARD.decode(&text).ok()?;
    Some((Layout::Base64 { line: u16::try_from(first).ok()?, crlf }, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(layout: Layout, content: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        layout.write(content, &mut message);
        message
    }

    #[test]
    fn base64_of_any_length_and_line_is_taken_apart_and_comes_back() {
        for length in [1_usize, 2, 3, 57, 58, 100, 49_152, 49_153, 100_000] {
            let content: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
            for (line, crlf) in [(76, true), (76, false), (64, true), (1, true), (77, false), (998, true)] {
                let layout = Layout::Base64 { line, crlf };
                let message = written(layout, &content);
                assert_eq!(layout.length(length), Some(message.len()), "{length} {layout:?}");
                let one_line = message.len() <= usize::from(line);
                let expected = if one_line { (Layout::AsIs, None) } else { (layout, Some(content.clone())) };
                assert_eq!(Layout::of(&message), expected, "{length} {layout:?}");
            }
        }
    }

    #[test]
    fn base64_that_is_not_quite_regular_stands_as_it_is() {
        let good = written(Layout::Base64 { line: 8, crlf: true }, b"some twenty bytes...");
        assert!(Layout::of(&good).1.is_some());
        let text = String::from_utf8(good).unwrap();
        for bad in [
            text.clone() + "\r\n",
            text.replacen("\r\n", "\n", 1),
            text.replacen("\r\n", "", 1),
            text.replacen('=', "!", 1),
            text.replace("d2Vu", "d2 u"),
            " ".to_owned() + &text,
            "\r\n".to_owned() + &text,
            // Bits that decoding would drop.
            "c29tZQ==".replace("ZQ", "ZR") + "\r\n" + "c29tZQ==",
        ] {
            assert_eq!(Layout::of(bad.as_bytes()), (Layout::AsIs, None), "{bad:?}");
        }
    }
}
