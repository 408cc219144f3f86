//! BODY[section] and BINARY[part]: which bytes of the message a section is (RFC 9051 6.4.5.1, RFC 3516).

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::mime::{Content, Part};
use super::transfer::{self, Encoding};
use super::{header, mime};
use crate::syntax::command::{Partial, Section, SectionText};

/// A message with the structure that was found in it so far.
#[derive(Clone, Debug)]
pub struct Parsed {
    raw: Bytes,
    header_length: usize,
    root: Option<Part>,
}

impl Parsed {
    pub fn new(raw: Bytes) -> Parsed {
        let header_length = header::length(&raw);
        Parsed { raw, header_length, root: None }
    }

    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The message's own header.
    pub fn header(&self) -> Bytes {
        self.raw.slice(..self.header_length)
    }

    /// What follows the header.
    pub fn text(&self) -> Bytes {
        self.raw.slice(self.header_length..)
    }

    /// The structure; found at the first call.
    pub fn root(&mut self) -> &Part {
        self.root.get_or_insert_with(|| mime::parse(&self.raw))
    }

    fn slice(&self, range: Range<usize>) -> Bytes {
        let end = range.end.min(self.raw.len());
        self.raw.slice(range.start.min(end)..end)
    }

    /// The bytes of a section, a slice of the message where that is possible. `None` (NIL) if there is no such part.
    pub fn section(&mut self, section: &Section) -> Option<Bytes> {
        let (header, text) = if section.part.is_empty() {
            (self.header(), self.text())
        } else {
            let part = find(self.root(), &section.part)?;
            match (&section.text, &part.content) {
                (None, _) => {
                    let body = part.body.clone();
                    return Some(self.slice(body));
                }
                (Some(SectionText::Mime), _) => {
                    let header = part.header.clone();
                    return Some(self.slice(header));
                }
                (Some(_), Content::Message(inner)) => {
                    let (header, body) = (inner.header.clone(), inner.body.clone());
                    (self.slice(header), self.slice(body))
                }
                // HEADER and TEXT are of messages only.
                (Some(_), _) => return None,
            }
        };
        match &section.text {
            None => Some(self.raw.clone()),
            Some(SectionText::Header) => Some(header),
            Some(SectionText::Text) => Some(text),
            Some(SectionText::Fields { except, names }) => Some(fields(&header, *except, names)),
            // Only of a part; the parser does not let it through.
            Some(SectionText::Mime) => None,
        }
    }

    /// Whether [`Parsed::binary`] could not undo the encoding of that part.
    pub fn has_unknown_encoding(&mut self, part: &[u32]) -> bool {
        let Some(found) = find(self.root(), part) else { return false };
        let (header, leaf) = (found.header.clone(), matches!(found.content, Content::Leaf));
        leaf && transfer::encoding(&self.slice(header)) == Encoding::Unknown
    }

    /// A part with its transfer encoding undone.
    pub fn binary(&mut self, part: &[u32]) -> Binary {
        if part.is_empty() {
            return Binary::Decoded(self.raw.clone());
        }
        let Some(found) = find(self.root(), part) else { return Binary::Missing };
        let (header, body) = (found.header.clone(), found.body.clone());
        let leaf = matches!(found.content, Content::Leaf);
        let (header, body) = (self.slice(header), self.slice(body));
        match if leaf { transfer::encoding(&header) } else { Encoding::Identity } {
            Encoding::Identity => Binary::Decoded(body),
            Encoding::Base64 => Binary::Decoded(transfer::base64(&body).into()),
            Encoding::QuotedPrintable => Binary::Decoded(transfer::quoted_printable(&body).into()),
            Encoding::Unknown => Binary::UnknownEncoding,
        }
    }
}

/// What BINARY[part] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binary {
    Decoded(Bytes),
    Missing,
    UnknownEncoding,
}

/// The part with that number. A message that is no multipart is its own part 1 (RFC 9051 6.4.5.1).
pub fn find<'a>(root: &'a Part, numbers: &[u32]) -> Option<&'a Part> {
    let (first, rest) = numbers.split_first()?;
    let mut part = part_of_message(root, *first)?;
    for number in rest {
        part = match &part.content {
            Content::Multipart(parts) => parts.get(index(*number))?,
            Content::Message(inner) => part_of_message(inner, *number)?,
            Content::Leaf => return None,
        };
    }
    Some(part)
}

fn part_of_message(message: &Part, number: u32) -> Option<&Part> {
    match &message.content {
        Content::Multipart(parts) => parts.get(index(number)),
        _ if number == 1 => Some(message),
        _ => None,
    }
}

fn index(number: u32) -> usize {
    (number as usize).wrapping_sub(1)
}

