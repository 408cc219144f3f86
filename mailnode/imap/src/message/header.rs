//! Fields of a header, and the structured values that MIME puts into them (RFC 5322 2.2, RFC 2045 5.1, RFC 2183).

use memchr::memchr;

/// Length of the header at the start of `raw`, with the empty line that ends it. Without an empty line, all is header.
pub fn length(raw: &[u8]) -> usize {
    let mut position = 0;
    while let Some(end) = memchr(b'\n', raw.get(position..).unwrap_or_default()) {
        let line = raw.get(position..position + end).unwrap_or_default();
        position += end + 1;
        if matches!(line, b"" | b"\r") {
            return position;
        }
    }
    raw.len()
}

/// One field, with its continuation lines.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Everything, with the end of its last line.
    pub raw: &'a [u8],
    /// Empty for a line that is no field.
    pub name: &'a [u8],
    /// What follows the colon, still folded.
    pub value: &'a [u8],
}

impl Field<'_> {
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of a header; the empty line at its end is none of them.
pub fn fields(header: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = header;
    std::iter::from_fn(move || {
        if matches!(rest, b"" | b"\r") || rest.starts_with(b"\n") || rest.starts_with(b"\r\n") {
            return None;
        }
        let mut end = 0;
        loop {
            end += match memchr(b'\n', rest.get(end..)?) {
                Some(position) => position + 1,
                None => rest.len() - end,
            };
            if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let (raw, after) = rest.split_at(end);
        rest = after;
        let (name, value) = match memchr(b':', raw) {
            Some(colon) => (raw.get(..colon)?.trim_ascii_end(), raw.get(colon + 1..)?),
            None => (&raw[..0], raw),
        };
        Some(Field { raw, name, value })
    })
}

/// The value of the first field called `name`, unfolded.
pub fn find(header: &[u8], name: &str) -> Option<Vec<u8>> {
    fields(header).find(|field| field.is(name)).map(|field| unfold(field.value))
}

/// Takes the line ends out and the space around the value away (RFC 5322 2.2.3).
pub fn unfold(value: &[u8]) -> Vec<u8> {
    value.trim_ascii().iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect()
}

/// A value with parameters: `text/plain; charset=utf-8`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameterized {
    /// What is before the first `;`, without comments.
    pub value: Vec<u8>,
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The most parameters that are read of one field.
const MAX_PARAMETERS: usize = 100;

impl Parameterized {
    /// Reads an unfolded value; what is malformed is skipped.
    pub fn parse(text: &[u8]) -> Parameterized {
        let mut scanner = Scanner { rest: text };
        let value = scanner.token(b";");
        let mut parameters = Vec::new();
        while scanner.accept(b';') && parameters.len() < MAX_PARAMETERS {
            let name = scanner.token(b"=;");
            if scanner.accept(b'=') {
                let value = scanner.value();
                if !name.is_empty() {
                    parameters.push((name, value));
                }
            }
            scanner.skip_to(b';');
        }
        Parameterized { value, parameters }
    }

    /// The value of the parameter called `name`.
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        let found = self.parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| value.as_slice())
    }
}

struct Scanner<'a> {
    rest: &'a [u8],
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        if found {
            self.next();
        }
        found
    }

    /// Skips a comment whose `(` is already taken. Comments nest (RFC 5322 3.2.2).
    fn comment(&mut self) {
        let mut depth = 1;
        while let (Some(byte), true) = (self.next(), depth > 0) {
            match byte {
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'\\' => {
                    self.next();
                }
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn space(&mut self) {
        loop {
            match self.rest.first() {
                Some(b' ' | b'\t') => {
                    self.next();
                }
                Some(b'(') => {
                    self.next();
                    self.comment();
                }
                _ => return,
            }
        }
    }

    /// Everything up to one of `ends`, trimmed and without comments.
    fn token(&mut self, ends: &[u8]) -> Vec<u8> {
        let mut token = Vec::new();
        while let Some(byte) = self.rest.first().copied().filter(|byte| !ends.contains(byte)) {
            self.next();
            if byte == b'(' { self.comment() } else { token.push(byte) }
        }
        token.trim_ascii().to_vec()
    }

    /// A quoted string, or a token. A token ends at `;`: spaces inside are tolerated, as broken mailers do not quote file names.
    fn value(&mut self) -> Vec<u8> {
        self.space();
        if !self.accept(b'"') {
            return self.token(b";");
        }
        let mut value = Vec::new();
        while let Some(byte) = self.next() {
            match byte {
                b'"' => break,
                b'\\' => value.extend(self.next()),
                _ => value.push(byte),
            }
        }
        value
    }

    fn skip_to(&mut self, end: u8) {
        let position = memchr(end, self.rest).unwrap_or(self.rest.len());
        self.rest = self.rest.get(position..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_ends_behind_its_empty_line() {
        for (raw, expected) in [
            (&b"A: b\r\n\r\nbody"[..], 8),
            (b"A: b\n\nbody", 6),
            (b"\r\nbody", 2),
            (b"\nbody", 1),
            (b"A: b\r\nno end", 12),
            (b"", 0),
            (b"A: b\r\n\r", 7),
        ] {
            assert_eq!(length(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn fields_cover_the_header_whatever_it_holds() {
        for raw in [
            &b"A: b\r\n c\r\nD : e\r\n\r\n"[..],
            b" x\n\ty\nz\n\n",
            b"A",
            b"From x y\nA: b\n\n",
            b":\n\n",
            b"A: b\n\r",
        ] {
            let total: usize = fields(raw).map(|field| field.raw.len()).sum();
            assert!(matches!(&raw[total..], b"" | b"\r" | b"\n" | b"\r\n"), "{raw:?}");
        }
        let names: Vec<_> = fields(b"A: b\r\n c\r\nD : e\r\n\r\n").map(|field| field.name.to_vec()).collect();
        assert_eq!(names, [b"A", b"D"]);
        assert_eq!(find(b"a: x\r\n  y \r\n\r\n", "A").unwrap(), b"x  y");
    }

    #[test]
    fn parameters_are_read_through_quotes_and_comments() {
        let parsed = Parameterized::parse(
            b"multipart/Mixed (hi (nested)); boundary=\"a;\\\"b\" ; charset = utf-8 (x); bad; name=My file.txt",
        );
        assert_eq!(parsed.value, b"multipart/Mixed");
        assert_eq!(parsed.parameter("Boundary").unwrap(), b"a;\"b");
        assert_eq!(parsed.parameter("charset").unwrap(), b"utf-8");
        assert_eq!(parsed.parameter("name").unwrap(), b"My file.txt");
        for broken in [&b";"[..], b";;=;", b"a;b=\"", b"a;b=\"\\", b"(", b"a;=x", b"a; b=(((", b""] {
            Parameterized::parse(broken);
        }
    }
}
