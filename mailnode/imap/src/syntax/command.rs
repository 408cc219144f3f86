//! The commands of RFC 9051 section 6 (and RFC 3501's LSUB and CHECK), parsed.

use std::fmt;

use bytes::Bytes;

use super::date::Day;
use super::sequence::SequenceSet;
use crate::backend::{AppendMessage, SpecialUse, StoreChange};

/// A command with its tag.
#[derive(Clone, Debug)]
pub struct Command {
    pub tag: String,
    pub body: Body,
}

/// Bytes that Debug does not show: passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Bytes);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// A mailbox name: UTF-8 with `INBOX` in capitals, or what could not be read as a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailboxName {
    Valid(String),
    Invalid,
}

#[derive(Clone, Debug)]
pub enum Body {
    Capability,
    Noop,
    Logout,
    Id,
    StartTls,
    Authenticate {
        mechanism: String,
        initial: Option<Secret>,
    },
    Login {
        name: String,
        password: Secret,
    },
    Enable(Vec<String>),
    Select {
        mailbox: MailboxName,
        examine: bool,
        condstore: bool,
        qresync: Option<Resync>,
    },
    Create {
        mailbox: MailboxName,
        special_use: Option<Vec<String>>,
    },
    Delete(MailboxName),
    Rename {
        from: MailboxName,
        to: MailboxName,
    },
    Subscribe {
        mailbox: MailboxName,
        subscribed: bool,
    },
    List(List),
    Lsub {
        reference: MailboxName,
        pattern: MailboxName,
    },
    Namespace,
    Status {
        mailbox: MailboxName,
        items: Vec<StatusItem>,
    },
    Append {
        mailbox: MailboxName,
        messages: Vec<AppendMessage>,
    },
    Idle,
    /// None: nothing any more.
    Notify(Option<Notify>),
    Check,
    Close,
    Unselect,
    Expunge {
        uids: Option<SequenceSet>,
    },
    Search(Search),
    Fetch(Fetch),
    Store(Store),
    Copy {
        uid: bool,
        set: SequenceSet,
        mailbox: MailboxName,
    },
    Move {
        uid: bool,
        set: SequenceSet,
        mailbox: MailboxName,
    },
}

impl Body {
    /// The name for metrics and logs, from a fixed set.
    pub fn name(&self) -> &'static str {
        match self {
            Body::Capability => "CAPABILITY",
            Body::Noop => "NOOP",
            Body::Logout => "LOGOUT",
            Body::Id => "ID",
            Body::StartTls => "STARTTLS",
            Body::Authenticate { .. } => "AUTHENTICATE",
            Body::Login { .. } => "LOGIN",
            Body::Enable(_) => "ENABLE",
            Body::Select { examine: false, .. } => "SELECT",
            Body::Select { .. } => "EXAMINE",
            Body::Create { .. } => "CREATE",
            Body::Delete(_) => "DELETE",
            Body::Rename { .. } => "RENAME",
            Body::Subscribe { subscribed: true, .. } => "SUBSCRIBE",
            Body::Subscribe { .. } => "UNSUBSCRIBE",
            Body::List(_) => "LIST",
            Body::Lsub { .. } => "LSUB",
            Body::Namespace => "NAMESPACE",
            Body::Status { .. } => "STATUS",
            Body::Append { .. } => "APPEND",
            Body::Idle => "IDLE",
            Body::Notify(_) => "NOTIFY",
            Body::Check => "CHECK",
            Body::Close => "CLOSE",
            Body::Unselect => "UNSELECT",
            Body::Expunge { uids: None } => "EXPUNGE",
            Body::Expunge { .. } => "UID EXPUNGE",
            Body::Search(search) if search.uid => "UID SEARCH",
            Body::Search(_) => "SEARCH",
            Body::Fetch(fetch) if fetch.uid => "UID FETCH",
            Body::Fetch(_) => "FETCH",
            Body::Store(store) if store.uid => "UID STORE",
            Body::Store(_) => "STORE",
            Body::Copy { uid: true, .. } => "UID COPY",
            Body::Copy { .. } => "COPY",
            Body::Move { uid: true, .. } => "UID MOVE",
            Body::Move { .. } => "MOVE",
        }
    }
}

/// What a client knows of the mailbox it selects (RFC 7162 3.2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resync {
    pub uid_validity: u32,
    pub modseq: u64,
    pub known_uids: Option<SequenceSet>,
}

