//! Address lists as ENVELOPE shows them (RFC 5322 3.4, RFC 9051 7.5.2), read with much tolerance.

/// The most addresses (and group marks) read from one field.
const MAX_ADDRESSES: usize = 5_000;

/// `address` of the grammar. A group is a mark with its name as mailbox and no host, its members, and an empty mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    pub name: Option<Vec<u8>>,
    pub route: Option<Vec<u8>>,
    pub mailbox: Option<Vec<u8>>,
    pub host: Option<Vec<u8>>,
}

/// Reads an unfolded field value.
pub fn parse(value: &[u8]) -> Vec<Address> {
    let mut parser = Parser { rest: value, comment: None };
    let mut addresses = Vec::new();
    let mut in_group = false;
    while addresses.len() < MAX_ADDRESSES {
        let (words, quoted) = parser.words();
        match parser.next() {
            Some(b'<') => {
                let mut address = parser.angle();
                address.name = Some(words).filter(|words| !words.is_empty());
                addresses.push(address);
                parser.skip_to_separator();
            }
            Some(b'@') => {
                let host = parser.domain();
                let name = parser.comment.take();
                addresses.push(Address { name, route: None, mailbox: Some(words), host: Some(host) });
                parser.skip_to_separator();
            }
            Some(b':') if !in_group => {
                in_group = true;
                addresses.push(Address { mailbox: Some(words), ..Address::default() });
            }
            Some(b';') => {
                bare(&mut addresses, words, quoted, &mut parser);
                if in_group {
                    in_group = false;
                    addresses.push(Address::default());
                }
            }
            Some(b',') => bare(&mut addresses, words, quoted, &mut parser),
            Some(_) => {}
            None => {
                bare(&mut addresses, words, quoted, &mut parser);
                break;
            }
        }
    }
    if in_group {
        addresses.push(Address::default());
    }
    addresses
}

/// A mailbox without a host. The host is empty and not NIL, because NIL would make it a group.
fn bare(addresses: &mut Vec<Address>, words: Vec<u8>, quoted: bool, parser: &mut Parser<'_>) {
    let name = parser.comment.take();
    if !words.is_empty() || quoted {
        addresses.push(Address { name, route: None, mailbox: Some(words), host: Some(Vec::new()) });
    }
}

