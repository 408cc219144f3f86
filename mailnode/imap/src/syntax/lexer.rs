//! The tokens of commands: atoms, strings, numbers (RFC 9051 section 9), over the pieces of one command.
//!
//! Nothing here can panic on what a client sends; whatever does not fit is a [`SyntaxError`], which becomes BAD.

use bytes::Bytes;

use super::decoder::Piece;

/// Why a command was not understood: the text of the BAD response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(pub String);

impl SyntaxError {
    pub fn new(text: &str) -> SyntaxError {
        SyntaxError(text.to_owned())
    }
}

/// A cursor over the pieces of a command.
pub struct Lexer<'a> {
    pieces: &'a [Piece],
    index: usize,
    position: usize,
    /// Mailbox names are UTF-8 instead of modified UTF-7: after ENABLE IMAP4rev2 (RFC 9051 5.1).
    pub utf8_names: bool,
}

impl<'a> Lexer<'a> {
    pub fn new(pieces: &'a [Piece], utf8_names: bool) -> Lexer<'a> {
        Lexer { pieces, index: 0, position: 0, utf8_names }
    }

    fn text(&self) -> Option<&'a Bytes> {
        match self.pieces.get(self.index) {
            Some(Piece::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn rest(&self) -> &'a [u8] {
        self.text().and_then(|text| text.get(self.position..)).unwrap_or_default()
    }

    pub fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    /// Takes `byte` if it is next.
    pub fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.position += 1;
        }
        found
    }

    /// Takes `word`, in any case, if it is next.
    pub fn accept_word(&mut self, word: &str) -> bool {
        let found =
            self.rest().get(..word.len()).is_some_and(|next| next.eq_ignore_ascii_case(word.as_bytes()));
        if found {
            self.position += word.len();
        }
        found
    }

    /// Whether `bytes` are next.
    pub fn peek_bytes(&self, bytes: &[u8]) -> bool {
        self.rest().starts_with(bytes)
    }

    pub fn expect(&mut self, byte: u8) -> Result<(), SyntaxError> {
        if self.accept(byte) { Ok(()) } else { Err(SyntaxError(format!("expected '{}'", byte as char))) }
    }

    pub fn space(&mut self) -> Result<(), SyntaxError> {
        if self.accept(b' ') { Ok(()) } else { Err(SyntaxError::new("expected a space")) }
    }

    /// Nothing but spaces may be left.
    pub fn end(&mut self) -> Result<(), SyntaxError> {
        while self.accept(b' ') {}
        if self.rest().is_empty() && self.index + 1 >= self.pieces.len() {
            Ok(())
        } else {
            Err(SyntaxError::new("too many arguments"))
        }
    }

    /// Whether nothing is left.
    pub fn at_end(&self) -> bool {
        self.rest().is_empty() && self.index + 1 >= self.pieces.len()
    }

    fn take_while(&mut self, accepted: impl Fn(u8) -> bool) -> Bytes {
        let rest = self.rest();
        let length = rest.iter().position(|byte| !accepted(*byte)).unwrap_or(rest.len());
        let taken = match self.text() {
            Some(text) => text.slice(self.position..self.position + length),
            None => Bytes::new(),
        };
        self.position += length;
        taken
    }

    /// `1*<characters>` as text; empty is an error named `what`.
    fn word(&mut self, what: &str, accepted: impl Fn(u8) -> bool) -> Result<String, SyntaxError> {
        let word = self.take_while(|byte| byte.is_ascii() && accepted(byte));
        if word.is_empty() {
            return Err(SyntaxError(format!("expected {what}")));
        }
        Ok(String::from_utf8_lossy(&word).into_owned())
    }

    pub fn atom(&mut self) -> Result<String, SyntaxError> {
        self.word("an atom", is_atom_byte)
    }

    /// The tag of a command: ASTRING-CHAR except `+`.
    pub fn tag(&mut self) -> Result<String, SyntaxError> {
        self.word("a tag", |byte| is_astring_byte(byte) && byte != b'+')
    }

