//! Pieces to commands.

use super::command::{Body, Command, MailboxName, Resync, Secret, Store};
use super::date;
use super::decoder::Piece;
use super::lexer::{Lexer, SyntaxError, utf8};
use super::sequence::SequenceSet;
use super::utf7;
use super::{parse_fetch, parse_list, parse_notify, parse_search};
use crate::backend::{AppendMessage, StoreChange};
use crate::flags::{Flags, SystemFlag};

/// The most bytes a mailbox name may have.
const MAX_NAME_LENGTH: usize = 1024;

/// A command that was not understood. Without a tag, if not even that was readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub tag: Option<String>,
    pub reason: SyntaxError,
}

/// Parses one command. `utf8_names`: see [`Lexer::utf8_names`].
pub fn parse(pieces: &[Piece], utf8_names: bool) -> Result<Command, ParseError> {
    let mut lexer = Lexer::new(pieces, utf8_names);
    let tag = lexer.tag().map_err(|reason| ParseError { tag: None, reason })?;
    match body(&mut lexer) {
        Ok(body) => Ok(Command { tag, body }),
        Err(reason) => Err(ParseError { tag: Some(tag), reason }),
    }
}

/// `bytes` if they are a tag.
pub fn tag(bytes: bytes::Bytes) -> Option<String> {
    let pieces = [Piece::Text(bytes)];
    let mut lexer = Lexer::new(&pieces, false);
    let tag = lexer.tag().ok()?;
    lexer.at_end().then_some(tag)
}

fn body(lexer: &mut Lexer<'_>) -> Result<Body, SyntaxError> {
    lexer.space()?;
    let mut name = lexer.keyword()?;
    let uid = name == "UID";
    if uid {
        lexer.space()?;
        name = lexer.keyword()?;
    }
    let body = match name.as_str() {
        "FETCH" => Body::Fetch(parse_fetch::fetch(lexer, uid)?),
        "STORE" => Body::Store(store(lexer, uid)?),
        "SEARCH" => Body::Search(parse_search::search(lexer, uid)?),
        "COPY" | "MOVE" => {
            lexer.space()?;
            let set = SequenceSet::parse(lexer)?;
            let mailbox = argument(lexer)?;
            if name == "COPY" { Body::Copy { uid, set, mailbox } } else { Body::Move { uid, set, mailbox } }
        }
        "EXPUNGE" if uid => {
            lexer.space()?;
            Body::Expunge { uids: Some(SequenceSet::parse(lexer)?) }
        }
        _ if uid => return Err(SyntaxError::new("unknown UID command")),
        "EXPUNGE" => Body::Expunge { uids: None },
        "CAPABILITY" => Body::Capability,
        "NOOP" => Body::Noop,
        "LOGOUT" => Body::Logout,
        "STARTTLS" => Body::StartTls,
        "NAMESPACE" => Body::Namespace,
        "IDLE" => Body::Idle,
        "NOTIFY" => Body::Notify(parse_notify::notify(lexer)?),
        "CHECK" => Body::Check,
        "CLOSE" => Body::Close,
        "UNSELECT" => Body::Unselect,
        "ID" => id(lexer)?,
        "AUTHENTICATE" => authenticate(lexer)?,
        "LOGIN" => {
            lexer.space()?;
            let name = lexer.astring_text()?;
            lexer.space()?;
            Body::Login { name, password: Secret(lexer.astring()?) }
        }
        "ENABLE" => enable(lexer)?,
        "SELECT" => select(lexer, false)?,
        "EXAMINE" => select(lexer, true)?,
        "CREATE" => create(lexer)?,
        "DELETE" => Body::Delete(argument(lexer)?),
        "RENAME" => Body::Rename { from: argument(lexer)?, to: argument(lexer)? },
        "SUBSCRIBE" => Body::Subscribe { mailbox: argument(lexer)?, subscribed: true },
        "UNSUBSCRIBE" => Body::Subscribe { mailbox: argument(lexer)?, subscribed: false },
        "LIST" => Body::List(parse_list::list(lexer)?),
        "LSUB" => {
            lexer.space()?;
            let reference = mailbox(lexer)?;
            lexer.space()?;
            let pattern = lexer.list_mailbox()?;
            Body::Lsub { reference, pattern: decode_name(pattern, lexer.utf8_names) }
        }
        "STATUS" => {
            let mailbox = argument(lexer)?;
            lexer.space()?;
            Body::Status { mailbox, items: parse_list::status_items(lexer)? }
        }
        "APPEND" => append(lexer)?,
        _ => return Err(SyntaxError::new("unknown command")),
    };
    lexer.end()?;
    Ok(body)
}

