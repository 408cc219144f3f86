//! The tree of MIME parts as byte ranges of the message (RFC 2046 5.1).
//!
//! One pass over the lines with a stack of boundaries: a delimiter of an outer multipart ends all inner ones, so a multipart that
//! is never closed harms nobody. A multipart in which no delimiter is found has one part, its whole body, as text.

use std::ops::Range;

use memchr::{memchr, memmem};

use super::header::{self, Parameterized};

/// Deeper multiparts and messages are opaque.
pub const MAX_DEPTH: usize = 32;
/// Further parts of a message are not told apart.
pub const MAX_PARTS: usize = 2_000;

/// A part, or the message itself.
#[derive(Clone, Debug)]
pub struct Part {
    /// With the empty line at its end, if there is one.
    pub header: Range<usize>,
    pub body: Range<usize>,
    pub media: Media,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub enum Content {
    Leaf,
    /// Never empty.
    Multipart(Vec<Part>),
    /// message/rfc822 or message/global: the message within.
    Message(Box<Part>),
}

/// The media type of a part.
#[derive(Clone, Debug)]
pub struct Media {
    pub kind: Vec<u8>,
    pub subtype: Vec<u8>,
    pub parameters: Parameterized,
}

impl Media {
    fn new(kind: &str, subtype: &str, parameters: &[(&str, &str)]) -> Media {
        let own = |text: &str| text.as_bytes().to_vec();
        let parameters = parameters.iter().map(|(name, value)| (own(name), own(value))).collect();
        Media {
            kind: own(kind),
            subtype: own(subtype),
            parameters: Parameterized { value: Vec::new(), parameters },
        }
    }

    /// RFC 2045 5.2: what a part without a (readable) Content-Type is; in a multipart/digest, RFC 2046 5.1.5.
    fn default_in(digest: bool) -> Media {
        if digest {
            Media::new("message", "rfc822", &[])
        } else {
            Media::new("text", "plain", &[("charset", "us-ascii")])
        }
    }

    fn of_header(header: &[u8], digest: bool) -> Media {
        let Some(value) = header::find(header, "Content-Type") else { return Media::default_in(digest) };
        let parameters = Parameterized::parse(&value);
        let mut halves = parameters.value.splitn(2, |byte| *byte == b'/');
        match (halves.next().map(<[u8]>::trim_ascii), halves.next().map(<[u8]>::trim_ascii)) {
            (Some(kind), Some(subtype)) if !kind.is_empty() && !subtype.is_empty() => {
                Media { kind: kind.to_vec(), subtype: subtype.to_vec(), parameters }
            }
            _ => Media::default_in(digest),
        }
    }

    pub fn is(&self, kind: &str) -> bool {
        self.kind.eq_ignore_ascii_case(kind.as_bytes())
    }

    pub fn is_message(&self) -> bool {
        self.is("message")
            && (self.subtype.eq_ignore_ascii_case(b"rfc822") || self.subtype.eq_ignore_ascii_case(b"global"))
    }
}

/// The structure of `raw`. Never fails.
pub fn parse(raw: &[u8]) -> Part {
    let mut walker =
        Walker { raw, boundaries: Vec::new(), parts: 0, delimiter: memmem::Finder::new(b"\n--") };
    walker.entity(0, 0, false).0
}

/// Where an entity ended.
#[derive(Clone, Copy)]
struct End {
    /// Where its content ends: before the line end that belongs to the delimiter (RFC 2046 5.1.1).
    content: usize,
    /// Behind the delimiter line.
    next: usize,
    /// Which boundary of the stack, and whether it closes; `None` at the end of the message.
    delimiter: Option<(usize, bool)>,
}

struct Walker<'a> {
    raw: &'a [u8],
    boundaries: Vec<Vec<u8>>,
    parts: usize,
    delimiter: memmem::Finder<'static>,
}