    /// A keyword of the grammar in upper case: letters, digits, `.`, `-`, `=`.
    pub fn keyword(&mut self) -> Result<String, SyntaxError> {
        let mut word = self.word("a word", |byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'=' | b'_')
        })?;
        word.make_ascii_uppercase();
        Ok(word)
    }

    pub fn number64(&mut self) -> Result<u64, SyntaxError> {
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        if digits.is_empty() {
            return Err(SyntaxError::new("expected a number"));
        }
        digits
            .iter()
            .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .filter(|number| *number <= i64::MAX as u64)
            .ok_or_else(|| SyntaxError::new("number too large"))
    }

    pub fn number(&mut self) -> Result<u32, SyntaxError> {
        u32::try_from(self.number64()?).map_err(|_| SyntaxError::new("number too large"))
    }

    pub fn nonzero(&mut self) -> Result<u32, SyntaxError> {
        match self.number()? {
            0 => Err(SyntaxError::new("expected a number above 0")),
            number => Ok(number),
        }
    }

    /// A literal, if one is next. `binary` allows literal8.
    pub fn literal(&mut self, binary: bool) -> Option<Bytes> {
        if !matches!(self.peek(), Some(b'{' | b'~')) {
            return None;
        }
        // The decoder put a literal behind a text only if the text ends in its announcement.
        let rest = self.rest();
        let header = rest.strip_prefix(b"~").unwrap_or(rest);
        let digits = header.strip_prefix(b"{")?.strip_suffix(b"}")?;
        if !digits.iter().all(|byte| byte.is_ascii_digit() || *byte == b'+') {
            return None;
        }
        let Some(Piece::Literal { bytes, binary: is_binary }) = self.pieces.get(self.index + 1) else {
            return None;
        };
        if *is_binary && !binary {
            return None;
        }
        self.index += 2;
        self.position = 0;
        Some(bytes.clone())
    }

    fn quoted(&mut self) -> Result<Bytes, SyntaxError> {
        self.expect(b'"')?;
        let plain = self.take_while(|byte| byte != b'"' && byte != b'\\');
        if self.accept(b'"') {
            return Ok(plain);
        }
        let mut value = plain.to_vec();
        loop {
            if self.accept(b'"') {
                return Ok(value.into());
            }
            if self.accept(b'\\') {
                // Only `"` and `\` are quoted (`quoted-specials`).
                match self.peek() {
                    Some(byte @ (b'"' | b'\\')) => value.push(byte),
                    _ => return Err(SyntaxError::new("bad escape in a quoted string")),
                }
                self.position += 1;
            }
            value.extend_from_slice(&self.take_while(|byte| byte != b'"' && byte != b'\\'));
            if self.rest().is_empty() {
                return Err(SyntaxError::new("quoted string without an end"));
            }
        }
    }

    /// A quoted string or a literal.
    pub fn string(&mut self) -> Result<Bytes, SyntaxError> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            _ => self.literal(false).ok_or_else(|| SyntaxError::new("expected a string")),
        }
    }

    /// A string, or `NIL`.
    pub fn nstring(&mut self) -> Result<Option<Bytes>, SyntaxError> {
        if self.accept_word("NIL") { Ok(None) } else { self.string().map(Some) }
    }

    pub fn astring(&mut self) -> Result<Bytes, SyntaxError> {
        match self.peek() {
            Some(b'"' | b'{') => self.string(),
            _ => self.bare("an astring", is_astring_byte),
        }
    }

    /// `list-mailbox`: like an astring, with the wildcards.
    pub fn list_mailbox(&mut self) -> Result<Bytes, SyntaxError> {
        match self.peek() {
            Some(b'"' | b'{') => self.string(),
            _ => self.bare("a mailbox pattern", |byte| is_astring_byte(byte) || matches!(byte, b'%' | b'*')),
        }
    }

    fn bare(&mut self, what: &str, accepted: impl Fn(u8) -> bool) -> Result<Bytes, SyntaxError> {
        let value = self.take_while(accepted);
        if value.is_empty() { Err(SyntaxError(format!("expected {what}"))) } else { Ok(value) }
    }

    /// An astring that is UTF-8.
    pub fn astring_text(&mut self) -> Result<String, SyntaxError> {
        utf8(self.astring()?)
    }

    /// `(` item *(SP item) `)`, possibly empty.
    pub fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<Vec<T>, SyntaxError> {
        self.expect(b'(')?;
        let mut items = Vec::new();
        if self.accept(b')') {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.accept(b')') {
                return Ok(items);
            }
            self.space()?;
        }
    }
}

/// Text of a client must be UTF-8 (RFC 9051 4.3).
pub fn utf8(bytes: Bytes) -> Result<String, SyntaxError> {
    String::from_utf8(bytes.into()).map_err(|_| SyntaxError::new("text is not UTF-8"))
}

/// ATOM-CHAR: no specials of the grammar. Bytes above 127 are no atom in any grammar, but some clients send them in names.
pub fn is_atom_byte(byte: u8) -> bool {
    byte > b' ' && byte != 127 && !matches!(byte, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']')
}

/// ASTRING-CHAR: atom characters and `]`.
pub fn is_astring_byte(byte: u8) -> bool {
    is_atom_byte(byte) || byte == b']'
}

/// Runs a parser over one line of text.
#[cfg(test)]
pub fn with_lexer<T>(text: &str, parse: impl FnOnce(&mut Lexer<'_>) -> T) -> T {
    let pieces = [Piece::Text(Bytes::copy_from_slice(text.as_bytes()))];
    parse(&mut Lexer::new(&pieces, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_strings_unescape_only_quote_and_backslash() {
        assert_eq!(with_lexer(r#""a\"b\\c""#, |lexer| lexer.astring()).unwrap(), r#"a"b\c"#);
        assert_eq!(with_lexer("\"\"", |lexer| lexer.astring()).unwrap(), "");
        for bad in [r#""a\x""#, "\"abc", r#""abc\"#, r#""abc\""#] {
            assert!(with_lexer(bad, |lexer| lexer.astring()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_literal_is_taken_only_where_it_was_announced() {
        let pieces = [
            Piece::Text(Bytes::from_static(b"{3}")),
            Piece::Literal { bytes: Bytes::from_static(b"a b"), binary: false },
            Piece::Text(Bytes::from_static(b" x {3}y")),
        ];
        let mut lexer = Lexer::new(&pieces, false);
        assert_eq!(lexer.astring().unwrap(), "a b");
        lexer.space().unwrap();
        assert_eq!(lexer.atom().unwrap(), "x");
        lexer.space().unwrap();
        assert!(lexer.astring().is_err());
    }

    #[test]
    fn numbers_do_not_overflow() {
        assert_eq!(with_lexer("4294967295", |lexer| lexer.number()), Ok(u32::MAX));
        assert!(with_lexer("4294967296", |lexer| lexer.number()).is_err());
        assert!(with_lexer("99999999999999999999", |lexer| lexer.number64()).is_err());
        assert!(with_lexer("9223372036854775808", |lexer| lexer.number64()).is_err());
    }
}