/// A mailbox name behind a space.
fn argument(lexer: &mut Lexer<'_>) -> Result<MailboxName, SyntaxError> {
    lexer.space()?;
    mailbox(lexer)
}

pub fn mailbox(lexer: &mut Lexer<'_>) -> Result<MailboxName, SyntaxError> {
    let name = lexer.astring()?;
    Ok(decode_name(name, lexer.utf8_names))
}

/// The name in UTF-8, the inbox in capitals (RFC 9051 5.1: INBOX is case-insensitive). RFC 3501 5.1.3 forbids names that
/// are not modified UTF-7; if such a one is at least UTF-8, it is taken as that.
pub fn decode_name(bytes: bytes::Bytes, utf8_names: bool) -> MailboxName {
    if bytes.len() > MAX_NAME_LENGTH {
        return MailboxName::Invalid;
    }
    let Ok(name) = utf8(bytes) else { return MailboxName::Invalid };
    let name = match utf8_names {
        true => name,
        false if name.is_ascii() => match utf7::decode(&name) {
            Some(name) => name,
            None => return MailboxName::Invalid,
        },
        false => name,
    };
    if name.chars().any(char::is_control) {
        return MailboxName::Invalid;
    }
    MailboxName::Valid(match (name.get(..5), name.get(5..)) {
        (Some(inbox), Some(rest))
            if inbox.eq_ignore_ascii_case("INBOX") && (rest.is_empty() || rest.starts_with('/')) =>
        {
            format!("INBOX{rest}")
        }
        _ => name,
    })
}

/// ID (RFC 2971 3.1). What the client says about itself is checked and dropped.
fn id(lexer: &mut Lexer<'_>) -> Result<Body, SyntaxError> {
    lexer.space()?;
    if !lexer.accept_word("NIL") {
        let mut values = 0;
        lexer.list(|lexer| {
            values += 1;
            lexer.nstring()
        })?;
        if values % 2 != 0 || values > 60 {
            return Err(SyntaxError::new("ID takes up to 30 pairs of field and value"));
        }
    }
    Ok(Body::Id)
}

/// AUTHENTICATE, with an initial response (RFC 4959); `=` is an empty one.
fn authenticate(lexer: &mut Lexer<'_>) -> Result<Body, SyntaxError> {
    lexer.space()?;
    let mechanism = lexer.atom()?.to_ascii_uppercase();
    let initial = match lexer.accept(b' ') {
        true => Some(Secret(lexer.astring()?)),
        false => None,
    };
    Ok(Body::Authenticate { mechanism, initial })
}

fn enable(lexer: &mut Lexer<'_>) -> Result<Body, SyntaxError> {
    let mut capabilities = Vec::new();
    while lexer.accept(b' ') && !lexer.at_end() {
        capabilities.push(lexer.atom()?.to_ascii_uppercase());
    }
    if capabilities.is_empty() {
        return Err(SyntaxError::new("ENABLE what?"));
    }
    Ok(Body::Enable(capabilities))
}

/// SELECT and EXAMINE with the parameters of RFC 7162 3.1.8 and 3.2.5.
fn select(lexer: &mut Lexer<'_>, examine: bool) -> Result<Body, SyntaxError> {
    let mailbox = argument(lexer)?;
    let (mut condstore, mut qresync) = (false, None);
    if lexer.accept(b' ') && !lexer.at_end() {
        lexer.list(|lexer| {
            match lexer.keyword()?.as_str() {
                "CONDSTORE" => condstore = true,
                "QRESYNC" => {
                    lexer.space()?;
                    qresync = Some(resync(lexer)?);
                }
                _ => return Err(SyntaxError::new("unknown SELECT parameter")),
            }
            Ok(())
        })?;
    }
    Ok(Body::Select { mailbox, examine, condstore, qresync })
}

