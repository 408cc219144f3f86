//! Evaluates search keys (RFC 9051 6.4.4).
//!
//! In two steps: first without the body, where a key that needs it is undecided; the body is read only if the whole stays
//! undecided. Text is compared without regard to case, after encoded words (RFC 2047), transfer encoding and charset are undone.

use bytes::Bytes;

use crate::backend::Message;
use crate::mailbox::Mailbox;
use crate::message::encoded_word;
use crate::message::header::{self, fields};
use crate::message::mime::{Content, Part};
use crate::message::section::Parsed;
use crate::message::transfer::{self, Encoding};
use crate::syntax::command::SearchKey;
use crate::syntax::date;
use crate::syntax::sequence::Ranges;

/// A search made ready for one mailbox: sets resolved, text folded.
#[derive(Debug)]
pub struct Query(Node);

#[derive(Debug)]
enum Node {
    And(Vec<Node>),
    Or(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Sequence(Ranges),
    Uid(Ranges),
    Header(String, String),
    BodyText(String),
    Text(String),
    Other(SearchKey),
}

impl Query {
    /// Prepares a key for `mailbox`. Sequence numbers that are not there match nothing.
    pub fn new<H>(key: &SearchKey, mailbox: &Mailbox<H>) -> Query {
        Query(Node::new(key, mailbox))
    }

    /// Whether the message matches; `None` if that cannot be told without the body.
    pub fn matches<H>(&self, sequence: u32, message: &Message<H>, body: Option<&mut Body>) -> Option<bool> {
        let mut body = body;
        self.0.matches(sequence, message, &mut body)
    }
}

/// Case folding for comparisons.
fn fold(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.to_lowercase() }
}

impl Node {
    fn new<H>(key: &SearchKey, mailbox: &Mailbox<H>) -> Node {
        let node = |key: &SearchKey| Node::new(key, mailbox);
        let saved = || Ranges::of_numbers(&mailbox.saved);
        match key {
            SearchKey::And(keys) => Node::And(keys.iter().map(node).collect()),
            SearchKey::Or(one, other) => Node::Or(Box::new(node(one)), Box::new(node(other))),
            SearchKey::Not(key) => Node::Not(Box::new(node(key))),
            SearchKey::Sequence(set) => match mailbox.ranges(set, false) {
                Some(ranges) => Node::Sequence(ranges),
                None => Node::Uid(saved()),
            },
            SearchKey::Uid(set) => Node::Uid(mailbox.ranges(set, true).unwrap_or_else(saved)),
            SearchKey::Header(name, text) => Node::Header(name.clone(), fold(text)),
            SearchKey::BodyText(text) => Node::BodyText(fold(text)),
            SearchKey::Text(text) => Node::Text(fold(text)),
            other => Node::Other(other.clone()),
        }
    }

    fn matches<H>(&self, sequence: u32, message: &Message<H>, body: &mut Option<&mut Body>) -> Option<bool> {
        match self {
            Node::And(nodes) => {
                let mut all = Some(true);
                for node in nodes {
                    match node.matches(sequence, message, body) {
                        Some(false) => return Some(false),
                        None => all = None,
                        Some(true) => {}
                    }
                }
                all
            }
            Node::Or(one, other) => {
                let (one, other) =
                    (one.matches(sequence, message, body), other.matches(sequence, message, body));
                if one == Some(true) || other == Some(true) { Some(true) } else { Some(one? | other?) }
            }
            Node::Not(node) => node.matches(sequence, message, body).map(|found| !found),
            Node::Sequence(ranges) => Some(ranges.contains(sequence)),
            Node::Uid(ranges) => Some(ranges.contains(message.uid)),
            Node::Header(name, text) => body.as_mut().map(|body| body.header_contains(name, text)),
            Node::BodyText(text) => body.as_mut().map(|body| body.text_contains(text)),
            Node::Text(text) => {
                body.as_mut().map(|body| body.any_header_contains(text) || body.text_contains(text))
            }
            Node::Other(key) => simple(key, message, body),
        }
    }
}

