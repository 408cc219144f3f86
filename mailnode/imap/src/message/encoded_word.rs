//! Text of header fields, with encoded words decoded (RFC 2047), for searching.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

use super::transfer;

/// Bytes in an unknown charset: UTF-8 if they can be, else what most such mail is.
pub fn guess(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned(),
    }
}

/// Bytes in the charset of that name; guessed, if it is not known. UTF-7 is not among the known ones.
pub fn in_charset(label: &[u8], bytes: &[u8]) -> String {
    match Encoding::for_label(label) {
        None => guess(bytes),
        // Much mail that calls itself ASCII or Latin 1 is UTF-8.
        Some(encoding) if encoding == UTF_8 || encoding == WINDOWS_1252 => guess(bytes),
        Some(encoding) => encoding.decode_without_bom_handling(bytes).0.into_owned(),
    }
}

/// Decodes an unfolded value.
pub fn decode(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    let mut after_word = false;
    while let Some(start) = memchr::memmem::find(rest, b"=?") {
        let (before, candidate) = rest.split_at(start);
        match word(candidate) {
            Some((text, length)) => {
                // RFC 2047 6.2: white space between two encoded words is not shown.
                if !(after_word && before.trim_ascii().is_empty()) {
                    out.push_str(&guess(before));
                }
                out.push_str(&text);
                rest = candidate.get(length..).unwrap_or_default();
                after_word = true;
            }
            None => {
                out.push_str(&guess(before));
                out.push_str("=?");
                rest = candidate.get(2..).unwrap_or_default();
                after_word = false;
            }
        }
    }
    out.push_str(&guess(rest));
    out
}

/// `=?charset?encoding?text?=` at the start: its text and length. The charset may carry a language (RFC 2231 section 5).
fn word(candidate: &[u8]) -> Option<(String, usize)> {
    let inner = candidate.get(2..candidate.len().min(2000))?;
    let first = memchr::memchr(b'?', inner)?;
    let charset = inner.get(..first)?;
    if charset.is_empty() || charset.contains(&b' ') || inner.get(first + 2) != Some(&b'?') {
        return None;
    }
    let encoded = inner.get(first + 3..)?;
    let end = memchr::memmem::find(encoded, b"?=")?;
    let encoded_text = encoded.get(..end)?;
    let bytes = match inner.get(first + 1)? {
        b'B' | b'b' => transfer::base64(encoded_text),
        b'Q' | b'q' => {
            let spaced: Vec<u8> =
                encoded_text.iter().map(|byte| if *byte == b'_' { b' ' } else { *byte }).collect();
            transfer::quoted_printable(&spaced)
        }
        _ => return None,
    };
    let label = charset.split(|byte| *byte == b'*').next().unwrap_or_default();
    Some((in_charset(label, &bytes), 2 + first + 3 + end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_are_decoded_and_joined() {
        for (encoded, expected) in [
            (&b"=?utf-8?q?caf=C3=A9?= au lait"[..], "café au lait"),
            (b"=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
            (b"=?ISO-8859-1?Q?a_b?= x =?ISO-8859-1?Q?b?=", "a b x b"),
            (b"=?ISO-2022-JP?B?GyRCJDMkcyRLJEEkTxsoQg==?=", "こんにちは"),
            (b"=?utf-8*en?b?w7w=?=", "ü"),
            (b"\xfcber", "über"),
            ("über".as_bytes(), "über"),
        ] {
            assert_eq!(decode(encoded), expected);
        }
    }

    #[test]
    fn what_is_no_encoded_word_stays() {
        for text in ["=?", "=?utf-8", "=?utf-8?x?abc?=", "=?utf-8?q?abc", "a =? b ?= c", "=??q?x?="] {
            assert_eq!(decode(text.as_bytes()), text);
        }
    }
}