impl Walker<'_> {
    fn at_end(&self) -> End {
        End { content: self.raw.len(), next: self.raw.len(), delimiter: None }
    }

    /// The end of the line that starts at `start`: of its text, and of the line.
    fn line_end(&self, start: usize) -> (usize, usize) {
        match memchr(b'\n', self.raw.get(start..).unwrap_or_default()) {
            Some(length) => {
                let end = start + length;
                let text = if length > 0 && self.raw.get(end - 1) == Some(&b'\r') { end - 1 } else { end };
                (text, end + 1)
            }
            None => (self.raw.len(), self.raw.len()),
        }
    }

    /// Whether the line at `start` is a delimiter.
    fn delimiter_at(&self, start: usize) -> Option<End> {
        let rest = self.raw.get(start..)?.strip_prefix(b"--")?;
        if self.boundaries.is_empty() {
            return None;
        }
        let (text_end, next) = self.line_end(start);
        let text = rest.get(..text_end.saturating_sub(start + 2))?.trim_ascii_end();
        let found = self.boundaries.iter().enumerate().rev().find_map(|(level, boundary)| {
            match text.strip_prefix(boundary.as_slice())? {
                b"" => Some((level, false)),
                b"--" => Some((level, true)),
                _ => None,
            }
        })?;
        let before = self.raw.get(..start)?;
        let before = before.strip_suffix(b"\n").unwrap_or(before);
        let content = before.strip_suffix(b"\r").unwrap_or(before).len();
        // A bare CR is no line end.
        let content = if before.len() == start { start } else { content };
        Some(End { content, next, delimiter: Some(found) })
    }

    /// The next delimiter at or behind the line start `position`.
    fn skip(&self, mut position: usize) -> End {
        if self.boundaries.is_empty() {
            return self.at_end();
        }
        loop {
            if let Some(end) = self.delimiter_at(position) {
                return end;
            }
            match self.delimiter.find(self.raw.get(position..).unwrap_or_default()) {
                Some(offset) => position += offset + 1,
                None => return self.at_end(),
            }
        }
    }

    /// The entity whose header starts at `start`.
    fn entity(&mut self, start: usize, depth: usize, digest: bool) -> (Part, End) {
        self.parts += 1;
        let mut position = start;
        let body_start = loop {
            if let Some(end) = self.delimiter_at(position) {
                return self.header_only(start, end, digest);
            }
            if position >= self.raw.len() {
                return self.header_only(start, self.at_end(), digest);
            }
            let (text_end, next) = self.line_end(position);
            if text_end == position && next > position {
                break next;
            }
            position = next;
        };
        let header = start..body_start;
        let media = Media::of_header(self.raw.get(header.clone()).unwrap_or_default(), digest);
        let (content, end) = self.content(&media, body_start, depth);
        let body = body_start..end.content.max(body_start);
        (Part { header, body, media, content }, end)
    }

    fn header_only(&self, start: usize, end: End, digest: bool) -> (Part, End) {
        let stop = end.content.max(start);
        let media = Media::of_header(self.raw.get(start..stop).unwrap_or_default(), digest);
        let opaque = media.is("multipart") || media.is_message();
        let content = match opaque {
            // Has a structure by its type, so it gets an empty part.
            true if media.is_message() => Content::Message(Box::new(text(stop..stop))),
            true => Content::Multipart(vec![text(stop..stop)]),
            false => Content::Leaf,
        };
        (Part { header: start..stop, body: stop..stop, media, content }, end)
    }

    fn content(&mut self, media: &Media, start: usize, depth: usize) -> (Content, End) {
        if depth >= MAX_DEPTH || self.parts >= MAX_PARTS {
            return (Content::Leaf, self.skip(start));
        }
        if media.is_message() {
            let (inner, end) = self.entity(start, depth + 1, false);
            return (Content::Message(Box::new(inner)), end);
        }
        if !media.is("multipart") {
            return (Content::Leaf, self.skip(start));
        }
        let boundary = media.parameters.parameter("boundary").map(<[u8]>::trim_ascii_end).unwrap_or_default();
        let mut parts = Vec::new();
        let end = if boundary.is_empty() {
            self.skip(start)
        } else {
            self.multipart(media, boundary.to_vec(), start, depth, &mut parts)
        };
        if parts.is_empty() {
            parts.push(text(start..end.content.max(start)));
        }
        (Content::Multipart(parts), end)
    }

    fn multipart(
        &mut self,
        media: &Media,
        boundary: Vec<u8>,
        start: usize,
        depth: usize,
        parts: &mut Vec<Part>,
    ) -> End {
        let level = self.boundaries.len();
        let digest = media.subtype.eq_ignore_ascii_case(b"digest");
        self.boundaries.push(boundary);
        let mut end = self.skip(start);
        while end.delimiter == Some((level, false)) && self.parts < MAX_PARTS {
            let (part, after) = self.entity(end.next, depth + 1, digest);
            parts.push(part);
            end = after;
        }
        self.boundaries.truncate(level);
        match end.delimiter {
            // The epilogue reaches to the next delimiter of an outer multipart.
            Some((found, _)) if found == level => self.skip(end.next),
            _ => end,
        }
    }
}

