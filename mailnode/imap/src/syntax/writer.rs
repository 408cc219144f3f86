//! Values to the bytes of responses (RFC 9051 section 9).

use bytes::{BufMut, BytesMut};

/// `quoted` if that can hold the value, else a literal. A NUL cannot be sent in either (RFC 9051 4.3) and is left out: this is for
/// parsed values (ENVELOPE, BODYSTRUCTURE), never for bodies.
pub fn string(out: &mut BytesMut, value: &[u8], utf8: bool) {
    let quotable = value.len() <= 1000
        && value.iter().all(|byte| !matches!(byte, 0 | b'\r' | b'\n'))
        && (value.is_ascii() || utf8 && std::str::from_utf8(value).is_ok());
    if quotable {
        out.put_u8(b'"');
        for byte in value {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(*byte);
        }
        out.put_u8(b'"');
    } else if value.contains(&0) {
        let clean: Vec<u8> = value.iter().copied().filter(|byte| *byte != 0).collect();
        string(out, &clean, utf8);
    } else {
        literal_header(out, value.len(), false);
        out.put_slice(value);
    }
}

/// `{n}` CRLF, or `~{n}` CRLF.
pub fn literal_header(out: &mut BytesMut, length: usize, binary: bool) {
    if binary {
        out.put_u8(b'~');
    }
    out.put_u8(b'{');
    number(out, length as u64);
    out.put_slice(b"}\r\n");
}

pub fn nstring(out: &mut BytesMut, value: Option<&[u8]>, utf8: bool) {
    match value {
        Some(value) => string(out, value, utf8),
        None => out.put_slice(b"NIL"),
    }
}

pub fn number(out: &mut BytesMut, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.put_slice(&digits[start..]);
}

/// A mailbox name: modified UTF-7 for IMAP4rev1, UTF-8 after ENABLE IMAP4rev2.
pub fn mailbox(out: &mut BytesMut, name: &str, utf8: bool) {
    if utf8 {
        string(out, name.as_bytes(), true);
        return;
    }
    let encoded = super::utf7::encode(name);
    let plain = !encoded.is_empty()
        && !encoded.eq_ignore_ascii_case("NIL")
        && encoded.bytes().all(super::lexer::is_astring_byte);
    if plain { out.put_slice(encoded.as_bytes()) } else { string(out, encoded.as_bytes(), false) }
}

/// `(` names `)`.
pub fn list<'a>(out: &mut BytesMut, names: impl Iterator<Item = &'a str>) {
    out.put_u8(b'(');
    for (index, name) in names.enumerate() {
        if index > 0 {
            out.put_u8(b' ');
        }
        out.put_slice(name.as_bytes());
    }
    out.put_u8(b')');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn strings_are_quoted_only_if_they_can_be() {
        assert_eq!(written(|out| string(out, b"a\"b\\c", false)), r#""a\"b\\c""#);
        assert_eq!(written(|out| string(out, b"a\r\nb", false)), "{4}\r\na\r\nb");
        assert_eq!(written(|out| string(out, "ü".as_bytes(), false)), "{2}\r\nü");
        assert_eq!(written(|out| string(out, "ü".as_bytes(), true)), "\"ü\"");
        assert_eq!(written(|out| string(out, b"a\0b", false)), "\"ab\"");
        assert_eq!(written(|out| nstring(out, None, false)), "NIL");
    }

    #[test]
    fn names_are_written_for_the_revision_in_use() {
        assert_eq!(written(|out| mailbox(out, "Entwürfe", false)), "Entw&APw-rfe");
        assert_eq!(written(|out| mailbox(out, "Entwürfe", true)), "\"Entwürfe\"");
        assert_eq!(written(|out| mailbox(out, "a b", false)), "\"a b\"");
        assert_eq!(written(|out| mailbox(out, "nil", false)), "\"nil\"");
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for value in [0, 7, 10, 4_294_967_295, u64::MAX] {
            assert_eq!(written(|out| number(out, value)), value.to_string());
        }
    }
}
