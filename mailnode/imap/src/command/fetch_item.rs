//! The FETCH response of one message (RFC 9051 7.5.2).

use std::io;

use bytes::{BufMut, Bytes, BytesMut};

use crate::backend::Message;
use crate::logged_in::Enabled;
use crate::message::section::{self, Binary, Parsed};
use crate::message::{bodystructure, envelope};
use crate::output::Output;
use crate::responses::Responses;
use crate::syntax::command::{Attribute, Fetch, Partial, Section, SectionText};
use crate::syntax::lexer::is_atom_byte;
use crate::syntax::{date, writer};

/// How to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub rev2: bool,
    /// Show the flags, because they were asked for or have changed.
    pub flags: bool,
    pub uid: bool,
    pub modseq: bool,
}

impl Style {
    pub fn new(fetch: &Fetch, enabled: Enabled) -> Style {
        Style {
            rev2: enabled.rev2,
            flags: fetch.attributes.contains(&Attribute::Flags),
            // RFC 9051 6.4.9: UID FETCH always has the UID.
            uid: fetch.uid || fetch.attributes.contains(&Attribute::Uid),
            // RFC 7162 3.1: once CONDSTORE is on, every FETCH response has MODSEQ.
            modseq: enabled.condstore,
        }
    }
}

/// Whether the item is made from the body.
pub(crate) fn needs_body(item: &Attribute) -> bool {
    !matches!(
        item,
        Attribute::Flags
            | Attribute::InternalDate
            | Attribute::Rfc822Size
            | Attribute::Uid
            | Attribute::ModSeq
    )
}

/// Whether the item implicitly sets `\Seen`.
pub(crate) fn sets_seen(item: &Attribute) -> bool {
    match item {
        Attribute::Rfc822 | Attribute::Rfc822Text => true,
        Attribute::Section { peek, .. } | Attribute::Binary { peek, .. } => !peek,
        _ => false,
    }
}

/// BINARY of a part whose encoding cannot be undone (RFC 3516 4.3).
pub(crate) fn has_unknown_encoding(item: &Attribute, parsed: &mut Parsed) -> bool {
    match item {
        Attribute::Binary { part, .. } | Attribute::BinarySize { part } => parsed.has_unknown_encoding(part),
        _ => false,
    }
}

/// Writes the response. Without `parsed`, items that need the body are left out. Flushes between items, so that no more than
/// one of them is in memory.
pub(crate) async fn write<H, O: Output>(
    number: u32,
    message: &Message<H>,
    mut parsed: Option<&mut Parsed>,
    items: &[Attribute],
    style: Style,
    out: &mut Responses<'_, O>,
) -> io::Result<()> {
    let text = out.text();
    text.put_slice(b"* ");
    writer::number(text, number.into());
    text.put_slice(b" FETCH (");
    let mut first = true;
    // These come first and once, whatever was asked: clients that stream know the message before its body comes.
    if style.uid {
        between(text, &mut first);
        text.put_slice(b"UID ");
        writer::number(text, message.uid.into());
    }
    if style.flags {
        between(text, &mut first);
        text.put_slice(b"FLAGS ");
        writer::list(text, message.flags.names());
    }
    if style.modseq {
        between(text, &mut first);
        text.put_slice(b"MODSEQ (");
        writer::number(text, message.modseq);
        text.put_u8(b')');
    }
    for item in items {
        match item {
            Attribute::Uid | Attribute::Flags | Attribute::ModSeq => {}
            Attribute::InternalDate => {
                let text = out.text();
                between(text, &mut first);
                text.put_slice(b"INTERNALDATE \"");
                text.put_slice(date::format(message.internal_date).as_bytes());
                text.put_u8(b'"');
            }
            Attribute::Rfc822Size => {
                let text = out.text();
                between(text, &mut first);
                text.put_slice(b"RFC822.SIZE ");
                writer::number(text, message.size);
            }
            item => {
                if let Some(parsed) = parsed.as_deref_mut() {
                    between(out.text(), &mut first);
                    of_body(item, parsed, style.rev2, out);
                    out.flush_if_full().await?;
                }
            }
        }
    }
    out.line(format_args!(")"));
    Ok(())
}

fn between(text: &mut BytesMut, first: &mut bool) {
    if !std::mem::replace(first, false) {
        text.put_u8(b' ');
    }
}

