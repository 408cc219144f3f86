//! Flags of a message: the five system flags and a bounded set of keywords (RFC 9051 2.3.2).
//!
//! Invariants: keywords are valid flag atoms, sorted without regard to case, and unique without regard to case;
//! at most [`MAX_KEYWORDS`] of at most [`MAX_KEYWORD_LENGTH`] bytes. `\Recent` does not exist here: RFC 9051
//! removed it, and a session that wants RFC 3501 is told that nothing is recent.

use std::cmp::Ordering;
use std::fmt;

/// The most keywords one message can carry.
pub const MAX_KEYWORDS: usize = 100;
/// The longest keyword, in bytes.
pub const MAX_KEYWORD_LENGTH: usize = 64;

/// A system flag. The discriminants are single bits and may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SystemFlag {
    Seen = 1,
    Answered = 2,
    Flagged = 4,
    Deleted = 8,
    Draft = 16,
}

impl SystemFlag {
    pub const ALL: [SystemFlag; 5] =
        [SystemFlag::Answered, SystemFlag::Flagged, SystemFlag::Deleted, SystemFlag::Seen, SystemFlag::Draft];

    /// The flag as IMAP writes it, with its backslash.
    pub fn name(self) -> &'static str {
        match self {
            SystemFlag::Seen => "\\Seen",
            SystemFlag::Answered => "\\Answered",
            SystemFlag::Flagged => "\\Flagged",
            SystemFlag::Deleted => "\\Deleted",
            SystemFlag::Draft => "\\Draft",
        }
    }

    /// Reads a system flag, with its backslash, in any case.
    pub fn parse(name: &str) -> Option<SystemFlag> {
        SystemFlag::ALL.into_iter().find(|flag| flag.name().eq_ignore_ascii_case(name))
    }
}

/// Why a keyword was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeywordError {
    #[error("a message can have at most {MAX_KEYWORDS} keywords")]
    TooMany,
    #[error("a keyword can have at most {MAX_KEYWORD_LENGTH} characters")]
    TooLong,
    #[error("a keyword is an atom of printable ASCII")]
    NotAnAtom,
}

/// The flags of one message. Cheap when there are no keywords: one byte and an empty vector.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    system: u8,
    keywords: Vec<Box<str>>,
}

fn compare(left: &str, right: &str) -> Ordering {
    let lower = |byte: u8| byte.to_ascii_lowercase();
    left.bytes().map(lower).cmp(right.bytes().map(lower))
}

impl Flags {
    pub fn new() -> Flags {
        Flags::default()
    }

    /// Flags from the bits of [`SystemFlag`]; unknown bits are dropped.
    pub fn from_bits(bits: u8) -> Flags {
        Flags { system: bits & 31, keywords: Vec::new() }
    }

    /// The system flags as the bits of [`SystemFlag`].
    pub fn bits(&self) -> u8 {
        self.system
    }

    pub fn with(mut self, flag: SystemFlag) -> Flags {
        self.insert(flag);
        self
    }

    pub fn contains(&self, flag: SystemFlag) -> bool {
        self.system & flag as u8 != 0
    }

    pub fn insert(&mut self, flag: SystemFlag) {
        self.system |= flag as u8;
    }

    pub fn remove(&mut self, flag: SystemFlag) {
        self.system &= !(flag as u8);
    }

    /// The keywords, sorted without regard to case.
    pub fn keywords(&self) -> impl ExactSizeIterator<Item = &str> {
        self.keywords.iter().map(|keyword| &**keyword)
    }

    pub fn has_keyword(&self, keyword: &str) -> bool {
        self.keywords.binary_search_by(|known| compare(known, keyword)).is_ok()
    }

    /// Adds a keyword. A keyword that is there in another spelling stays as it is.
    pub fn insert_keyword(&mut self, keyword: &str) -> Result<(), KeywordError> {
        if keyword.len() > MAX_KEYWORD_LENGTH {
            return Err(KeywordError::TooLong);
        }
        if keyword.is_empty() || !keyword.bytes().all(is_keyword_byte) {
            return Err(KeywordError::NotAnAtom);
        }
        if let Err(position) = self.keywords.binary_search_by(|known| compare(known, keyword)) {
            if self.keywords.len() >= MAX_KEYWORDS {
                return Err(KeywordError::TooMany);
            }
            self.keywords.insert(position, keyword.into());
        }
        Ok(())
    }

    pub fn remove_keyword(&mut self, keyword: &str) {
        if let Ok(position) = self.keywords.binary_search_by(|known| compare(known, keyword)) {
            self.keywords.remove(position);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.system == 0 && self.keywords.is_empty()
    }

    /// Adds all flags of `other`; fails, with `self` partly changed, if that is more keywords than a message can have.
    pub fn union(&mut self, other: &Flags) -> Result<(), KeywordError> {
        self.system |= other.system;
        other.keywords.iter().try_for_each(|keyword| self.insert_keyword(keyword))
    }

    /// Takes away all flags of `other`.
    pub fn subtract(&mut self, other: &Flags) {
        self.system &= !other.system;
        for keyword in &other.keywords {
            self.remove_keyword(keyword);
        }
    }

    /// All flags as IMAP writes them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        SystemFlag::ALL
            .into_iter()
            .filter(|flag| self.contains(*flag))
            .map(|flag| -> &str { flag.name() })
            .chain(self.keywords())
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.names()).finish()
    }
}

/// ATOM-CHAR of RFC 9051 section 9, which is what a keyword is made of.
fn is_keyword_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_unique_and_sorted_without_regard_to_case() {
        let mut flags = Flags::new();
        for keyword in ["$Junk", "work", "$junk", "Alpha", "WORK"] {
            flags.insert_keyword(keyword).unwrap();
        }
        assert_eq!(flags.keywords().collect::<Vec<_>>(), ["$Junk", "Alpha", "work"]);
        flags.remove_keyword("alpha");
        assert!(!flags.has_keyword("Alpha") && flags.has_keyword("Work"));
    }

    #[test]
    fn keywords_are_bounded_atoms() {
        let mut flags = Flags::new();
        assert_eq!(flags.insert_keyword("a b"), Err(KeywordError::NotAnAtom));
        assert_eq!(flags.insert_keyword(""), Err(KeywordError::NotAnAtom));
        assert_eq!(flags.insert_keyword("\\Recent"), Err(KeywordError::NotAnAtom));
        assert_eq!(flags.insert_keyword(&"x".repeat(65)), Err(KeywordError::TooLong));
        for number in 0..MAX_KEYWORDS {
            flags.insert_keyword(&format!("k{number}")).unwrap();
        }
        assert_eq!(flags.insert_keyword("one-more"), Err(KeywordError::TooMany));
        assert_eq!(flags.insert_keyword("K7"), Ok(()), "known in another spelling");
    }

    #[test]
    fn system_flags_survive_their_bits() {
        let flags = Flags::new().with(SystemFlag::Seen).with(SystemFlag::Draft);
        assert_eq!(Flags::from_bits(flags.bits()), flags);
        assert_eq!(flags.names().collect::<Vec<_>>(), ["\\Seen", "\\Draft"]);
        assert_eq!(SystemFlag::parse("\\dElEtEd"), Some(SystemFlag::Deleted));
    }
}
