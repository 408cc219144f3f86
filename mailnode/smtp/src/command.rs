//! One command line, parsed (RFC 5321 4.1.1).

use crate::address::{self, Address};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Ehlo(String),
    Helo(String),
    Lhlo(String),
    Mail(Mail),
    Rcpt(Address),
    Data,
    /// RFC 3030 2.
    Bdat {
        size: u64,
        last: bool,
    },
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    StartTls,
    /// RFC 4954 4.
    Auth {
        mechanism: String,
        initial: Option<String>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mail {
    /// `None` is the null reverse-path.
    pub sender: Option<Address>,
    /// RFC 1870.
    pub size: Option<u64>,
    /// RFC 6531 3.4.
    pub utf8: bool,
}

/// Why a line is no command. Becomes a reply at one place ([`Malformed::reply`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    Unknown,
    NotImplemented,
    Arguments,
    Address,
    Parameter,
    /// The length of a chunk cannot be known, so that nothing after it can be understood.
    Chunk,
}

impl Malformed {
    pub const fn reply(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Unknown => (500, "5.5.1", "Command not recognized"),
            Self::NotImplemented => (502, "5.5.1", "Command not implemented"),
            Self::Arguments | Self::Chunk => (501, "5.5.4", "Syntax error in arguments"),
            Self::Address => (501, "5.1.3", "Malformed address"),
            Self::Parameter => (555, "5.5.4", "Parameter not recognized or not supported"),
        }
    }
}

/// Parses a line without its end. Also names the verb, from a fixed set, for the metrics.
pub fn parse(line: &str) -> (&'static str, Result<Command, Malformed>) {
    let line = line.trim_end_matches([' ', '\t']);
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let argument = rest.trim_start_matches(' ');
    let Some(&name) = VERBS.iter().find(|name| name.eq_ignore_ascii_case(verb)) else {
        return ("unknown", Err(Malformed::Unknown));
    };
    (name, arguments(name, argument))
}

const VERBS: [&str; 16] = [
    "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "EHLO", "HELO", "LHLO", "QUIT", "STARTTLS", "AUTH",
    "VRFY", "EXPN", "HELP", "TURN",
];

fn arguments(verb: &str, argument: &str) -> Result<Command, Malformed> {
    let alone = |command| if argument.is_empty() { Ok(command) } else { Err(Malformed::Arguments) };
    match verb {
        "MAIL" => mail(argument),
        "RCPT" => rcpt(argument),
        "DATA" => alone(Command::Data),
        "BDAT" => bdat(argument),
        "RSET" => alone(Command::Rset),
        "NOOP" => Ok(Command::Noop),
        "EHLO" => client(argument).map(Command::Ehlo),
        "HELO" => client(argument).map(Command::Helo),
        "LHLO" => client(argument).map(Command::Lhlo),
        "QUIT" => alone(Command::Quit),
        "STARTTLS" => alone(Command::StartTls),
        "AUTH" => auth(argument),
        "VRFY" if !argument.is_empty() => Ok(Command::Vrfy),
        "VRFY" => Err(Malformed::Arguments),
        "HELP" => Ok(Command::Help),
        _ => Err(Malformed::NotImplemented),
    }
}

/// The name that a client gives itself. It goes into a header, so it must look like a host name.
fn client(argument: &str) -> Result<String, Malformed> {
    let good = argument.is_ascii() && address::is_domain(argument);
    if good { Ok(argument.to_owned()) } else { Err(Malformed::Arguments) }
}

/// `FROM:<path>` or `TO:<path>`. Many clients put a space behind the colon, so that is let through.
fn path<'a>(argument: &'a str, keyword: &str) -> Result<(Option<Address>, &'a str), Malformed> {
    let (word, rest) = argument.split_once(':').ok_or(Malformed::Arguments)?;
    if !word.eq_ignore_ascii_case(keyword) {
        return Err(Malformed::Arguments);
    }
    let (path, rest) = address::path(rest.trim_start_matches(' ')).ok_or(Malformed::Address)?;
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(Malformed::Arguments);
    }
    Ok((path, rest))
}

fn mail(argument: &str) -> Result<Command, Malformed> {
    let (sender, parameters) = path(argument, "FROM")?;
    let mut mail = Mail { sender, ..Mail::default() };
    for parameter in parameters.split(' ').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name.to_ascii_uppercase().as_str() {
            // RFC 1870 3: up to 20 digits.
            "SIZE" => mail.size = Some(number(value).ok_or(Malformed::Arguments)?),
            // RFC 6152 2. BINARYMIME (RFC 3030 3) is not offered.
            "BODY" if ["7BIT", "8BITMIME"].iter().any(|body| body.eq_ignore_ascii_case(value)) => {}
            "SMTPUTF8" if value.is_empty() => mail.utf8 = true,
            // RFC 4954 5: who submitted it first. Nobody is trusted to say so, so it counts as `<>`.
            "AUTH" if !value.is_empty() => {}
            _ => return Err(Malformed::Parameter),
        }
    }
    Ok(Command::Mail(mail))
}