fn simple<H>(key: &SearchKey, message: &Message<H>, body: &mut Option<&mut Body>) -> Option<bool> {
    let day = || date::day_of(message.internal_date);
    let mut sent =
        |compare: &dyn Fn(date::Day) -> bool| body.as_mut().map(|body| body.sent_day().is_some_and(compare));
    match key {
        SearchKey::Flag(flag) => Some(message.flags.contains(*flag)),
        SearchKey::Keyword(keyword) => Some(message.flags.has_keyword(keyword)),
        SearchKey::Before(before) => Some(day() < *before),
        SearchKey::On(on) => Some(day() == *on),
        SearchKey::Since(since) => Some(day() >= *since),
        SearchKey::SentBefore(before) => sent(&|day| day < *before),
        SearchKey::SentOn(on) => sent(&|day| day == *on),
        SearchKey::SentSince(since) => sent(&|day| day >= *since),
        SearchKey::Larger(size) => Some(message.size > *size),
        SearchKey::Smaller(size) => Some(message.size < *size),
        SearchKey::ModSeq(modseq) => Some(message.modseq >= *modseq),
        SearchKey::All => Some(true),
        // All other keys have a node of their own.
        _ => Some(false),
    }
}

/// A message's text, decoded as far as keys asked for it.
pub struct Body {
    parsed: Parsed,
    header: Option<Vec<(String, String)>>,
    text: Option<Vec<String>>,
}

impl Body {
    pub fn new(raw: Bytes) -> Body {
        Body { parsed: Parsed::new(raw), header: None, text: None }
    }

    fn header(&mut self) -> &[(String, String)] {
        self.header.get_or_insert_with(|| decoded_fields(&self.parsed.header()))
    }

    fn header_contains(&mut self, name: &str, text: &str) -> bool {
        self.header().iter().any(|(known, value)| known.eq_ignore_ascii_case(name) && value.contains(text))
    }

    fn any_header_contains(&mut self, text: &str) -> bool {
        // The name is part of the field: TEXT "subject: hello" is a fair question.
        self.header()
            .iter()
            .any(|(name, value)| value.contains(text) || fold(&format!("{name}: {value}")).contains(text))
    }

    fn text_contains(&mut self, text: &str) -> bool {
        let parsed = &mut self.parsed;
        let texts = self.text.get_or_insert_with(|| {
            let raw = parsed.raw().clone();
            let mut texts = Vec::new();
            collect(&raw, parsed.root(), &mut texts);
            texts
        });
        texts.iter().any(|found| found.contains(text))
    }

    fn sent_day(&self) -> Option<date::Day> {
        let value = header::find(&self.parsed.header(), "Date")?;
        date::parse_header_day(&String::from_utf8_lossy(&value))
    }
}

fn decoded_fields(header: &[u8]) -> Vec<(String, String)> {
    fields(header)
        .map(|field| {
            let value = encoded_word::decode(&header::unfold(field.value));
            (String::from_utf8_lossy(field.name).into_owned(), fold(&value))
        })
        .collect()
}

