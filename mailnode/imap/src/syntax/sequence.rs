//! Sets of sequence numbers or UIDs (RFC 9051 section 9, `sequence-set`).

use super::lexer::{Lexer, SyntaxError};

/// A set as the client wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SequenceSet {
    /// `$`, the saved search result (RFC 5182).
    Saved,
    /// Ranges as written, ends in any order; 0 stands for `*`.
    Ranges(Vec<(u32, u32)>),
}

impl SequenceSet {
    /// Reads a set.
    pub fn parse(lexer: &mut Lexer<'_>) -> Result<SequenceSet, SyntaxError> {
        if lexer.accept(b'$') {
            return Ok(SequenceSet::Saved);
        }
        let mut ranges = Vec::new();
        loop {
            let first = bound(lexer)?;
            let last = if lexer.accept(b':') { bound(lexer)? } else { first };
            ranges.push((first, last));
            if !lexer.accept(b',') {
                return Ok(SequenceSet::Ranges(ranges));
            }
        }
    }

    /// Whether `*` is in it.
    pub fn has_star(&self) -> bool {
        match self {
            SequenceSet::Saved => false,
            SequenceSet::Ranges(ranges) => ranges.iter().any(|(first, last)| *first == 0 || *last == 0),
        }
    }

    /// The ranges with `*` replaced by `largest`, in order, sorted and merged. `None` for `$`.
    pub fn resolve(&self, largest: u32) -> Option<Ranges> {
        let SequenceSet::Ranges(ranges) = self else { return None };
        let star = |bound: u32| if bound == 0 { largest } else { bound };
        Some(Ranges::new(ranges.iter().map(|(first, last)| (star(*first), star(*last)))))
    }
}

fn bound(lexer: &mut Lexer<'_>) -> Result<u32, SyntaxError> {
    if lexer.accept(b'*') { Ok(0) } else { lexer.nonzero() }
}

/// Sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    pub fn new(ranges: impl Iterator<Item = (u32, u32)>) -> Ranges {
        let mut sorted: Vec<(u32, u32)> =
            ranges.map(|(one, other)| (one.min(other), one.max(other))).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(sorted.len().min(64));
        for (first, last) in sorted {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Ranges(merged)
    }

    pub fn of_numbers(numbers: &[u32]) -> Ranges {
        Ranges::new(numbers.iter().map(|number| (*number, *number)))
    }

    pub fn contains(&self, number: u32) -> bool {
        let after = self.0.partition_point(|range| range.0 <= number);
        after > 0 && self.0.get(after - 1).is_some_and(|range| number <= range.1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.0.iter().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Numbers as IMAP writes them, in the order given: runs of consecutive numbers become ranges.
pub fn write_numbers(numbers: &[u32], out: &mut Vec<u8>) {
    let mut rest = numbers;
    while let Some(&first) = rest.first() {
        let run = 1 + rest.windows(2).take_while(|pair| pair[0].checked_add(1) == Some(pair[1])).count();
        if !out.is_empty() && rest.len() != numbers.len() {
            out.push(b',');
        }
        out.extend_from_slice(first.to_string().as_bytes());
        if let (Some(&last), true) = (rest.get(run - 1), run > 1) {
            out.push(b':');
            out.extend_from_slice(last.to_string().as_bytes());
        }
        rest = rest.get(run..).unwrap_or_default();
    }
}

/// [`write_numbers`] as a string.
pub fn numbers_text(numbers: &[u32]) -> String {
    let mut out = Vec::new();
    write_numbers(numbers, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Ranges as IMAP writes them.
pub fn ranges_text(ranges: &Ranges) -> String {
    let mut out = String::new();
    for (first, last) in ranges.iter() {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&first.to_string());
        if last != first {
            out.push(':');
            out.push_str(&last.to_string());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::lexer::with_lexer;

    fn resolved(text: &str, largest: u32) -> Vec<(u32, u32)> {
        let set = with_lexer(text, SequenceSet::parse).unwrap();
        set.resolve(largest).unwrap().iter().collect()
    }

    #[test]
    fn ranges_are_read_in_any_order_and_merged() {
        assert_eq!(resolved("5:3,1,2,9", 20), [(1, 5), (9, 9)]);
        assert_eq!(resolved("*", 20), [(20, 20)]);
        assert_eq!(resolved("25:*", 20), [(20, 25)], "RFC 9051: n:* always has the last message");
        assert_eq!(resolved("4294967295:4294967294", 1), [(4294967294, 4294967295)]);
    }

    #[test]
    fn zero_and_nonsense_are_refused() {
        for text in ["0", "1:0", "", ",", "1,", "4294967296", "x", "1:", "01x:"] {
            assert!(
                with_lexer(text, |lexer| {
                    SequenceSet::parse(lexer)?;
                    lexer.end()
                })
                .is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn contains_agrees_with_the_ranges() {
        let ranges = Ranges::new([(3, 5), (8, 8), (10, 20)].into_iter());
        let inside: Vec<u32> = (0..25).filter(|number| ranges.contains(*number)).collect();
        assert_eq!(numbers_text(&inside), "3:5,8,10:20");
    }
}