/// A part that is all body.
fn text(body: Range<usize>) -> Part {
    Part { header: body.start..body.start, body, media: Media::default_in(false), content: Content::Leaf }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(raw: &[u8], part: &Part) -> String {
        let body = String::from_utf8_lossy(&raw[part.body.clone()]).into_owned();
        match &part.content {
            Content::Leaf => format!("{body:?}"),
            Content::Message(inner) => format!("<{}>", shape(raw, inner)),
            Content::Multipart(parts) => {
                format!("({})", parts.iter().map(|part| shape(raw, part)).collect::<Vec<_>>().join(" "))
            }
        }
    }

    fn shape_of(text: &str) -> String {
        shape(text.as_bytes(), &parse(text.as_bytes()))
    }

    const MIXED: &str = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";

    #[test]
    fn parts_are_the_bytes_between_the_delimiters() {
        let text =
            format!("{MIXED}pre\r\n--b\r\n\r\none\r\n\r\n--b  \r\nA: b\r\n\r\n--b--\r\nepilogue --b\r\n");
        assert_eq!(shape_of(&text), r#"("one\r\n" "")"#);
        assert_eq!(shape_of(&text.replace("\r\n", "\n")), r#"("one\n" "")"#);
    }

    #[test]
    fn a_boundary_that_only_begins_alike_is_text() {
        let text = format!("{MIXED}--b\r\n\r\n--bb\r\n--b-\r\n -\u{2d}b\r\n--b--");
        assert_eq!(shape_of(&text), r#"("--bb\r\n--b-\r\n --b")"#);
    }

    #[test]
    fn an_outer_delimiter_ends_an_inner_multipart_that_was_never_closed() {
        let text = format!(
            "{MIXED}--b\r\nContent-Type: multipart/alternative; boundary=\"i n\"\r\n\r\n--i n\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--\r\n"
        );
        assert_eq!(shape_of(&text), r#"(("x") "y")"#);
    }

    #[test]
    fn a_message_inside_ends_with_its_part() {
        let text = format!(
            "{MIXED}--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\ninner\r\n--b\r\n\r\ny\r\n--b--\r\n"
        );
        assert_eq!(shape_of(&text), r#"(<"inner"> "y")"#);
    }

    #[test]
    fn a_multipart_without_a_delimiter_has_one_part() {
        assert_eq!(shape_of(&format!("{MIXED}hello\r\n")), r#"("hello\r\n")"#);
        assert_eq!(shape_of("Content-Type: multipart/mixed\r\n\r\nhello"), r#"("hello")"#);
        assert_eq!(shape_of("Content-Type: multipart/mixed; boundary=b"), r#"("")"#);
        assert_eq!(shape_of("Content-Type: message/rfc822"), r#"<"">"#);
    }

    #[test]
    fn a_part_may_be_nothing_but_header_or_nothing_at_all() {
        assert_eq!(shape_of(&format!("{MIXED}--b\r\n--b\r\nA: b\r\n--b\r\n\r\n--b--")), r#"("" "" "")"#);
    }

    #[test]
    fn parts_of_a_digest_are_messages() {
        let text = "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\n\nhi\n--b--\n";
        assert_eq!(shape_of(text), r#"(<"hi">)"#);
    }

    #[test]
    fn depth_and_number_of_parts_are_bounded() {
        let mut deep = String::new();
        for level in 0..200 {
            deep.push_str(&format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n"));
        }
        let mut part = &parse(deep.as_bytes());
        let mut depth = 0;
        while let Content::Multipart(parts) = &part.content {
            part = &parts[0];
            depth += 1;
        }
        assert_eq!(depth, MAX_DEPTH);
        let many = format!("{MIXED}{}", "--b\r\n\r\n".repeat(100_000));
        let Content::Multipart(parts) = parse(many.as_bytes()).content else { panic!("not a multipart") };
        assert!(parts.len() < MAX_PARTS);
    }
}
