//! SEARCH (RFC 9051 6.4.4, RFC 4731, RFC 5182, RFC 7162 3.1.5).

use bytes::Bytes;

use super::command::{ReturnOptions, Search, SearchKey};
use super::date::{self, Day};
use super::lexer::{Lexer, SyntaxError, utf8};
use super::sequence::SequenceSet;
use crate::flags::SystemFlag;

/// How deep keys may nest.
pub const MAX_DEPTH: usize = 50;
/// The most keys of one SEARCH: each may be compared with every message.
const MAX_KEYS: usize = 500;

pub fn search(lexer: &mut Lexer<'_>, uid: bool) -> Result<Search, SyntaxError> {
    lexer.space()?;
    let mut options = None;
    if lexer.accept_word("RETURN (") {
        options = Some(return_options(lexer)?);
        lexer.space()?;
    }
    let mut unknown_charset = false;
    if lexer.accept_word("CHARSET ") {
        let charset = lexer.astring()?;
        // RFC 9051 6.4.4: US-ASCII and UTF-8 must be there.
        unknown_charset =
            !charset.eq_ignore_ascii_case(b"UTF-8") && !charset.eq_ignore_ascii_case(b"US-ASCII");
        lexer.space()?;
    }
    let mut keys = Parser { lexer, unknown_charset, keys: 0 };
    let mut all = vec![keys.key(0)?];
    while keys.lexer.accept(b' ') && !keys.lexer.at_end() {
        all.push(keys.key(0)?);
    }
    let key = if all.len() == 1 { all.remove(0) } else { SearchKey::And(all) };
    Ok(Search { uid, options, key, unknown_charset })
}

/// After `RETURN (`. An empty list is ALL (RFC 4731 3.1).
fn return_options(lexer: &mut Lexer<'_>) -> Result<ReturnOptions, SyntaxError> {
    let mut options = ReturnOptions::default();
    if lexer.accept(b')') {
        options.all = true;
        return Ok(options);
    }
    loop {
        match lexer.keyword()?.as_str() {
            "MIN" => options.min = true,
            "MAX" => options.max = true,
            "ALL" => options.all = true,
            "COUNT" => options.count = true,
            "SAVE" => options.save = true,
            _ => return Err(SyntaxError::new("unknown SEARCH return option")),
        }
        if lexer.accept(b')') {
            return Ok(options);
        }
        lexer.space()?;
    }
}

struct Parser<'a, 'b> {
    lexer: &'a mut Lexer<'b>,
    unknown_charset: bool,
    /// How many there were so far.
    keys: usize,
}

impl Parser<'_, '_> {
    fn key(&mut self, depth: usize) -> Result<SearchKey, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(SyntaxError::new("search keys are nested too deep"));
        }
        self.keys += 1;
        if self.keys > MAX_KEYS {
            return Err(SyntaxError::new("too many search keys"));
        }
        match self.lexer.peek() {
            Some(b'(') => {
                let mut keys = Vec::new();
                self.lexer.expect(b'(')?;
                loop {
                    keys.push(self.key(depth + 1)?);
                    if self.lexer.accept(b')') {
                        return Ok(SearchKey::And(keys));
                    }
                    self.lexer.space()?;
                }
            }
            Some(b'0'..=b'9' | b'*' | b'$') => {
                return Ok(SearchKey::Sequence(SequenceSet::parse(self.lexer)?));
            }
            _ => {}
        }
        let name = self.lexer.keyword()?;
        let not = |key| SearchKey::Not(Box::new(key));
        Ok(match name.as_str() {
            "ALL" => SearchKey::All,
            "ANSWERED" => SearchKey::Flag(SystemFlag::Answered),
            "DELETED" => SearchKey::Flag(SystemFlag::Deleted),
            "DRAFT" => SearchKey::Flag(SystemFlag::Draft),
            "FLAGGED" => SearchKey::Flag(SystemFlag::Flagged),
            "SEEN" => SearchKey::Flag(SystemFlag::Seen),
            "UNANSWERED" => not(SearchKey::Flag(SystemFlag::Answered)),
            "UNDELETED" => not(SearchKey::Flag(SystemFlag::Deleted)),
            "UNDRAFT" => not(SearchKey::Flag(SystemFlag::Draft)),
            "UNFLAGGED" => not(SearchKey::Flag(SystemFlag::Flagged)),
            "UNSEEN" => not(SearchKey::Flag(SystemFlag::Seen)),
            "NEW" | "RECENT" => SearchKey::Nothing,
            "OLD" => SearchKey::All,
            "KEYWORD" => SearchKey::Keyword(self.atom()?),
            "UNKEYWORD" => not(SearchKey::Keyword(self.atom()?)),
            "UID" => {
                self.lexer.space()?;
                SearchKey::Uid(SequenceSet::parse(self.lexer)?)
            }
            "NOT" => {
                self.lexer.space()?;
                not(self.key(depth + 1)?)
            }
            "OR" => {
                self.lexer.space()?;
                let one = self.key(depth + 1)?;
                self.lexer.space()?;
                SearchKey::Or(Box::new(one), Box::new(self.key(depth + 1)?))
            }
            "BEFORE" => SearchKey::Before(self.day()?),
            "ON" => SearchKey::On(self.day()?),
            "SINCE" => SearchKey::Since(self.day()?),
            "SENTBEFORE" => SearchKey::SentBefore(self.day()?),
            "SENTON" => SearchKey::SentOn(self.day()?),
            "SENTSINCE" => SearchKey::SentSince(self.day()?),
            "LARGER" => SearchKey::Larger(self.number()?),
            "SMALLER" => SearchKey::Smaller(self.number()?),
            "BCC" | "CC" | "FROM" | "TO" | "SUBJECT" => SearchKey::Header(name, self.string()?),
            "HEADER" => {
                let field = self.string()?;
                SearchKey::Header(field, self.string()?)
            }
            "BODY" => SearchKey::BodyText(self.string()?),
            "TEXT" => SearchKey::Text(self.string()?),
            "MODSEQ" => SearchKey::ModSeq(self.modseq()?),
            _ => return Err(SyntaxError(format!("unknown search key {name}"))),
        })
    }

    fn atom(&mut self) -> Result<String, SyntaxError> {
        self.lexer.space()?;
        self.lexer.atom()
    }

    fn number(&mut self) -> Result<u64, SyntaxError> {
        self.lexer.space()?;
        self.lexer.number64()
    }

    /// Text in an unknown charset is not looked at: the search is refused anyway.
    fn string(&mut self) -> Result<String, SyntaxError> {
        self.lexer.space()?;
        let text: Bytes = self.lexer.astring()?;
        if self.unknown_charset { Ok(String::new()) } else { utf8(text) }
    }

    fn day(&mut self) -> Result<Day, SyntaxError> {
        let text = self.string()?;
        date::parse_day(&text).ok_or_else(|| SyntaxError::new("invalid date"))
    }

    /// MODSEQ, with the entry name and type that RFC 7162 3.1.5 allows and that make no difference here.
    fn modseq(&mut self) -> Result<u64, SyntaxError> {
        self.lexer.space()?;
        if self.lexer.peek() == Some(b'"') {
            self.lexer.string()?;
            self.lexer.space()?;
            if !matches!(self.lexer.keyword()?.as_str(), "PRIV" | "SHARED" | "ALL") {
                return Err(SyntaxError::new("unknown entry type"));
            }
            self.lexer.space()?;
        }
        self.lexer.number64()
    }
}
