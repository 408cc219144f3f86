//! Content-Transfer-Encoding (RFC 2045 section 6): names, and tolerant decoders.

use super::header;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 7bit, 8bit, binary, or not told.
    Identity,
    Base64,
    QuotedPrintable,
    /// Not known to us: UNKNOWN-CTE (RFC 3516 4.3).
    Unknown,
}

/// The encoding's name as the header has it; `7bit` if it has none.
pub fn encoding_name(header: &[u8]) -> Vec<u8> {
    let value = header::find(header, "Content-Transfer-Encoding").unwrap_or_default();
    let name = header::Parameterized::parse(&value).value;
    if name.is_empty() { b"7bit".to_vec() } else { name }
}

pub fn encoding(header: &[u8]) -> Encoding {
    let name = encoding_name(header).to_ascii_lowercase();
    match name.as_slice() {
        b"7bit" | b"8bit" | b"binary" => Encoding::Identity,
        b"base64" => Encoding::Base64,
        b"quoted-printable" => Encoding::QuotedPrintable,
        _ => Encoding::Unknown,
    }
}

fn sextet(byte: u8) -> Option<u32> {
    Some(
        match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }
        .into(),
    )
}

/// Decodes base64; bytes outside the alphabet are skipped (RFC 2045 6.8), padding ends a group.
pub fn base64(encoded: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in encoded {
        if *byte == b'=' {
            (bits, count) = (0, 0);
        }
        let Some(value) = sextet(*byte) else { continue };
        bits = (bits << 6) | value;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    out
}

fn hex(high: Option<&u8>, low: Option<&u8>) -> Option<u8> {
    let digit = |byte: Option<&u8>| (*byte? as char).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

/// Decodes quoted-printable; what is no valid escape stays as it is (RFC 2045 6.7).
pub fn quoted_printable(encoded: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded.len());
    for line in encoded.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let end = line.get(text.len()..).unwrap_or_default();
        // Rule 3: white space at the end of a line was added in transit.
        let mut text = if end.is_empty() { text } else { text.trim_ascii_end() };
        let soft = text.last() == Some(&b'=');
        if soft {
            text = text.get(..text.len() - 1).unwrap_or_default();
        }
        let mut index = 0;
        while let Some(byte) = text.get(index) {
            let escaped = if *byte == b'=' { hex(text.get(index + 1), text.get(index + 2)) } else { None };
            out.push(escaped.unwrap_or(*byte));
            index += if escaped.is_some() { 3 } else { 1 };
        }
        if !soft {
            out.extend_from_slice(end);
        }
    }
    out
}

/// Decodes `%` escapes (RFC 2231 section 4).
pub fn percent(encoded: &[u8]) -> Vec<u8> {
    let (mut out, mut index) = (Vec::with_capacity(encoded.len()), 0);
    while let Some(byte) = encoded.get(index) {
        let escaped = if *byte == b'%' { hex(encoded.get(index + 1), encoded.get(index + 2)) } else { None };
        out.push(escaped.unwrap_or(*byte));
        index += if escaped.is_some() { 3 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_survives_line_ends_junk_and_missing_padding() {
        assert_eq!(base64(b"aGVs\r\nbG8g d29y*bGQ="), b"hello world");
        assert_eq!(base64(b"aGVsbG8"), b"hello");
        assert_eq!(base64(b"YQ==YQ=="), b"aa");
        assert_eq!(base64(b"===\xff"), b"");
    }

    #[test]
    fn quoted_printable_keeps_what_it_cannot_decode() {
        assert_eq!(quoted_printable(b"a=3D=\r\nb =20 \r\nc=XX=4"), b"a=b  \r\nc=XX=4");
        assert_eq!(quoted_printable(b"caf=c3=A9="), "café".as_bytes());
        assert_eq!(quoted_printable(b""), b"");
    }

    #[test]
    fn encodings_are_known_by_name() {
        assert_eq!(encoding(b"Content-Transfer-Encoding: Base64 (x)\n\n"), Encoding::Base64);
        assert_eq!(encoding(b"\n"), Encoding::Identity);
        assert_eq!(encoding(b"Content-Transfer-Encoding: x-uuencode\n\n"), Encoding::Unknown);
    }
}