/// The text of all text parts, and the headers of messages inside.
fn collect(raw: &[u8], part: &Part, texts: &mut Vec<String>) {
    match &part.content {
        Content::Multipart(parts) => parts.iter().for_each(|part| collect(raw, part, texts)),
        Content::Message(inner) => {
            let header = raw.get(inner.header.clone()).unwrap_or_default();
            texts.extend(
                decoded_fields(header).into_iter().map(|(name, value)| format!("{}: {value}", fold(&name))),
            );
            collect(raw, inner, texts);
        }
        Content::Leaf if part.media.is("text") => {
            let body = raw.get(part.body.clone()).unwrap_or_default();
            let header = raw.get(part.header.clone()).unwrap_or_default();
            let charset = part.media.parameters.parameter("charset").unwrap_or_default();
            let text = match transfer::encoding(header) {
                Encoding::Base64 => encoded_word::in_charset(charset, &transfer::base64(body)),
                Encoding::QuotedPrintable => {
                    encoded_word::in_charset(charset, &transfer::quoted_printable(body))
                }
                Encoding::Identity | Encoding::Unknown => encoded_word::in_charset(charset, body),
            };
            texts.push(fold(&text));
        }
        Content::Leaf => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Snapshot;
    use crate::flags::{Flags, SystemFlag};
    use std::sync::Arc;

    const RAW: &str = "From: =?utf-8?q?J=C3=BCrgen?= <j@example.com>\r\nSubject: =?utf-8?b?R3LDvMOfZQ==?=\r\n folded\r\n\
        Date: Fri, 21 Nov 1997 23:55:06 -0600\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nCAF=C9 au=\r\n lait\r\n\
        --b\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\nPGI+SGlkZGVuPC9iPg==\r\n\
        --b\r\nContent-Type: application/octet-stream\r\n\r\nopaque\r\n--b--\r\n";

    fn mailbox() -> Mailbox<()> {
        let message = Arc::new(Message {
            uid: 42,
            flags: Flags::new().with(SystemFlag::Seen),
            modseq: 5,
            size: 100,
            internal_date: 880_178_106,
            handle: (),
        });
        let snapshot = Snapshot {
            uid_validity: 1,
            uid_next: 43,
            highest_modseq: 5,
            token: crate::backend::Token::default(),
            messages: vec![message],
        };
        Mailbox::new(1, "INBOX".into(), false, snapshot)
    }

    fn without_body(key: &SearchKey) -> Option<bool> {
        let mailbox = mailbox();
        Query::new(key, &mailbox).matches(1, mailbox.message(1).unwrap(), None)
    }

    fn found(key: SearchKey) -> bool {
        let mailbox = mailbox();
        let mut body = Body::new(Bytes::from_static(RAW.as_bytes()));
        Query::new(&key, &mailbox).matches(1, mailbox.message(1).unwrap(), Some(&mut body)).unwrap()
    }

    fn header(name: &str, text: &str) -> SearchKey {
        SearchKey::Header(name.into(), text.into())
    }

    #[test]
    fn headers_are_compared_decoded_and_without_case() {
        assert!(found(header("SUBJECT", "GRÜßE folded")));
        assert!(found(header("from", "jürgen")));
        assert!(found(header("date", "")));
        assert!(!found(header("x-none", "")));
        assert!(!found(header("subject", "jürgen")));
        assert!(found(SearchKey::Text("JÜRGEN".into())));
    }

    #[test]
    fn bodies_are_compared_decoded() {
        for (text, expected) in
            [("café au lait", true), ("hidden", true), ("opaque", false), ("jürgen", false)]
        {
            assert_eq!(found(SearchKey::BodyText(text.into())), expected, "{text}");
        }
    }

    #[test]
    fn the_body_is_asked_for_only_if_it_decides() {
        let body = || SearchKey::BodyText("x".into());
        let seen = || SearchKey::Flag(SystemFlag::Seen);
        let not = |key| SearchKey::Not(Box::new(key));
        assert_eq!(without_body(&body()), None);
        assert_eq!(without_body(&SearchKey::And(vec![body(), not(seen())])), Some(false));
        assert_eq!(without_body(&SearchKey::And(vec![body(), seen()])), None);
        assert_eq!(without_body(&SearchKey::Or(Box::new(body()), Box::new(seen()))), Some(true));
        assert_eq!(without_body(&not(body())), None);
    }

    #[test]
    fn dates_are_compared_by_day() {
        let day = date::day(1997, 11, 21).unwrap();
        assert!(found(SearchKey::SentOn(day)) && !found(SearchKey::SentBefore(day)));
        assert!(found(SearchKey::SentSince(day)) && !found(SearchKey::SentSince(day + 1)));
        // The internal date is 22 November in UTC.
        assert!(
            found(SearchKey::On(day + 1))
                && found(SearchKey::Since(day))
                && !found(SearchKey::Before(day + 1))
        );
    }
}
