//! BODY and BODYSTRUCTURE (RFC 9051 7.5.2).

use bytes::{BufMut, BytesMut};

use super::header::{self, Parameterized};
use super::mime::{Content, Part};
use super::{envelope, transfer};
use crate::syntax::writer;

/// How to write a structure.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// BODYSTRUCTURE: with extension data.
    pub extended: bool,
    /// Strings may be quoted UTF-8, and RFC 2231 parameters are put together (RFC 9051 7.5.2).
    pub rev2: bool,
}

/// Writes the structure of `part` of the message `raw`.
pub fn write(out: &mut BytesMut, raw: &[u8], part: &Part, style: Style) {
    let header = raw.get(part.header.clone()).unwrap_or_default();
    out.put_u8(b'(');
    match &part.content {
        Content::Multipart(parts) => {
            for part in parts {
                write(out, raw, part, style);
            }
            out.put_u8(b' ');
            writer::string(out, &part.media.subtype, style.rev2);
            if style.extended {
                out.put_u8(b' ');
                parameters(out, &part.media.parameters.parameters, style);
                extension(out, header, style);
            }
        }
        content => {
            single(out, raw, part, header, content, style);
            if style.extended {
                out.put_u8(b' ');
                writer::nstring(out, header::find(header, "Content-MD5").as_deref(), style.rev2);
                extension(out, header, style);
            }
        }
    }
    out.put_u8(b')');
}

fn single(out: &mut BytesMut, raw: &[u8], part: &Part, header: &[u8], content: &Content, style: Style) {
    let body = raw.get(part.body.clone()).unwrap_or_default();
    let media = &part.media;
    // Too deep to be taken apart: must not claim a type whose structure it does not show.
    if matches!(content, Content::Leaf) && (media.is("multipart") || media.is_message()) {
        out.put_slice(b"\"application\" \"octet-stream\"");
    } else {
        writer::string(out, &media.kind, style.rev2);
        out.put_u8(b' ');
        writer::string(out, &media.subtype, style.rev2);
    }
    out.put_u8(b' ');
    parameters(out, &media.parameters.parameters, style);
    out.put_u8(b' ');
    writer::nstring(out, header::find(header, "Content-ID").as_deref(), style.rev2);
    out.put_u8(b' ');
    writer::nstring(out, header::find(header, "Content-Description").as_deref(), style.rev2);
    out.put_u8(b' ');
    writer::string(out, &transfer::encoding_name(header), style.rev2);
    out.put_u8(b' ');
    writer::number(out, body.len() as u64);
    let lines = || memchr::memchr_iter(b'\n', body).count() as u64;
    if let Content::Message(inner) = content {
        out.put_u8(b' ');
        envelope::write(out, raw.get(inner.header.clone()).unwrap_or_default(), style.rev2);
        out.put_u8(b' ');
        write(out, raw, inner, style);
        out.put_u8(b' ');
        writer::number(out, lines());
    } else if media.is("text") {
        out.put_u8(b' ');
        writer::number(out, lines());
    }
}

/// Disposition, language, location: behind the parameters or the MD5.
fn extension(out: &mut BytesMut, header: &[u8], style: Style) {
    out.put_u8(b' ');
    match header::find(header, "Content-Disposition") {
        Some(value) => {
            let disposition = Parameterized::parse(&value);
            out.put_u8(b'(');
            writer::string(out, &disposition.value, style.rev2);
            out.put_u8(b' ');
            parameters(out, &disposition.parameters, style);
            out.put_u8(b')');
        }
        None => out.put_slice(b"NIL"),
    }
    out.put_u8(b' ');
    let languages = header::find(header, "Content-Language").unwrap_or_default();
    let mut languages = languages
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|tag| !tag.is_empty())
        .peekable();
    if languages.peek().is_none() {
        out.put_slice(b"NIL");
    } else {
        out.put_u8(b'(');
        for (index, language) in languages.enumerate() {
            if index > 0 {
                out.put_u8(b' ');
            }
            writer::string(out, language, style.rev2);
        }
        out.put_u8(b')');
    }
    out.put_u8(b' ');
    writer::nstring(out, header::find(header, "Content-Location").as_deref(), style.rev2);
}

fn parameters(out: &mut BytesMut, parameters: &[(Vec<u8>, Vec<u8>)], style: Style) {
    if parameters.is_empty() {
        out.put_slice(b"NIL");
        return;
    }
    let joined = if style.rev2 { join(parameters) } else { parameters.to_vec() };
    out.put_u8(b'(');
    for (index, (name, value)) in joined.iter().enumerate() {
        if index > 0 {
            out.put_u8(b' ');
        }
        writer::string(out, name, style.rev2);
        out.put_u8(b' ');
        writer::string(out, value, style.rev2);
    }
    out.put_u8(b')');
}

