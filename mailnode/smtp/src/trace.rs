//! The lines that final delivery puts before a message (RFC 5321 4.4), and the count of those that are there.

use crate::address::Address;
use crate::date::date;
use std::fmt::Write;
use std::net::IpAddr;

/// More than this and the message runs in a circle (RFC 5321 6.3).
pub const MOST_RECEIVED: usize = 50;

/// What is told of how a message came.
pub struct Trace<'a> {
    pub sender: Option<&'a Address>,
    /// What the client called itself.
    pub client: &'a str,
    pub peer: IpAddr,
    pub host_name: &'a str,
    /// RFC 3848, RFC 6531 4.3.
    pub with: &'a str,
    pub id: &'a str,
    /// Only if there is a single one: others must not learn of each other (RFC 5321 7.2).
    pub recipient: Option<&'a Address>,
    pub unix_seconds: i64,
}

impl Trace<'_> {
    /// Both header fields, with their line ends.
    pub fn lines(&self) -> String {
        let Self { client, host_name, with, id, .. } = self;
        let mut text = String::with_capacity(320);
        let sender = self.sender.map_or("", Address::as_str);
        let tag = if self.peer.is_ipv6() { "IPv6:" } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "Return-Path: <{sender}>\r\nReceived: from {client} ([{tag}{}])\r\n", self.peer);
        let _ = write!(text, "\tby {host_name} with {with} id {id}");
        if let Some(recipient) = self.recipient {
            let _ = write!(text, "\r\n\tfor <{recipient}>");
        }
        let _ = write!(text, ";\r\n\t{}\r\n", date(self.unix_seconds));
        text
    }
}

/// How many `Received:` fields the header of a message has.
pub fn received_lines(message: &[u8]) -> usize {
    header_lines(message).filter(|line| begins_field(line, b"received:")).count()
}

/// Whether a line of a header begins the field of this name, colon included. Names are compared without case.
pub fn begins_field(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

/// The lines of a message's header with their ends.
pub fn header_lines(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |position| position + 1);
        let (line, after) = rest.split_at_checked(end)?;
        rest = after;
        (!matches!(line, b"" | b"\n" | b"\r\n")).then_some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_say_how_a_message_came() {
        let (sender, _) = crate::address::path("<a@b.org>").unwrap();
        let mut trace = Trace {
            sender: sender.as_ref(),
            client: "host.example",
            peer: "192.0.2.1".parse().unwrap(),
            host_name: "mx.example.org",
            with: "ESMTPS",
            id: "7.1",
            recipient: sender.as_ref(),
            unix_seconds: 0,
        };
        assert_eq!(
            trace.lines(),
            "Return-Path: <a@b.org>\r\nReceived: from host.example ([192.0.2.1])\r\n\tby mx.example.org with \
             ESMTPS id 7.1\r\n\tfor <a@b.org>;\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\n"
        );
        trace.sender = None;
        trace.recipient = None;
        trace.peer = "::1".parse().unwrap();
        let lines = trace.lines();
        assert!(lines.starts_with("Return-Path: <>\r\nReceived: from host.example ([IPv6:::1])\r\n"));
        assert!(!lines.contains("for <"));
    }

    #[test]
    fn only_the_header_is_counted() {
        assert_eq!(
            received_lines(b"Received: a\r\nreceived: b\nX: y\r\n Received: c\r\n\r\nReceived: d\r\n"),
            2
        );
        assert_eq!(received_lines(b""), 0);
        assert_eq!(received_lines(b"Received: no end"), 1);
        assert_eq!(received_lines(b"\r\nReceived: body"), 0);
    }
}
