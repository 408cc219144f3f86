//! FETCH (RFC 9051 6.4.5, RFC 7162 3.1.4, RFC 3516).

use super::command::{Attribute, Fetch, Partial, Section, SectionText};
use super::lexer::{Lexer, SyntaxError};
use super::sequence::SequenceSet;

/// The deepest part number that is read, and the most field names in one section.
const MAX_PART_DEPTH: usize = 100;
/// The most items of one FETCH: each may cost as much as the message is large.
const MAX_ITEMS: usize = 100;

pub fn fetch(lexer: &mut Lexer<'_>, uid: bool) -> Result<Fetch, SyntaxError> {
    lexer.space()?;
    let set = SequenceSet::parse(lexer)?;
    lexer.space()?;
    let attributes = if lexer.peek() == Some(b'(') {
        lexer.list(attribute)?
    } else if lexer.accept_word("ALL") {
        vec![Attribute::Flags, Attribute::InternalDate, Attribute::Rfc822Size, Attribute::Envelope]
    } else if lexer.accept_word("FAST") {
        vec![Attribute::Flags, Attribute::InternalDate, Attribute::Rfc822Size]
    } else if lexer.accept_word("FULL") {
        vec![
            Attribute::Flags,
            Attribute::InternalDate,
            Attribute::Rfc822Size,
            Attribute::Envelope,
            Attribute::Body,
        ]
    } else {
        vec![attribute(lexer)?]
    };
    if attributes.is_empty() {
        return Err(SyntaxError::new("FETCH what?"));
    }
    if attributes.len() > MAX_ITEMS {
        return Err(SyntaxError::new("too many FETCH items"));
    }
    let (mut changed_since, mut vanished) = (None, false);
    if lexer.accept(b' ') && !lexer.at_end() {
        lexer.list(|lexer| {
            match lexer.keyword()?.as_str() {
                "CHANGEDSINCE" => {
                    lexer.space()?;
                    changed_since = Some(lexer.number64()?);
                }
                "VANISHED" => vanished = true,
                _ => return Err(SyntaxError::new("unknown FETCH modifier")),
            }
            Ok(())
        })?;
    }
    Ok(Fetch { uid, set, attributes, changed_since, vanished })
}

pub fn attribute(lexer: &mut Lexer<'_>) -> Result<Attribute, SyntaxError> {
    let name = lexer.keyword()?;
    Ok(match name.as_str() {
        "ENVELOPE" => Attribute::Envelope,
        "FLAGS" => Attribute::Flags,
        "INTERNALDATE" => Attribute::InternalDate,
        "UID" => Attribute::Uid,
        "MODSEQ" => Attribute::ModSeq,
        "RFC822" => Attribute::Rfc822,
        "RFC822.HEADER" => Attribute::Rfc822Header,
        "RFC822.SIZE" => Attribute::Rfc822Size,
        "RFC822.TEXT" => Attribute::Rfc822Text,
        "BODYSTRUCTURE" => Attribute::BodyStructure,
        "BODY" if lexer.peek() != Some(b'[') => Attribute::Body,
        "BODY" | "BODY.PEEK" => {
            let section = section(lexer)?;
            Attribute::Section { section, partial: partial(lexer)?, peek: name == "BODY.PEEK" }
        }
        "BINARY" | "BINARY.PEEK" => {
            let part = binary_part(lexer)?;
            Attribute::Binary { part, partial: partial(lexer)?, peek: name == "BINARY.PEEK" }
        }
        "BINARY.SIZE" => Attribute::BinarySize { part: binary_part(lexer)? },
        _ => return Err(SyntaxError(format!("unknown FETCH item {name}"))),
    })
}

fn binary_part(lexer: &mut Lexer<'_>) -> Result<Vec<u32>, SyntaxError> {
    lexer.expect(b'[')?;
    let mut part = Vec::new();
    if !lexer.accept(b']') {
        loop {
            part.push(lexer.nonzero()?);
            if lexer.accept(b']') {
                break;
            }
            lexer.expect(b'.')?;
            too_deep(&part)?;
        }
    }
    Ok(part)
}

fn too_deep(part: &[u32]) -> Result<(), SyntaxError> {
    if part.len() > MAX_PART_DEPTH { Err(SyntaxError::new("section is too deep")) } else { Ok(()) }
}

fn section(lexer: &mut Lexer<'_>) -> Result<Section, SyntaxError> {
    lexer.expect(b'[')?;
    let mut section = Section::default();
    if lexer.accept(b']') {
        return Ok(section);
    }
    loop {
        if lexer.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            section.part.push(lexer.nonzero()?);
            too_deep(&section.part)?;
            if lexer.accept(b']') {
                return Ok(section);
            }
            lexer.expect(b'.')?;
            continue;
        }
        section.text = Some(match lexer.keyword()?.as_str() {
            "HEADER" => SectionText::Header,
            "HEADER.FIELDS" => fields(lexer, false)?,
            "HEADER.FIELDS.NOT" => fields(lexer, true)?,
            "TEXT" => SectionText::Text,
            "MIME" if !section.part.is_empty() => SectionText::Mime,
            _ => return Err(SyntaxError::new("unknown section")),
        });
        lexer.expect(b']')?;
        return Ok(section);
    }
}

fn fields(lexer: &mut Lexer<'_>, except: bool) -> Result<SectionText, SyntaxError> {
    lexer.space()?;
    let names = lexer.list(Lexer::astring_text)?;
    if names.is_empty() {
        return Err(SyntaxError::new("no header fields named"));
    }
    Ok(SectionText::Fields { except, names })
}

fn partial(lexer: &mut Lexer<'_>) -> Result<Option<Partial>, SyntaxError> {
    if !lexer.accept(b'<') {
        return Ok(None);
    }
    let offset = lexer.number64()?;
    lexer.expect(b'.')?;
    let length = lexer.number64()?;
    lexer.expect(b'>')?;
    if length == 0 {
        return Err(SyntaxError::new("partial FETCH of nothing"));
    }
    Ok(Some(Partial { offset, length }))
}