/// Puts `name*0*`, `name*1`, ... together and decodes them (RFC 2231 sections 3 and 4; RFC 9051 7.5.2 asks for it).
fn join(parameters: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    struct Joined {
        name: Vec<u8>,
        sections: Vec<(u32, bool, Vec<u8>)>,
    }
    let mut joined: Vec<Joined> = Vec::new();
    for (name, value) in parameters {
        let mut pieces = name.split(|byte| *byte == b'*');
        let base = pieces.next().unwrap_or_default();
        let (number, encoded) = match (pieces.next(), pieces.next()) {
            (None, _) => (0, false),
            (Some(b""), _) => (0, true),
            (Some(number), extended) => {
                let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
                (number.unwrap_or(0), extended.is_some())
            }
        };
        let section = (number, encoded, value.clone());
        match joined.iter_mut().find(|known| known.name.eq_ignore_ascii_case(base)) {
            Some(known) => known.sections.push(section),
            None => joined.push(Joined { name: base.to_vec(), sections: vec![section] }),
        }
    }
    let value = |mut sections: Vec<(u32, bool, Vec<u8>)>| {
        sections.sort_by_key(|section| section.0);
        // A plain `name=` beside `name*=`: the extended one counts (RFC 5987 has the same rule).
        if sections.iter().any(|section| section.1) {
            sections.dedup_by(|next, first| {
                let same = next.0 == first.0;
                if same && next.1 {
                    std::mem::swap(next, first);
                }
                same
            });
        }
        let (mut charset, mut bytes) = (None, Vec::new());
        for (index, (_, encoded, value)) in sections.into_iter().enumerate() {
            let mut rest = value.as_slice();
            if encoded && index == 0 {
                let mut quotes = value.splitn(3, |byte| *byte == b'\'');
                if let (Some(label), Some(_), Some(text)) = (quotes.next(), quotes.next(), quotes.next()) {
                    charset = encoding_rs::Encoding::for_label(label);
                    rest = text;
                }
            }
            if encoded { bytes.extend(transfer::percent(rest)) } else { bytes.extend_from_slice(rest) }
        }
        match charset {
            Some(charset) => charset.decode_without_bom_handling(&bytes).0.into_owned().into_bytes(),
            None => bytes,
        }
    };
    joined.into_iter().map(|Joined { name, sections }| (name, value(sections))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::mime;

    fn structure(raw: &str, extended: bool, rev2: bool) -> String {
        let mut out = BytesMut::new();
        write(&mut out, raw.as_bytes(), &mime::parse(raw.as_bytes()), Style { extended, rev2 });
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_plain_message_is_text() {
        assert_eq!(
            structure("Subject: x\r\n\r\none\r\ntwo\r\n", false, false),
            "(\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 10 2)"
        );
        assert_eq!(
            structure(
                "Content-Type: Image/PNG\r\nContent-Transfer-Encoding: BASE64\r\nContent-ID: <a>\r\n\r\nAAAA",
                true,
                false
            ),
            "(\"Image\" \"PNG\" NIL \"<a>\" NIL \"BASE64\" 4 NIL NIL NIL NIL)"
        );
    }

    #[test]
    fn a_nested_multipart_with_a_message_is_shown_whole() {
        let raw = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n\
            --c\r\n\r\nx\r\n--c\r\nContent-Type: text/html\r\nContent-Language: de, en\r\n\r\n<p>\r\n--c--\r\n\
            --b\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment; filename=\"a b\"\r\n\r\nSubject: in\r\n\r\nhi\r\n\r\n--b--\r\n";
        assert_eq!(
            structure(raw, true, false),
            "(((\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 1 0 NIL NIL NIL NIL)\
             (\"text\" \"html\" NIL NIL NIL \"7bit\" 3 0 NIL NIL (\"de\" \"en\") NIL) \"alternative\" (\"boundary\" \"c\") NIL NIL NIL)\
             (\"message\" \"rfc822\" NIL NIL NIL \"7bit\" 19 (NIL \"in\" NIL NIL NIL NIL NIL NIL NIL NIL) \
             (\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 4 1 NIL NIL NIL NIL) 3 NIL (\"attachment\" (\"filename\" \"a b\")) NIL NIL) \
             \"mixed\" (\"boundary\" \"b\") NIL NIL NIL)"
        );
    }

    #[test]
    fn split_and_encoded_parameters_are_joined_for_rev2_only() {
        let raw = "Content-Type: application/x; name*1*=%C3%BC.pdf; name*0*=utf-8''M; title*=iso-8859-1'de'%FC; a=b\r\n\r\n";
        assert!(structure(raw, false, false).contains("(\"name*1*\" \"%C3%BC.pdf\" \"name*0*\""));
        assert!(
            structure(raw, false, true).contains("(\"name\" \"Mü.pdf\" \"title\" \"ü\" \"a\" \"b\")"),
            "{}",
            structure(raw, false, true)
        );
    }
}