/// HEADER.FIELDS and HEADER.FIELDS.NOT: the fields as they are, and always an empty line (RFC 9051 6.4.5.1).
fn fields(header: &[u8], except: bool, names: &[String]) -> Bytes {
    let mut out = BytesMut::with_capacity(header.len().min(1024));
    let mut covered = 0;
    for field in header::fields(header) {
        covered += field.raw.len();
        if names.iter().any(|name| field.is(name)) != except {
            out.extend_from_slice(field.raw);
        }
    }
    // The message's own empty line, so that its line ends stay what they are.
    let end = header.get(covered..).filter(|end| end.ends_with(b"\n")).unwrap_or(b"\r\n");
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(end);
    out.freeze()
}

/// `<offset.length>`: what there is of it; nothing, if the offset is behind the end.
pub fn partial(bytes: Bytes, partial: Option<Partial>) -> Bytes {
    let Some(Partial { offset, length }) = partial else { return bytes };
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(bytes.len());
    bytes.slice(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of the example in RFC 9051 6.4.5.1.
    const MESSAGE: &str = "Subject: top\r\nX: y\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\nContent-Type: text/plain\r\n\r\none\r\n\
        --b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\naGk=\r\n\
        --b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n\
        --c\r\n\r\nthree-one\r\n--c\r\nContent-Transfer-Encoding: x-odd\r\n\r\nthree-two\r\n--c--\r\n\
        --b\r\nContent-Type: message/rfc822\r\n\r\nSubject: plain\r\n\r\nbody of four\r\n--b--\r\n";

    fn section(part: &[u32], text: Option<SectionText>) -> Option<String> {
        let mut parsed = Parsed::new(Bytes::from_static(MESSAGE.as_bytes()));
        let found = parsed.section(&Section { part: part.to_vec(), text });
        found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    #[test]
    fn sections_are_found_by_number() {
        let mime = || Some(SectionText::Mime);
        let header = || Some(SectionText::Header);
        for (part, text, expected) in [
            (&[1][..], None, Some("one")),
            (&[1], mime(), Some("Content-Type: text/plain\r\n\r\n")),
            (&[1], header(), None),
            (&[1, 1], None, None),
            (&[2], None, Some("aGk=")),
            (&[3, 1], None, Some("three-one")),
            (&[3, 2], None, Some("three-two")),
            (&[3, 2], mime(), Some("Content-Transfer-Encoding: x-odd\r\n\r\n")),
            (&[3], header(), Some("Subject: inner\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n")),
            (&[4], header(), Some("Subject: plain\r\n\r\n")),
            (&[4], Some(SectionText::Text), Some("body of four")),
            (&[4], None, Some("Subject: plain\r\n\r\nbody of four")),
            (&[4, 1], None, Some("body of four")),
            (&[4, 1], mime(), Some("Subject: plain\r\n\r\n")),
            (&[4, 2], None, None),
            (&[5], None, None),
            (&[0], None, None),
        ] {
            assert_eq!(section(part, text.clone()).as_deref(), expected, "{part:?} {text:?}");
        }
    }

    #[test]
    fn chosen_fields_keep_their_bytes_and_end_in_an_empty_line() {
        let fields = |except, names: &[&str]| {
            section(
                &[],
                Some(SectionText::Fields {
                    except,
                    names: names.iter().map(|name| name.to_string()).collect(),
                }),
            )
        };
        assert_eq!(fields(false, &["x", "SUBJECT"]).unwrap(), "Subject: top\r\nX: y\r\n\r\n");
        assert_eq!(fields(false, &["none"]).unwrap(), "\r\n");
        assert_eq!(fields(true, &["content-type", "x"]).unwrap(), "Subject: top\r\n\r\n");
    }

    #[test]
    fn binary_undoes_the_transfer_encoding() {
        let mut parsed = Parsed::new(Bytes::from_static(MESSAGE.as_bytes()));
        assert_eq!(parsed.binary(&[2]), Binary::Decoded(Bytes::from_static(b"hi")));
        assert_eq!(parsed.binary(&[1]), Binary::Decoded(Bytes::from_static(b"one")));
        assert_eq!(parsed.binary(&[3, 2]), Binary::UnknownEncoding);
        assert_eq!(parsed.binary(&[9]), Binary::Missing);
        assert_eq!(parsed.binary(&[]), Binary::Decoded(Bytes::from_static(MESSAGE.as_bytes())));
    }

    #[test]
    fn partials_never_reach_beyond_the_end() {
        let bytes = Bytes::from_static(b"hello");
        let part = |offset, length| partial(bytes.clone(), Some(Partial { offset, length }));
        assert_eq!(part(1, 2), "el");
        assert_eq!(part(3, 100), "lo");
        assert_eq!(part(5, 1), "");
        assert_eq!(part(u64::MAX, u64::MAX), "");
    }
}
