//! How a command ended: the tagged response (RFC 9051 7.1), and the one place where errors become response codes.

use std::borrow::Cow;
use std::io;

use crate::backend::{Error, Outcome};

/// A tagged response without its tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub outcome: Outcome,
    /// What stands between the brackets.
    pub code: Option<Cow<'static, str>>,
    pub text: Cow<'static, str>,
}

impl Reply {
    pub fn ok(text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { outcome: Outcome::Ok, code: None, text: text.into() }
    }

    pub fn no(code: &'static str, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { outcome: Outcome::No, code: Some(code.into()), text: text.into() }
    }

    pub fn bad(text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { outcome: Outcome::Bad, code: None, text: text.into() }
    }

    pub fn code(mut self, code: impl Into<Cow<'static, str>>) -> Reply {
        self.code = Some(code.into());
        self
    }

    /// The target of APPEND, COPY or MOVE is not there (RFC 9051 6.3.12).
    pub fn try_create() -> Reply {
        Reply::no("TRYCREATE", "No such mailbox")
    }

    pub fn no_mailbox() -> Reply {
        Reply::no("NONEXISTENT", "No such mailbox")
    }

    /// A sequence number was used for a message that is gone, which the client has not been told yet (RFC 9051 7.1).
    pub fn expunge_issued() -> Reply {
        Reply::no("EXPUNGEISSUED", "Some of the messages no longer exist")
    }

    /// The line behind the tag.
    pub fn line(&self) -> String {
        let word = match self.outcome {
            Outcome::Ok => "OK",
            Outcome::No => "NO",
            Outcome::Bad => "BAD",
        };
        let text = clean(&self.text);
        match &self.code {
            Some(code) => format!("{word} [{code}] {text}"),
            None => format!("{word} {text}"),
        }
    }
}

/// Text that may stand in a response: one short line of ASCII, never empty, and no brackets at its start.
fn clean(text: &str) -> String {
    let printable = |character: char| match character {
        ' '..='~' => character,
        _ => '?',
    };
    let text: String = text.chars().take(300).map(printable).collect();
    match text.trim_start_matches(['[', ' ']) {
        "" => "failed".to_owned(),
        text => text.to_owned(),
    }
}

impl From<Error> for Reply {
    fn from(error: Error) -> Reply {
        match error {
            Error::Temporary(text) => Reply::no("UNAVAILABLE", text),
            Error::NotFound => Reply::no_mailbox(),
            Error::AlreadyExists => Reply::no("ALREADYEXISTS", "The mailbox exists already"),
            Error::OverQuota => Reply::no("OVERQUOTA", "Quota exceeded"),
            Error::Invalid(text) => Reply::no("CANNOT", text),
            Error::Locked(text) => Reply::no("CONTACTADMIN", text),
        }
    }
}

/// Why a command stopped early.
#[derive(Debug)]
pub enum Stop {
    /// The connection is broken: the session is over.
    Io(io::Error),
    Reply(Reply),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}

impl From<Reply> for Stop {
    fn from(reply: Reply) -> Stop {
        Stop::Reply(reply)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Reply(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_elsewhere_cannot_forge_a_response() {
        let reply = Reply::from(Error::Temporary("[x] a\r\n* BYE ü".into()));
        assert_eq!(reply.line(), "NO [UNAVAILABLE] x] a??* BYE ?");
        assert_eq!(Reply::from(Error::Invalid(String::new())).line(), "NO [CANNOT] failed");
    }
}