struct Parser<'a> {
    rest: &'a [u8],
    /// The last comment: some write the name there.
    comment: Option<Vec<u8>>,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Text of a quoted string or comment whose opening is taken.
    fn delimited(&mut self, open: Option<u8>, close: u8) -> Vec<u8> {
        let (mut text, mut depth) = (Vec::new(), 1);
        while let Some(byte) = self.next() {
            if byte == b'\\' {
                text.extend(self.next());
                continue;
            }
            if Some(byte) == open {
                depth += 1;
            }
            if byte == close {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            text.push(byte);
        }
        text
    }

    /// Words up to a special, with one space where there was any, without quoting; and whether any was quoted.
    fn words(&mut self) -> (Vec<u8>, bool) {
        let (mut words, mut space, mut quoted) = (Vec::new(), false, false);
        while let Some(byte) = self.peek() {
            if matches!(byte, b'<' | b'@' | b',' | b';' | b':') {
                break;
            }
            self.next();
            match byte {
                b' ' | b'\t' => {
                    space = true;
                    continue;
                }
                b'(' => {
                    self.comment = Some(self.delimited(Some(b'('), b')').trim_ascii().to_vec());
                    space = true;
                    continue;
                }
                _ if space && !words.is_empty() => words.push(b' '),
                _ => {}
            }
            space = false;
            match byte {
                b'"' => {
                    quoted = true;
                    words.extend(self.delimited(None, b'"'));
                }
                b'\\' => words.extend(self.next()),
                b'>' => {}
                _ => words.push(byte),
            }
        }
        (words, quoted)
    }

    /// A domain up to a space or special; a domain literal keeps its brackets.
    fn domain(&mut self) -> Vec<u8> {
        let mut domain = Vec::new();
        let mut literal = false;
        while let Some(byte) = self.peek() {
            match byte {
                b'[' => literal = true,
                b']' => literal = false,
                b'(' => {
                    self.next();
                    self.comment = Some(self.delimited(Some(b'('), b')').trim_ascii().to_vec());
                    continue;
                }
                b',' | b';' | b'>' | b'<' => break,
                b':' if !literal => break,
                b' ' | b'\t' => {
                    self.next();
                    continue;
                }
                _ => {}
            }
            domain.push(byte);
            self.next();
        }
        domain
    }

    /// `addr-spec>` or `route:addr-spec>`, the `<` taken.
    fn angle(&mut self) -> Address {
        let mut address = Address::default();
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.next();
        }
        if self.peek() == Some(b'@')
            && let Some(colon) = self.rest.iter().position(|byte| matches!(byte, b':' | b'>'))
            && self.rest.get(colon) == Some(&b':')
        {
            address.route = self.rest.get(..colon).map(<[u8]>::to_vec);
            self.rest = self.rest.get(colon + 1..).unwrap_or_default();
        }
        let mut mailbox = Vec::new();
        while let Some(byte) = self.next() {
            match byte {
                b'@' => {
                    address.host = Some(self.domain());
                    while self.next().is_some_and(|byte| byte != b'>') {}
                    break;
                }
                b'>' => break,
                b'"' => mailbox.extend(self.delimited(None, b'"')),
                b' ' | b'\t' => {}
                _ => mailbox.push(byte),
            }
        }
        address.mailbox = Some(mailbox);
        address.host.get_or_insert_default();
        address
    }

    fn skip_to_separator(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b',' => {
                    self.next();
                    break;
                }
                b';' => break,
                b'"' => {
                    self.next();
                    self.delimited(None, b'"');
                }
                b'(' => {
                    self.next();
                    self.delimited(Some(b'('), b')');
                }
                _ => {
                    self.next();
                }
            }
        }
        self.comment = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> Vec<String> {
        let part = |part: &Option<Vec<u8>>| match part {
            Some(text) => String::from_utf8_lossy(text).into_owned(),
            None => "NIL".to_owned(),
        };
        parse(value.as_bytes())
            .iter()
            .map(|address| {
                [&address.name, &address.route, &address.mailbox, &address.host].map(part).join("|")
            })
            .collect()
    }

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(shown("joe@example.com"), ["NIL|NIL|joe|example.com"]);
        assert_eq!(
            shown("Joe Q. Public <john.q.public@example.com>"),
            ["Joe Q. Public|NIL|john.q.public|example.com"]
        );
        assert_eq!(
            shown("\"Giant; \\\"Big\\\" Box\" <a@b>, c@d"),
            ["Giant; \"Big\" Box|NIL|a|b", "NIL|NIL|c|d"]
        );
        assert_eq!(shown("a@b (Some One), <c@d>"), ["Some One|NIL|a|b", "NIL|NIL|c|d"]);
        assert_eq!(shown("\"a b\"@c"), ["NIL|NIL|a b|c"]);
        assert_eq!(shown("<\"x@y\"@[10.0.0.1]>"), ["NIL|NIL|x@y|[10.0.0.1]"]);
        assert_eq!(shown("X <@r1,@r2:a@b>"), ["X|@r1,@r2|a|b"]);
        assert_eq!(shown("=?utf-8?q?J=C3=BC?= <a@b>"), ["=?utf-8?q?J=C3=BC?=|NIL|a|b"]);
        assert_eq!(shown("\"\" <a@b>"), ["NIL|NIL|a|b"]);
    }

    #[test]
    fn groups_are_marked_at_both_ends() {
        assert_eq!(
            shown("A Group:Ed <e@x>,joe@y;, z@z"),
            ["NIL|NIL|A Group|NIL", "Ed|NIL|e|x", "NIL|NIL|joe|y", "NIL|NIL|NIL|NIL", "NIL|NIL|z|z"]
        );
        assert_eq!(
            shown("undisclosed-recipients:;"),
            ["NIL|NIL|undisclosed-recipients|NIL", "NIL|NIL|NIL|NIL"]
        );
        assert_eq!(shown("open: a@b"), ["NIL|NIL|open|NIL", "NIL|NIL|a|b", "NIL|NIL|NIL|NIL"]);
    }

    #[test]
    fn broken_addresses_do_no_harm() {
        assert_eq!(shown("root"), ["NIL|NIL|root|"]);
        assert_eq!(shown("<root>, <>"), ["NIL|NIL|root|", "NIL|NIL||"]);
        assert_eq!(shown(" , ,, "), [] as [&str; 0]);
        for broken in [
            "<", "\"", "(", "a@", "@", ":", ";", "a:b:c;d;", "<@", "<@a", "\\", "a <b", "a>b", "((((",
            "x <@:@:>",
        ] {
            shown(broken);
        }
        assert!(shown(&"a:;".repeat(100_000)).len() <= MAX_ADDRESSES + 2);
    }
}