fn resync(lexer: &mut Lexer<'_>) -> Result<Resync, SyntaxError> {
    lexer.expect(b'(')?;
    let uid_validity = lexer.nonzero()?;
    lexer.space()?;
    let modseq = lexer.number64()?;
    let mut known_uids = None;
    if lexer.accept(b' ') {
        if lexer.peek() != Some(b'(') {
            known_uids = Some(SequenceSet::parse(lexer)?);
            if lexer.accept(b' ') {
                sequence_match(lexer)?;
            }
        } else {
            sequence_match(lexer)?;
        }
    }
    lexer.expect(b')')?;
    Ok(Resync { uid_validity, modseq, known_uids })
}

/// Message sequence match data (RFC 7162 3.2.5.2): allowed, but only an optimisation that this server does not need.
fn sequence_match(lexer: &mut Lexer<'_>) -> Result<(), SyntaxError> {
    lexer.expect(b'(')?;
    SequenceSet::parse(lexer)?;
    lexer.space()?;
    SequenceSet::parse(lexer)?;
    lexer.expect(b')')
}

/// CREATE with USE (RFC 6154 3).
fn create(lexer: &mut Lexer<'_>) -> Result<Body, SyntaxError> {
    let mailbox = argument(lexer)?;
    let mut special_use = None;
    if lexer.accept(b' ') && !lexer.at_end() {
        lexer.expect(b'(')?;
        if lexer.keyword()? != "USE" {
            return Err(SyntaxError::new("unknown CREATE parameter"));
        }
        lexer.space()?;
        special_use = Some(lexer.list(flag_name)?);
        lexer.expect(b')')?;
    }
    Ok(Body::Create { mailbox, special_use })
}

/// `\` atom or atom.
pub fn flag_name(lexer: &mut Lexer<'_>) -> Result<String, SyntaxError> {
    if lexer.accept(b'\\') { Ok(format!("\\{}", lexer.atom()?)) } else { lexer.atom() }
}

/// Adds the flag called `name`. `\Recent` cannot be set by clients and is ignored.
fn add_flag(flags: &mut Flags, name: &str) -> Result<(), SyntaxError> {
    if let Some(flag) = SystemFlag::parse(name) {
        flags.insert(flag);
        return Ok(());
    }
    if name.eq_ignore_ascii_case("\\Recent") {
        return Ok(());
    }
    if name.starts_with('\\') {
        return Err(SyntaxError(format!("unknown flag {name}")));
    }
    flags.insert_keyword(name).map_err(|error| SyntaxError(error.to_string()))
}

fn flag_list(lexer: &mut Lexer<'_>) -> Result<Flags, SyntaxError> {
    let mut flags = Flags::new();
    lexer.list(|lexer| add_flag(&mut flags, &flag_name(lexer)?))?;
    Ok(flags)
}

/// STORE (RFC 9051 6.4.6) with UNCHANGEDSINCE (RFC 7162 3.1.3).
fn store(lexer: &mut Lexer<'_>, uid: bool) -> Result<Store, SyntaxError> {
    lexer.space()?;
    let set = SequenceSet::parse(lexer)?;
    lexer.space()?;
    let mut unchanged_since = None;
    if lexer.accept(b'(') {
        if lexer.keyword()? != "UNCHANGEDSINCE" {
            return Err(SyntaxError::new("unknown STORE modifier"));
        }
        lexer.space()?;
        unchanged_since = Some(lexer.number64()?);
        lexer.expect(b')')?;
        lexer.space()?;
    }
    let sign = if lexer.accept(b'+') {
        b'+'
    } else if lexer.accept(b'-') {
        b'-'
    } else {
        b'='
    };
    let silent = match lexer.keyword()?.as_str() {
        "FLAGS" => false,
        "FLAGS.SILENT" => true,
        _ => return Err(SyntaxError::new("STORE changes FLAGS only")),
    };
    lexer.space()?;
    let flags = if lexer.peek() == Some(b'(') {
        flag_list(lexer)?
    } else {
        let mut flags = Flags::new();
        loop {
            add_flag(&mut flags, &flag_name(lexer)?)?;
            if !lexer.accept(b' ') || lexer.at_end() {
                break flags;
            }
        }
    };
    let change = match sign {
        b'+' => StoreChange::Add(flags),
        b'-' => StoreChange::Remove(flags),
        _ => StoreChange::Replace(flags),
    };
    Ok(Store { uid, set, change, silent, unchanged_since })
}

