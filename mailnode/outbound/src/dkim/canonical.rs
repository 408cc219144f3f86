//! Canonical forms of header and body, `relaxed` both (RFC 6376 3.4.2, 3.4.4): what mail systems on the way change does
//! not break the signature.

use ring::digest::{Context, SHA256};

/// One field of a header, its lines with their ends.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// As written; compare without case.
    pub name: &'a [u8],
    pub value: &'a [u8],
}

/// The fields of a message's header, and its body. Lines that belong to no field are left out.
pub fn split(message: &[u8]) -> (Vec<Field<'_>>, &[u8]) {
    let mut fields: Vec<Field<'_>> = Vec::new();
    let mut rest = message;
    loop {
        if let Some(body) = rest.strip_prefix(b"\r\n") {
            return (fields, body);
        }
        if rest.is_empty() {
            return (fields, rest);
        }
        let mut end = line_end(rest);
        // Folded lines belong to the field (RFC 5322 2.2.3).
        while rest.get(end).is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            end += rest.get(end..).map_or(0, line_end);
        }
        let (field, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        if let Some(colon) = memchr::memchr(b':', field) {
            let (name, value) = field.split_at_checked(colon).unwrap_or((field, &[]));
            let name = name.trim_ascii_end();
            if !name.is_empty() {
                fields.push(Field { name, value: value.get(1..).unwrap_or_default() });
            }
        }
        rest = after;
    }
}

fn line_end(text: &[u8]) -> usize {
    memchr::memchr(b'\n', text).map_or(text.len(), |end| end + 1)
}

/// RFC 6376 3.4.2, without the line end.
pub fn header(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = name.to_ascii_lowercase();
    out.push(b':');
    let words =
        value.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).filter(|word| !word.is_empty());
    for (index, word) in words.enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
    out
}

/// SHA-256 of the body in the form of RFC 6376 3.4.4.
pub fn body_hash(body: &[u8]) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    // Empty lines count only if something follows.
    let mut empty = 0;
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = relaxed_line(line);
        if line.is_empty() {
            empty += 1;
            continue;
        }
        for _ in 0..std::mem::take(&mut empty) {
            hash.update(b"\r\n");
        }
        hash.update(&line);
        hash.update(b"\r\n");
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    digest
}

/// White space within a line is one space, and none is at its end.
fn relaxed_line(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let mut space = false;
    for &byte in line {
        if matches!(byte, b' ' | b'\t') {
            space = true;
            continue;
        }
        if std::mem::take(&mut space) {
            out.push(b' ');
        }
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn the_example_of_the_rfc_is_as_it_says() {
        // RFC 6376 3.4.5.
        let message = b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n";
        let (fields, body) = split(message);
        let headers: Vec<Vec<u8>> = fields.iter().map(|field| header(field.name, field.value)).collect();
        assert_eq!(headers, [b"a:X".to_vec(), b"b:Y Z".to_vec()]);
        let digest = ring::digest::digest(&SHA256, b" C\r\nD E\r\n");
        assert_eq!(body_hash(body), digest.as_ref());
    }

    #[test]
    fn an_empty_body_has_the_hash_of_the_rfc() {
        // RFC 6376 3.4.4.
        let hash = |body| STANDARD.encode(body_hash(body));
        assert_eq!(hash(b""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(hash(b"\r\n\r\n"), hash(b""));
    }

    #[test]
    fn a_header_without_end_or_sense_is_split_all_the_same() {
        for text in [&b""[..], b"\r\n", b"x", b"\n\n", b": y\r\n", b" folded\r\n\tfirst\r\n", b"A: b"] {
            let (fields, body) = split(text);
            assert!(fields.len() <= 1 && body.is_empty(), "{}", text.escape_ascii());
        }
    }
}