fn of_body<O: Output>(item: &Attribute, parsed: &mut Parsed, rev2: bool, out: &mut Responses<'_, O>) {
    let text = out.text();
    match item {
        Attribute::Envelope => {
            text.put_slice(b"ENVELOPE ");
            envelope::write(text, &parsed.header(), rev2);
        }
        Attribute::Body | Attribute::BodyStructure => {
            let extended = *item == Attribute::BodyStructure;
            text.put_slice(if extended { b"BODYSTRUCTURE " } else { b"BODY " });
            let raw = parsed.raw().clone();
            bodystructure::write(text, &raw, parsed.root(), bodystructure::Style { extended, rev2 });
        }
        Attribute::Rfc822 => {
            text.put_slice(b"RFC822 ");
            literal(parsed.raw().clone(), false, out);
        }
        Attribute::Rfc822Header => {
            text.put_slice(b"RFC822.HEADER ");
            literal(parsed.header(), false, out);
        }
        Attribute::Rfc822Text => {
            text.put_slice(b"RFC822.TEXT ");
            literal(parsed.text(), false, out);
        }
        Attribute::Section { section, partial, .. } => {
            text.put_slice(b"BODY[");
            section_name(text, section);
            text.put_u8(b']');
            origin(text, *partial);
            match parsed.section(section) {
                Some(bytes) => literal(section::partial(bytes, *partial), false, out),
                None => text.put_slice(b"NIL"),
            }
        }
        Attribute::Binary { part, partial, .. } => {
            text.put_slice(b"BINARY[");
            part_number(text, part);
            text.put_u8(b']');
            origin(text, *partial);
            match parsed.binary(part) {
                Binary::Decoded(bytes) => literal(section::partial(bytes, *partial), true, out),
                Binary::Missing | Binary::UnknownEncoding => text.put_slice(b"NIL"),
            }
        }
        Attribute::BinarySize { part } => {
            text.put_slice(b"BINARY.SIZE[");
            part_number(text, part);
            text.put_slice(b"] ");
            let size = match parsed.binary(part) {
                Binary::Decoded(bytes) => bytes.len(),
                Binary::Missing | Binary::UnknownEncoding => 0,
            };
            writer::number(text, size as u64);
        }
        // Written by the caller.
        Attribute::Flags
        | Attribute::InternalDate
        | Attribute::Rfc822Size
        | Attribute::Uid
        | Attribute::ModSeq => {}
    }
}

/// Bytes of the message as they are. `binary`: literal8 may be used for what has a NUL (RFC 3516 4.2). Elsewhere a NUL has no
/// right form, and a message that has one is better sent as it is than changed.
fn literal<O: Output>(bytes: Bytes, binary: bool, out: &mut Responses<'_, O>) {
    let binary = binary && memchr::memchr(0, &bytes).is_some();
    writer::literal_header(out.text(), bytes.len(), binary);
    out.bytes(bytes);
}

fn origin(text: &mut BytesMut, partial: Option<Partial>) {
    if let Some(partial) = partial {
        text.put_u8(b'<');
        writer::number(text, partial.offset);
        text.put_u8(b'>');
    }
    text.put_u8(b' ');
}

fn part_number(text: &mut BytesMut, part: &[u32]) {
    for (index, number) in part.iter().enumerate() {
        if index > 0 {
            text.put_u8(b'.');
        }
        writer::number(text, (*number).into());
    }
}

/// The section as the client wrote it, which is how it knows the answer.
fn section_name(text: &mut BytesMut, section: &Section) {
    part_number(text, &section.part);
    if !section.part.is_empty() && section.text.is_some() {
        text.put_u8(b'.');
    }
    match &section.text {
        None => {}
        Some(SectionText::Header) => text.put_slice(b"HEADER"),
        Some(SectionText::Text) => text.put_slice(b"TEXT"),
        Some(SectionText::Mime) => text.put_slice(b"MIME"),
        Some(SectionText::Fields { except, names }) => {
            text.put_slice(if *except { b"HEADER.FIELDS.NOT (" } else { b"HEADER.FIELDS (" });
            for (index, name) in names.iter().enumerate() {
                if index > 0 {
                    text.put_u8(b' ');
                }
                if !name.is_empty() && name.bytes().all(is_atom_byte) {
                    text.put_slice(name.as_bytes());
                } else {
                    writer::string(text, name.as_bytes(), false);
                }
            }
            text.put_u8(b')');
        }
    }
}