/// APPEND (RFC 9051 6.3.12), also of several messages (RFC 3502) and with literal8 (RFC 3516 4.4).
fn append(lexer: &mut Lexer<'_>) -> Result<Body, SyntaxError> {
    let mailbox = argument(lexer)?;
    let mut messages = Vec::new();
    while lexer.accept(b' ') && (messages.is_empty() || !lexer.at_end()) {
        let mut flags = Flags::new();
        if lexer.peek() == Some(b'(') {
            flags = flag_list(lexer)?;
            lexer.space()?;
        }
        let mut internal_date = None;
        if lexer.peek() == Some(b'"') {
            let text = utf8(lexer.string()?)?;
            internal_date =
                Some(date::parse(&text).ok_or_else(|| SyntaxError::new("invalid internal date"))?);
            lexer.space()?;
        }
        let body = lexer.literal(true).ok_or_else(|| SyntaxError::new("expected a literal"))?;
        messages.push(AppendMessage { flags, internal_date, body });
    }
    if messages.is_empty() {
        return Err(SyntaxError::new("APPEND without a message"));
    }
    Ok(Body::Append { mailbox, messages })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::decoder::{Decoder, Input, Limits};
    use bytes::Bytes;

    pub fn command(text: &str) -> Result<Command, ParseError> {
        let mut decoder = Decoder::new(Limits::default());
        decoder.allow_append();
        decoder.push(text.as_bytes());
        decoder.push(b"\r\n");
        loop {
            match decoder.next() {
                Some(Input::Command(pieces)) => return parse(&pieces, false),
                Some(_) => {}
                None => panic!("incomplete: {text}"),
            }
        }
    }

    #[test]
    fn what_real_clients_send_is_understood() {
        for (text, name) in [
            ("A0001 CAPABILITY", "CAPABILITY"),
            ("1 LOGIN \"joe@example.com\" \"a b\\\"c\"", "LOGIN"),
            ("1 login {3+}\r\njoe {0+}\r\n", "LOGIN"),
            ("1 AUTHENTICATE PLAIN AGEAYg==", "AUTHENTICATE"),
            ("1 AUTHENTICATE PLAIN =", "AUTHENTICATE"),
            ("1 ID NIL", "ID"),
            ("1 ID (\"name\" \"Thunderbird\" \"version\" NIL)", "ID"),
            ("1 ENABLE UTF8=ACCEPT CONDSTORE", "ENABLE"),
            ("5 select \"INBOX\" (CONDSTORE)", "SELECT"),
            ("5 SELECT INBOX (QRESYNC (67890007 20050715194045000 41,43:211,214:541))", "SELECT"),
            (
                "5 SELECT INBOX (QRESYNC (67890007 90060115194045000 1:29997 (5000,7500 15000,22500)))",
                "SELECT",
            ),
            ("6 LIST \"\" *", "LIST"),
            ("6 LIST \"\" \"%\" RETURN (SUBSCRIBED SPECIAL-USE STATUS (MESSAGES UNSEEN))", "LIST"),
            ("6 LIST (SUBSCRIBED RECURSIVEMATCH) \"\" (\"a%\" b*) RETURN (CHILDREN)", "LIST"),
            ("6 LSUB \"\" \"*\"", "LSUB"),
            ("7 STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY UNSEEN SIZE HIGHESTMODSEQ)", "STATUS"),
            ("8 APPEND \"Sent\" (\\Seen $Forwarded) \"17-Jul-1996 02:44:25 -0700\" {5+}\r\nhello", "APPEND"),
            ("8 APPEND Sent {2+}\r\nhi (\\Draft) {2+}\r\nho", "APPEND"),
            ("9 IDLE", "IDLE"),
            (
                "9 UID FETCH 1:* (UID FLAGS RFC822.SIZE BODY.PEEK[HEADER.FIELDS (From To \"Cc\")] MODSEQ)",
                "UID FETCH",
            ),
            ("9 UID FETCH 1:* (FLAGS) (CHANGEDSINCE 100 VANISHED)", "UID FETCH"),
            ("9 FETCH 1,2,5:* ALL", "FETCH"),
            ("9 FETCH 1 BODY[1.2.HEADER.FIELDS.NOT (x)]<0.100>", "FETCH"),
            ("9 FETCH 1 (BINARY.PEEK[1.2]<3.4> BINARY.SIZE[1])", "FETCH"),
            ("9 UID STORE 1:3 (UNCHANGEDSINCE 12) +FLAGS.SILENT (\\Deleted)", "UID STORE"),
            ("9 STORE 1 -FLAGS \\Seen $Work", "STORE"),
            (
                "9 UID SEARCH RETURN (MIN MAX COUNT SAVE) CHARSET utf-8 OR (FROM a SUBJECT {2+}\r\n\u{e9}) NOT UNSEEN",
                "UID SEARCH",
            ),
            ("9 SEARCH 1:5 SINCE 1-Feb-1994 NOT FROM \"Smith\" $", "SEARCH"),
            ("9 UID EXPUNGE 1:5", "UID EXPUNGE"),
            ("9 UID MOVE 1 \"Trash\"", "UID MOVE"),
            ("9 CREATE x (USE (\\Sent))", "CREATE"),
            ("9 NOOP ", "NOOP"),
        ] {
            match command(text) {
                Ok(command) => assert_eq!(command.body.name(), name, "{text}"),
                Err(error) => panic!("{text}: {error:?}"),
            }
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_tag() {
        for text in [
            "a",
            "a FOO",
            "a  NOOP",
            "a NOOP x",
            "a LOGIN x",
            "a UID NOOP",
            "a FETCH 0 FLAGS",
            "a FETCH 1 (FLAGS",
            "a FETCH 1 BODY[1.]",
            "a FETCH 1 BODY[MIME]",
            "a FETCH 1 BODY[]<1.0>",
            "a STORE 1 FLAGS (\\Foo)",
            "a STORE 1 LABELS x",
            "a APPEND x \"32-Jan-2020 00:00:00 +0000\" {1+}\r\nx",
            "a APPEND x",
            "a SEARCH",
            "a SEARCH FOO",
            "a SEARCH RETURN (FOO) ALL",
            "a SELECT x (FOO)",
            "a STATUS x ()",
            "a STATUS x (FOO)",
            "a LIST \"\"",
            "a ENABLE",
        ] {
            match command(text) {
                Err(error) => assert_eq!(error.tag.as_deref(), Some("a"), "{text}"),
                Ok(command) => panic!("{text}: {command:?}"),
            }
        }
        assert_eq!(command("+ NOOP").unwrap_err().tag, None);
        assert_eq!(command("").unwrap_err().tag, None);
    }

    #[test]
    fn what_multiplies_work_is_bounded() {
        for (start, item, end, most) in [
            ("a FETCH 1 (UID", " UID", ")", 100),
            ("a SEARCH ALL", " TEXT x", "", 500),
            ("a LIST \"\" (*", " *", ")", 100),
        ] {
            let text = |count: usize| format!("{start}{}{end}", item.repeat(count - 1));
            assert!(command(&text(most)).is_ok(), "{start}");
            assert!(command(&text(most + 1)).is_err(), "{start}");
        }
    }

    #[test]
    fn a_password_is_not_in_the_debug_output() {
        let shown = format!("{:?}", command("a LOGIN joe hunter2").unwrap());
        assert!(shown.contains("joe") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn names_become_utf8_and_the_inbox_capital() {
        let name = |text: &'static str, utf8| decode_name(Bytes::from_static(text.as_bytes()), utf8);
        assert_eq!(name("inBox", false), MailboxName::Valid("INBOX".into()));
        assert_eq!(name("inbox/x", false), MailboxName::Valid("INBOX/x".into()));
        assert_eq!(name("inboxes", false), MailboxName::Valid("inboxes".into()));
        assert_eq!(name("Entw&APw-rfe", false), MailboxName::Valid("Entwürfe".into()));
        assert_eq!(name("Entw&APw-rfe", true), MailboxName::Valid("Entw&APw-rfe".into()));
        assert_eq!(name("Entwürfe", true), MailboxName::Valid("Entwürfe".into()));
        assert_eq!(name("a&b", false), MailboxName::Invalid);
        assert_eq!(name("a\tb", true), MailboxName::Invalid);
    }
}
