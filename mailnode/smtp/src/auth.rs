//! AUTH PLAIN (RFC 4616) and LOGIN (the old way of some clients) in SMTP's frame (RFC 4954 4).

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

/// What the next line of the client is.
#[derive(Debug, PartialEq, Eq)]
pub enum Exchange {
    Plain,
    LoginName,
    LoginPassword { name: String },
}

/// What follows from a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Ask on with this challenge (already in base64).
    Ask(Exchange, &'static str),
    Done(Login),
    /// The client gave up with `*` (RFC 4954 4).
    Cancelled,
    /// Not base64, or not what the mechanism sends.
    Malformed,
}

impl Exchange {
    /// The first step of a mechanism, with the client's initial response if it sent one.
    pub fn begin(mechanism: &str, initial: Option<&str>) -> Option<Progress> {
        let (exchange, challenge) = match mechanism {
            "PLAIN" => (Self::Plain, ""),
            "LOGIN" => (Self::LoginName, "VXNlcm5hbWU6"),
            _ => return None,
        };
        Some(match initial {
            // RFC 4954 4: `=` is an initial response of no length.
            Some("=") => exchange.response(""),
            Some(initial) => exchange.response(initial),
            None => Progress::Ask(exchange, challenge),
        })
    }

    /// The client's answer.
    pub fn response(self, line: &str) -> Progress {
        if line == "*" {
            return Progress::Cancelled;
        }
        let decoded = BASE64_STANDARD.decode(line).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let Some(text) = decoded else { return Progress::Malformed };
        match self {
            Self::Plain => plain(&text).map_or(Progress::Malformed, Progress::Done),
            Self::LoginName => Progress::Ask(Self::LoginPassword { name: text }, "UGFzc3dvcmQ6"),
            Self::LoginPassword { name } => Progress::Done(Login { name, password: text }),
        }
    }
}

/// `authorization NUL authentication NUL password` (RFC 4616 2). Nobody may act for somebody else.
fn plain(text: &str) -> Option<Login> {
    let mut parts = text.split('\0');
    let (identity, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    let good = parts.next().is_none() && (identity.is_empty() || identity == name) && !name.is_empty();
    good.then(|| Login { name: name.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> String {
        BASE64_STANDARD.encode(text)
    }

    #[test]
    fn plain_takes_one_step() {
        let done = Exchange::Plain.response(&encoded("\0tim\0secret word"));
        assert_eq!(done, Progress::Done(Login { name: "tim".into(), password: "secret word".into() }));
        assert!(matches!(Exchange::Plain.response(&encoded("tim\0tim\0x")), Progress::Done(_)));
    }

    #[test]
    fn what_is_not_plain_is_refused() {
        for text in ["", "tim", "\0tim", "\0\0x", "other\0tim\0x", "\0tim\0x\0y"] {
            assert_eq!(Exchange::Plain.response(&encoded(text)), Progress::Malformed, "{text:?}");
        }
        assert_eq!(Exchange::Plain.response("!!"), Progress::Malformed);
        assert_eq!(Exchange::Plain.response("*"), Progress::Cancelled);
        assert_eq!(Exchange::begin("CRAM-MD5", None), None);
    }

    #[test]
    fn a_password_is_not_printed() {
        let login = Login { name: "tim".into(), password: "hunter2".into() };
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