/// LIST with the options of RFC 5258, RFC 5819 and RFC 6154.
#[derive(Clone, Debug, Default)]
pub struct List {
    pub reference: String,
    /// Names that cannot be read as names match nothing and are left out.
    pub patterns: Vec<String>,
    /// Whether the command used any option, and so wants extended answers.
    pub extended: bool,
    pub select_subscribed: bool,
    pub select_special_use: bool,
    pub recursive_match: bool,
    pub return_subscribed: bool,
    pub return_status: Option<Vec<StatusItem>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusItem {
    Messages,
    Recent,
    UidNext,
    UidValidity,
    Unseen,
    Deleted,
    Size,
    HighestModSeq,
    AppendLimit,
}

/// NOTIFY SET (RFC 5465 3.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// A STATUS of each watched mailbox first.
    pub status: bool,
    pub selected: Option<SelectedGroup>,
    /// For the other mailboxes; the first that names one counts.
    pub others: Vec<EventGroup>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedGroup {
    /// EXPUNGE only where it might always come (RFC 5465 6.1).
    pub delayed: bool,
    pub events: Events,
    /// What of new messages is fetched at once.
    pub attributes: Vec<Attribute>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventGroup {
    pub filter: Filter,
    pub events: Events,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    Inboxes,
    Personal,
    Subscribed,
    Subtree(Vec<String>),
    Mailboxes(Vec<String>),
}

/// Kinds of events (RFC 5465 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// MessageNew and MessageExpunge, which go together.
    pub messages: bool,
    pub flags: bool,
    pub names: bool,
    pub subscriptions: bool,
    /// Some that we do not know.
    pub unknown: bool,
}

#[derive(Clone, Debug)]
pub struct Search {
    pub uid: bool,
    /// `None`: plain SEARCH without RETURN.
    pub options: Option<ReturnOptions>,
    pub key: SearchKey,
    /// The charset named, if it is not one we know: NO [BADCHARSET].
    pub unknown_charset: bool,
}

/// RETURN (...) of RFC 4731 and RFC 5182.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReturnOptions {
    pub min: bool,
    pub max: bool,
    pub all: bool,
    pub count: bool,
    pub save: bool,
}

/// A search key (RFC 9051 6.4.4). Text is UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub enum SearchKey {
    All,
    And(Vec<SearchKey>),
    Or(Box<SearchKey>, Box<SearchKey>),
    Not(Box<SearchKey>),
    /// Nothing: NEW and RECENT, because nothing is recent here.
    Nothing,
    Flag(crate::flags::SystemFlag),
    Keyword(String),
    Sequence(SequenceSet),
    Uid(SequenceSet),
    /// Internal date's day is before / on / at or after.
    Before(Day),
    On(Day),
    Since(Day),
    SentBefore(Day),
    SentOn(Day),
    SentSince(Day),
    Larger(u64),
    Smaller(u64),
    /// Field name, and text its value contains; empty text: the field is there.
    Header(String, String),
    /// Text in the body.
    BodyText(String),
    /// Text in header or body.
    Text(String),
    ModSeq(u64),
}

#[derive(Clone, Debug)]
pub struct Fetch {
    pub uid: bool,
    pub set: SequenceSet,
    pub attributes: Vec<Attribute>,
    pub changed_since: Option<u64>,
    pub vanished: bool,
}

/// What of a message is wanted (RFC 9051 6.4.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    Envelope,
    Flags,
    InternalDate,
    Rfc822,
    Rfc822Header,
    Rfc822Size,
    Rfc822Text,
    /// BODY without brackets: BODYSTRUCTURE without extension data.
    Body,
    BodyStructure,
    Uid,
    ModSeq,
    Section {
        section: Section,
        partial: Option<Partial>,
        peek: bool,
    },
    Binary {
        part: Vec<u32>,
        partial: Option<Partial>,
        peek: bool,
    },
    BinarySize {
        part: Vec<u32>,
    },
}

impl Attribute {
    /// The same without setting `\\Seen`.
    pub fn peek(&mut self) {
        if let Attribute::Section { peek, .. } | Attribute::Binary { peek, .. } = self {
            *peek = true;
        }
    }
}

/// `<offset.length>` in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    pub offset: u64,
    pub length: u64,
}

/// What is between the brackets of BODY[...].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    pub part: Vec<u32>,
    pub text: Option<SectionText>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SectionText {
    Header,
    Fields { except: bool, names: Vec<String> },
    Text,
    Mime,
}

#[derive(Clone, Debug)]
pub struct Store {
    pub uid: bool,
    pub set: SequenceSet,
    pub change: StoreChange,
    pub silent: bool,
    pub unchanged_since: Option<u64>,
}

/// The special uses named in CREATE (... USE ...) that we know.
pub fn known_special_use(names: &[String]) -> Option<SpecialUse> {
    match names {
        [name] => SpecialUse::parse(name),
        _ => None,
    }
}
