//! One command line, parsed (RFC 1939 9, RFC 2449 4).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::fmt;

/// Name and password of a client. The password is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub name: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Message numbers are as the client gave them, from 1.
#[derive(PartialEq, Eq)]
pub enum Command {
    Capa,
    User(String),
    Pass(String),
    Auth { mechanism: String, initial: Option<String> },
    Stls,
    Utf8,
    Stat,
    List(Option<u32>),
    Uidl(Option<u32>),
    Retr(u32),
    Top { message: u32, lines: u32 },
    Dele(u32),
    Rset,
    Noop,
    Quit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    Unknown,
    Arguments,
}

const VERBS: [&str; 15] = [
    "RETR", "DELE", "LIST", "UIDL", "STAT", "TOP", "USER", "PASS", "CAPA", "AUTH", "STLS", "UTF8", "RSET",
    "NOOP", "QUIT",
];

/// Parses a line without its end. Also names the verb, from a fixed set, for the metrics.
pub fn parse(line: &str) -> (&'static str, Result<Command, Malformed>) {
    let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
    match VERBS.iter().find(|name| name.eq_ignore_ascii_case(verb)) {
        Some(name) => (name, arguments(name, argument).ok_or(Malformed::Arguments)),
        None => ("unknown", Err(Malformed::Unknown)),
    }
}

fn arguments(verb: &str, argument: &str) -> Option<Command> {
    // A password may begin or end with spaces (RFC 1939 7); nothing else does.
    if verb == "PASS" {
        return Some(Command::Pass(argument.to_owned()));
    }
    let mut words = argument.split(' ').filter(|word| !word.is_empty());
    let command = match verb {
        "CAPA" => Command::Capa,
        "USER" => Command::User(words.next()?.to_owned()),
        "AUTH" => Command::Auth {
            mechanism: words.next().unwrap_or_default().to_ascii_uppercase(),
            initial: words.next().map(str::to_owned),
        },
        "STLS" => Command::Stls,
        "UTF8" => Command::Utf8,
        "STAT" => Command::Stat,
        "LIST" => Command::List(optional(words.next())?),
        "UIDL" => Command::Uidl(optional(words.next())?),
        "RETR" => Command::Retr(number(words.next()?)?),
        "TOP" => Command::Top { message: number(words.next()?)?, lines: number(words.next()?)? },
        "DELE" => Command::Dele(number(words.next()?)?),
        "RSET" => Command::Rset,
        "NOOP" => Command::Noop,
        "QUIT" => Command::Quit,
        _ => return None,
    };
    words.next().is_none().then_some(command)
}

/// A number too large to count is as good as the largest.
fn number(word: &str) -> Option<u32> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().unwrap_or(u32::MAX))
}

fn optional(word: Option<&str>) -> Option<Option<u32>> {
    match word {
        Some(word) => number(word).map(Some),
        None => Some(None),
    }
}

/// The client's side of AUTH PLAIN (RFC 4616 2): `authorization NUL authentication NUL password` in base64. Nobody
/// may act for somebody else.
pub fn plain(line: &str) -> Option<Login> {
    let text = String::from_utf8(BASE64_STANDARD.decode(line).ok()?).ok()?;
    let mut parts = text.split('\0');
    let (identity, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    let good = parts.next().is_none() && (identity.is_empty() || identity == name) && !name.is_empty();
    good.then(|| Login { name: name.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_exact() {
        assert!(parse("retr 1").1 == Ok(Command::Retr(1)));
        assert!(parse("TOP 1 0").1 == Ok(Command::Top { message: 1, lines: 0 }));
        assert!(parse("LIST").1 == Ok(Command::List(None)));
        assert!(parse("LIST 99999999999").1 == Ok(Command::List(Some(u32::MAX))));
        assert!(parse("PASS  two words ").1 == Ok(Command::Pass(" two words ".into())));
        for line in
            ["RETR", "RETR x", "RETR -1", "RETR 1 2", "TOP 1", "USER", "USER a b", "STAT 1", "DELE +1"]
        {
            assert!(parse(line).1 == Err(Malformed::Arguments), "{line}");
        }
        assert!(parse("FOO").1 == Err(Malformed::Unknown));
    }

    #[test]
    fn plain_names_one_user() {
        let encoded = |text: &str| BASE64_STANDARD.encode(text);
        assert_eq!(plain(&encoded("\0tim\0a b")), Some(Login { name: "tim".into(), password: "a b".into() }));
        for text in ["", "tim", "\0tim", "\0\0x", "other\0tim\0x", "\0tim\0x\0y"] {
            assert_eq!(plain(&encoded(text)), None, "{text:?}");
        }
        assert_eq!(plain("*"), None);
    }

    #[test]
    fn a_password_is_not_printed() {
        let login = Login { name: "tim".into(), password: "hunter2".into() };
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
