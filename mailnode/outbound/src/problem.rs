//! Why a recipient did not get a message, and whether to try again: the reply of a server, or what we found ourselves,
//! with an enhanced status code (RFC 3463) for bounces.

use crate::client::Reply;
use std::fmt;

/// `class.subject.detail` (RFC 3463 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl Status {
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// The status at the beginning of a reply's text (RFC 2034 4), if there is one and it fits the code.
    pub fn parse(text: &str) -> Option<Self> {
        let word = text.split(' ').next()?;
        let mut parts = word.split('.');
        let class = parts.next()?.parse().ok().filter(|class| matches!(class, 2 | 4 | 5))?;
        let mut number = || parts.next().filter(|part| part.len() <= 3)?.parse().ok();
        let (subject, detail) = (number()?, number()?);
        parts.next().is_none().then_some(Self { class, subject, detail })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// Why a recipient, or all of a message or a destination, could not be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Trying again will not help.
    pub permanent: bool,
    pub status: Status,
    /// One line, printable, for people and for `Diagnostic-Code:`.
    pub text: String,
    /// True if `text` is what a server said, with its code.
    pub is_reply: bool,
    /// The host that said it, or that did not.
    pub host: Option<String>,
}

impl Problem {
    /// Something that may pass.
    pub fn temporary(subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self::ours(false, Status::new(4, subject, detail), text.into())
    }

    /// Something that will not.
    pub fn permanent(subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self::ours(true, Status::new(5, subject, detail), text.into())
    }

    fn ours(permanent: bool, status: Status, text: String) -> Self {
        Self { permanent, status, text, is_reply: false, host: None }
    }

    /// A server's refusal. What is neither 4yz nor 5yz is no answer to what was asked: try again (RFC 5321 4.2.1
    /// knows no other refusals).
    pub fn of_reply(reply: &Reply) -> Self {
        let permanent = (500..600).contains(&reply.code);
        let class = if permanent { 5 } else { 4 };
        let said = Status::parse(&reply.text).filter(|status| status.class == class);
        let status = said.unwrap_or(Status::new(class, 0, 0));
        Self { permanent, status, text: format!("{} {}", reply.code, reply.text), is_reply: true, host: None }
    }

    /// The same, to be tried again.
    pub const fn for_now(mut self) -> Self {
        self.permanent = false;
        self.status.class = 4;
        self
    }

    pub fn at(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) if self.is_reply => write!(f, "{host} said: {}", self.text),
            Some(host) => write!(f, "{host}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16, text: &str) -> Reply {
        Reply { code, text: text.into(), lines: Vec::new() }
    }

    #[test]
    fn the_class_of_a_refusal_is_that_of_its_code() {
        let unknown = Problem::of_reply(&reply(550, "5.1.1 no such user"));
        assert!(unknown.permanent);
        assert_eq!(unknown.status, Status::new(5, 1, 1));
        let later = Problem::of_reply(&reply(451, "5.1.1 contradicts its code"));
        assert_eq!((later.permanent, later.status), (false, Status::new(4, 0, 0)));
        assert!(!Problem::of_reply(&reply(250, "ok")).permanent);
    }

    #[test]
    fn only_three_numbers_are_a_status() {
        assert_eq!(Status::parse("4.7.123 x"), Some(Status::new(4, 7, 123)));
        for text in ["", "4.7", "4.7.1.1", "3.1.1", "4.7.1234", "4..1", "four"] {
            assert_eq!(Status::parse(text), None, "{text}");
        }
    }
}