fn rcpt(argument: &str) -> Result<Command, Malformed> {
    let (path, parameters) = path(argument, "TO")?;
    if parameters.split(' ').any(|parameter| !parameter.is_empty()) {
        return Err(Malformed::Parameter);
    }
    path.map(Command::Rcpt).ok_or(Malformed::Address)
}

/// A number too large to count is as good as the largest.
fn number(text: &str) -> Option<u64> {
    let digits = (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

fn bdat(argument: &str) -> Result<Command, Malformed> {
    let (size, rest) = argument.split_once(' ').unwrap_or((argument, ""));
    let size = number(size).ok_or(Malformed::Chunk)?;
    let last = rest.trim_start_matches(' ');
    match last {
        "" => Ok(Command::Bdat { size, last: false }),
        last if last.eq_ignore_ascii_case("LAST") => Ok(Command::Bdat { size, last: true }),
        _ => Err(Malformed::Chunk),
    }
}

fn auth(argument: &str) -> Result<Command, Malformed> {
    let (mechanism, initial) = argument.split_once(' ').unwrap_or((argument, ""));
    if mechanism.is_empty() || initial.contains(' ') {
        return Err(Malformed::Arguments);
    }
    let initial = (!initial.is_empty()).then(|| initial.to_owned());
    Ok(Command::Auth { mechanism: mechanism.to_ascii_uppercase(), initial })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(line: &str) -> Command {
        parse(line).1.unwrap()
    }

    fn bad(line: &str) -> Malformed {
        parse(line).1.unwrap_err()
    }

    #[test]
    fn verbs_and_keywords_are_known_in_any_case() {
        assert_eq!(ok("eHlO host.example"), Command::Ehlo("host.example".into()));
        assert_eq!(ok("data"), Command::Data);
        assert_eq!(ok("bdat 12 last"), Command::Bdat { size: 12, last: true });
        assert_eq!(parse("quit now").0, "QUIT");
        assert_eq!(parse("\u{ff}\u{ff}").0, "unknown");
    }

    #[test]
    fn mail_takes_what_is_offered_and_nothing_else() {
        let Command::Mail(mail) = ok("MAIL FROM:<a@b.org> size=12 BODY=8bitmime SMTPUTF8 AUTH=<>") else {
            panic!()
        };
        assert_eq!((mail.size, mail.utf8), (Some(12), true));
        assert_eq!(mail.sender.unwrap().as_str(), "a@b.org");
        let Command::Mail(mail) = ok("MAIL FROM: <>") else { panic!() };
        assert_eq!(mail.sender, None);
        assert_eq!(bad("MAIL FROM:<a@b.org> RET=HDRS"), Malformed::Parameter);
        assert_eq!(bad("MAIL FROM:<a@b.org> BODY=BINARYMIME"), Malformed::Parameter);
        assert_eq!(bad("MAIL FROM:<a@b.org> SIZE=x"), Malformed::Arguments);
        assert_eq!(bad("MAIL FROM:<a@b.org>SIZE=1"), Malformed::Arguments);
        assert_eq!(bad("MAIL FROM:a@b.org"), Malformed::Address);
        assert_eq!(bad("MAIL TO:<a@b.org>"), Malformed::Arguments);
        assert_eq!(bad("MAIL"), Malformed::Arguments);
        let Command::Mail(mail) = ok("MAIL FROM:<> SIZE=99999999999999999999") else { panic!() };
        assert_eq!(mail.size, Some(u64::MAX));
    }

    #[test]
    fn a_recipient_is_never_empty() {
        assert_eq!(bad("RCPT TO:<>"), Malformed::Address);
        assert_eq!(bad("RCPT TO:<a@b.org> NOTIFY=NEVER"), Malformed::Parameter);
    }

    #[test]
    fn a_chunk_of_unknown_length_is_told_apart() {
        for line in ["BDAT", "BDAT x", "BDAT -1", "BDAT 1 FIRST", "BDAT 1 2", "BDAT +1"] {
            assert_eq!(bad(line), Malformed::Chunk, "{line}");
        }
    }

    #[test]
    fn a_client_name_cannot_carry_a_header() {
        for name in ["", "a b", "a(b", "a\tb", "a;b", "<a>", "ä"] {
            assert_eq!(bad(&format!("EHLO {name}")), Malformed::Arguments, "{name:?}");
        }
        assert_eq!(ok("EHLO [127.0.0.1]"), Command::Ehlo("[127.0.0.1]".into()));
        assert_eq!(ok("EHLO my_host"), Command::Ehlo("my_host".into()));
    }
}
