//! Paths and mailboxes (RFC 5321 4.1.2, with UTF-8 by RFC 6531 3.3).

use std::fmt;

/// RFC 5321 4.5.3.1.1.
const LOCAL_PART: usize = 64;
/// RFC 5321 4.5.3.1.2.
const DOMAIN: usize = 255;

/// A mailbox: `local-part@domain`, or `postmaster` alone. Holds no control characters, no spaces outside quotes,
/// and no angle brackets outside quotes, so that it can be put into a header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    /// Where the `@` is; the length if there is none.
    at: usize,
}

impl Address {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Without the `@`; empty for `postmaster` alone.
    pub fn domain(&self) -> &str {
        self.text.get(self.at + 1..).unwrap_or_default()
    }

    pub fn local_part(&self) -> &str {
        self.text.get(..self.at).unwrap_or_default()
    }

    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Parses `<path>` and returns what follows it. `Ok(None)` is the null path `<>`.
/// A source route is skipped (RFC 5321 4.1.2: "SHOULD be ignored").
pub fn path(text: &str) -> Option<(Option<Address>, &str)> {
    let inside = text.strip_prefix('<')?;
    if let Some(rest) = inside.strip_prefix('>') {
        return Some((None, rest));
    }
    let inside = match inside.strip_prefix('@') {
        Some(route) => route.split_once(':').filter(|(hops, _)| !hops.contains(['<', '>', '"', ' ']))?.1,
        None => inside,
    };
    let (local, rest) = local_part(inside)?;
    if let Some(rest) = rest.strip_prefix('>') {
        // RFC 5321 4.5.1: postmaster needs no domain.
        let postmaster = local.eq_ignore_ascii_case("postmaster");
        return postmaster.then_some((Some(Address { at: local.len(), text: local }), rest));
    }
    let (domain, rest) = rest.strip_prefix('@')?.split_once('>')?;
    if !is_domain(domain) {
        return None;
    }
    let at = local.len();
    let mut text = local;
    text.push('@');
    text.push_str(domain);
    Some((Some(Address { text, at }), rest))
}

fn is_atom(character: char) -> bool {
    !character.is_ascii() && !character.is_control()
        || character.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(character)
}

/// Dot-string or quoted string, and the rest. Quotes that are not needed are taken off, because both forms name
/// one mailbox (RFC 5321 4.1.2).
fn local_part(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|character| !is_atom(character) && character != '.')?;
        let (local, rest) = text.split_at_checked(end)?;
        return (is_dot_string(local) && local.len() <= LOCAL_PART).then(|| (local.to_owned(), rest));
    };
    let mut content = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        let plain = match character {
            '"' => {
                let rest = quoted.get(index + 1..)?;
                let local = if is_dot_string(&content) { content } else { quote(&content) };
                return (local.len() <= LOCAL_PART).then_some((local, rest));
            }
            '\\' => characters.next()?.1,
            other => other,
        };
        if plain.is_control() {
            return None;
        }
        content.push(plain);
    }
    None
}

fn is_dot_string(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom))
}

fn quote(content: &str) -> String {
    let mut out = String::with_capacity(content.len() + 2);
    out.push('"');
    for character in content.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
    out
}

/// A domain name or an address literal (RFC 5321 4.1.3). Underscores are let through, because hosts have them.
pub fn is_domain(text: &str) -> bool {
    if text.is_empty() || text.len() > DOMAIN {
        return false;
    }
    if let Some(literal) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return !literal.is_empty()
            && literal.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-'));
    }
    text.split('.').all(|label| {
        !label.is_empty()
            && label.chars().all(|c| {
                c.is_ascii_alphanumeric() || c == '-' || c == '_' || (!c.is_ascii() && !c.is_control())
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<String> {
        path(text).and_then(|(address, rest)| {
            assert_eq!(rest, "");
            address.map(|address| address.to_string())
        })
    }

    #[test]
    fn mailboxes_are_parsed() {
        assert_eq!(parse("<a.b+c@example.org>").as_deref(), Some("a.b+c@example.org"));
        assert_eq!(parse("<a@[127.0.0.1]>").as_deref(), Some("a@[127.0.0.1]"));
        assert_eq!(parse("<a@[IPv6:::1]>").as_deref(), Some("a@[IPv6:::1]"));
        assert_eq!(parse("<Postmaster>").as_deref(), Some("Postmaster"));
        assert_eq!(parse("<grüße@exämple.org>").as_deref(), Some("grüße@exämple.org"));
        assert_eq!(path("<>"), Some((None, "")));
        assert_eq!(path("<a@b> SIZE=1").unwrap().1, " SIZE=1");
    }

    #[test]
    fn a_source_route_is_ignored() {
        assert_eq!(parse("<@x.org,@y.org:a@z.org>").as_deref(), Some("a@z.org"));
    }

    #[test]
    fn quotes_that_are_not_needed_are_taken_off() {
        assert_eq!(parse("<\"john.doe\"@x.org>").as_deref(), Some("john.doe@x.org"));
        assert_eq!(parse("<\"j\\ohn\"@x.org>").as_deref(), Some("john@x.org"));
        assert_eq!(parse("<\"a b\\\"@\"@x.org>").as_deref(), Some("\"a b\\\"@\"@x.org"));
        let (address, _) = path("<\"a@b>\"@x.org>").unwrap();
        assert_eq!(address.unwrap().domain(), "x.org");
    }

    #[test]
    fn what_is_not_a_mailbox_is_refused() {
        let long_local = format!("<{}@x.org>", "a".repeat(65));
        let long_domain = format!("<a@{}org>", "abc.".repeat(64));
        let bad = [
            "a@b",
            "<a@b",
            "<a>",
            "<@b>",
            "<a@>",
            "<a b@c>",
            "<a@b..c>",
            "<.a@b>",
            "<a.@b>",
            "<a..b@c>",
            "<\"a@b>",
            "<a@b\r\n>",
            "<a\0@b>",
            "<\"a\n\"@b>",
            "<a@[b>",
            "<<a@b>",
            "",
            "<",
            long_local.as_str(),
            long_domain.as_str(),
        ];
        for text in bad {
            assert_eq!(path(text), None, "{text:?}");
        }
    }
}
