//! Which ranges of a message are kept apart: the bodies of its leaves (RFC 2045), as they stand, if they are big. Where they begin
//! and end is a guess in a broken message, and any guess is right: whatever lies around a range is kept as it is.

use crate::layout::Layout;
use crate::{MOST_PARTS, coding};
use imap::message::mime::{Content, Part, parse};
use std::ops::Range;

/// A range of a message that is kept apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub range: Range<usize>,
    pub layout: Layout,
    /// Bytes of the content.
    pub content: usize,
    /// The content as it is stored.
    pub coded: Vec<u8>,
}

/// Cuts for parts of so many bytes or more, in order, none overlapping. Each was put back and compared. Takes as long as reading,
/// and compressing what can be compressed: not for async tasks.
pub fn cut(message: &[u8], least: usize) -> Vec<Cut> {
    if message.len() < least {
        return Vec::new();
    }
    let mut ranges = Vec::new();
    collect(&parse(message), message, least.max(1), &mut ranges);
    ranges.sort_unstable_by_key(|range: &Range<usize>| range.start);
    let mut end = 0;
    let mut cuts = Vec::with_capacity(ranges.len());
    for range in ranges {
        if range.start >= end
            && let Some(cut) = cut_one(message, range)
        {
            end = cut.range.end;
            cuts.push(cut);
        }
    }
    cuts
}

fn collect(part: &Part, message: &[u8], least: usize, ranges: &mut Vec<Range<usize>>) {
    match &part.content {
        Content::Leaf => {
            let body = message.get(part.body.clone()).unwrap_or_default();
            // Line ends that one mail program adds and another does not are no part of an attachment.
            let ends = body.iter().rev().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            let length = body.len() - ends;
            if length >= least && ranges.len() < MOST_PARTS {
                ranges.push(part.body.start..part.body.start + length);
            }
        }
        Content::Multipart(parts) => parts.iter().for_each(|part| collect(part, message, least, ranges)),
        Content::Message(inner) => collect(inner, message, least, ranges),
    }
}

fn cut_one(message: &[u8], range: Range<usize>) -> Option<Cut> {
    let bytes = message.get(range.clone())?;
    let (layout, content) = Layout::of(bytes);
    let (coded, content) = match content {
        Some(content) => (coding::encode(&content), content.len()),
        None => (coding::encode(bytes), bytes.len()),
    };
    let cut = Cut { range, layout, content, coded };
    // Nothing that was acknowledged may depend on a compressor being right.
    let mut back = Vec::with_capacity(bytes.len());
    layout.write(&coding::decode(&cut.coded, cut.content)?, &mut back);
    (back == bytes && layout.length(cut.content) == Some(bytes.len())).then_some(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_that_are_big_are_cut_wherever_they_are_nested() {
        let big = "0123456789abcdef".repeat(10);
        let message = format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\n\r\nsmall\r\n--b\r\n\
             Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\n{big}1\r\n--b\r\n\r\n{big}2\r\n\r\n\r\n--b--\r\nepilogue {big}"
        );
        let cuts = cut(message.as_bytes(), 100);
        let found: Vec<&str> = cuts.iter().map(|cut| &message[cut.range.clone()]).collect();
        assert_eq!(found, [format!("{big}1"), format!("{big}2")]);
        assert!(cut(message.as_bytes(), 10_000).is_empty());
    }

    #[test]
    fn a_message_without_structure_is_one_leaf() {
        let message = format!("Subject: x\r\n\r\n{}\r\n", "y".repeat(500));
        let cuts = cut(message.as_bytes(), 100);
        assert_eq!(cuts.iter().map(|cut| cut.range.len()).collect::<Vec<_>>(), [500]);
    }

    #[test]
    fn one_message_is_cut_into_a_bounded_number_of_parts() {
        let part = format!("--b\r\n\r\n{}\r\n", "z".repeat(200));
        let message =
            format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}--b--\r\n", part.repeat(1_000));
        assert_eq!(cut(message.as_bytes(), 100).len(), MOST_PARTS);
    }
}
