//! The state of one connection, and the loop that turns what was read into replies and questions.

mod body;
mod commands;

use crate::address::Address;
use crate::auth::{Exchange, Login};
use crate::command;
use crate::data::Unstuffer;
use crate::input::{Input, Line};
use bytes::{Bytes, BytesMut};
use std::fmt::Write;
use std::net::IpAddr;

/// Replies are written when so many bytes of them wait.
pub const FLUSH_AT: usize = 16 * 1024;
/// Pipelined recipients that are verified with one question.
const BATCH: usize = 100;
/// Errors in a row, after which the client is sent away.
const MOST_ERRORS: u32 = 10;
/// Wrong passwords on one connection.
const MOST_FAILED_LOGINS: u32 = 3;

/// Which of the three protocols is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Port 25: mail for our own users from anybody.
    Smtp,
    /// Mail from our own users, who log in first (RFC 6409 4.3).
    Submission,
    /// Mail for our own users from a neighbour, with a reply for each recipient (RFC 2033).
    Lmtp,
}

impl Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Submission => "submission",
            Self::Lmtp => "lmtp",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one message as the client sends it.
    pub message_bytes: u64,
    /// Recipients of one message.
    pub recipients: usize,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub mode: Mode,
    /// What the server calls itself.
    pub host_name: String,
    pub peer: IpAddr,
    /// Becomes part of the ids of messages, so that a reply and a `Received:` line lead to the logs.
    pub session: u64,
    /// The connection is under TLS already.
    pub tls: bool,
    /// Whether passwords may come in clear text. Only for networks where nobody listens.
    pub clear_text_login: bool,
    pub limits: Limits,
}

/// What the session wants next.
#[derive(Debug)]
pub enum Next<R> {
    /// Write the output, then read more into [`Session::buffer`].
    Read,
    /// Write the output; there is more to come without reading.
    Write,
    /// May the user who logged in send as this? Answer with [`Session::sender_checked`].
    Sender(Address),
    /// Who are these? Answer with [`Session::verified`].
    Verify(Vec<Address>),
    /// Answer with [`Session::logged_in`].
    LogIn(Login),
    /// Store this. Answer with [`Session::delivered`].
    Deliver(Message<R>),
    /// Write the output, begin TLS, then call [`Session::tls_started`].
    StartTls,
    /// Write the output and close the connection.
    Close,
}

/// What the node says of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<R> {
    Accepted(R),
    Unknown,
    /// The account takes no mail.
    Disabled,
    OverQuota,
    /// A mailing list that the sender may not post to.
    NotAllowed,
    /// The domain is none of ours.
    Foreign,
    Malformed,
    /// Nobody can say now.
    Temporary,
}

/// Whether a user may send as an address (RFC 6409 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderOutcome {
    Accepted,
    /// It is not theirs.
    Refused,
    Temporary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    Accepted,
    Refused,
    Temporary,
}

/// A recipient that was accepted, with what the node attached to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient<R> {
    pub address: Address,
    pub target: R,
}

/// A message to be stored for all its recipients.
#[derive(Clone, Debug)]
pub struct Message<R> {
    /// For logs; also in the `Received:` line and in the reply.
    pub id: String,
    /// None is the null path.
    pub sender: Option<Address>,
    pub recipients: Vec<Recipient<R>>,
    /// The client asked for SMTPUTF8.
    pub utf8: bool,
    /// `Return-Path:` and `Received:`, then what the client sent, byte for byte; in [`Mode::Submission`] what a header
    /// must have is put before it if it is missing.
    pub body: Vec<u8>,
    /// Bytes of the `Return-Path:` line in front, which only final delivery adds (RFC 5321 4.4).
    pub return_path: usize,
    /// If one copy cannot be stored, none may stay: there is one reply for all, and the client will send again.
    pub all_or_none: bool,
}

/// What came of one recipient's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Stored,
    /// Not stored, or taken back: the client shall send again.
    Failed,
}

/// How a command ended, by the first digit of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Temporary,
    Refused,
}

impl Outcome {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Temporary => "temporary",
            Self::Refused => "refused",
        }
    }

    const fn of(code: u16) -> Self {
        match code {
            ..400 => Self::Ok,
            400..500 => Self::Temporary,
            _ => Self::Refused,
        }
    }
}

/// The greeting of the client (RFC 5321 4.1.1.1).
#[derive(Clone, Debug)]
struct Client {
    name: String,
    extended: bool,
}

/// One mail transaction (RFC 5321 3.3).
#[derive(Debug)]
struct Transaction<R> {
    sender: Option<Address>,
    declared_size: u64,
    utf8: bool,
    recipients: Vec<Recipient<R>>,
    id: String,
    /// Empty until the first byte of the message is expected.
    body: Vec<u8>,
    /// Bytes of `body` that are ours.
    head: usize,
    /// The message came in chunks (RFC 3030), so DATA may not follow.
    chunked: bool,
    /// Content beyond the limit, which was not kept.
    dropped: u64,
}

/// What the next bytes are.
#[derive(Debug)]
enum State {
    Command,
    Auth(Exchange),
    Data(Unstuffer),
    /// A chunk of the message.
    Chunk {
        remaining: u64,
        last: bool,
    },
    /// A chunk that was refused already.
    Skip {
        remaining: u64,
    },
    /// A question to the node is open.
    Asked(Question),
    Closed,
}

#[derive(Debug)]
enum Question {
    Sender,
    Recipients,
    Login(Login),
    Delivery { command: &'static str, recipients: usize },
    Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reply(u16, &'static str, &'static str);

/// One connection. See the crate's description for how to drive it.
#[derive(Debug)]
pub struct Session<R> {
    config: Config,
    input: Input,
    output: BytesMut,
    outcomes: Vec<(&'static str, Outcome)>,
    state: State,
    tls: bool,
    client: Option<Client>,
    /// The name that was logged in with.
    user: Option<String>,
    transaction: Option<Transaction<R>>,
    /// RCPT commands without a reply yet, in order: to be asked about, or refused already.
    pending: Vec<Result<Address, Reply>>,
    messages: u64,
    errors: u32,
    failed_logins: u32,
    now: i64,
}

impl<R> Session<R> {
    /// A session whose greeting is in the output.
    pub fn new(config: Config) -> Self {
        let mut session = Self {
            input: Input::default(),
            output: BytesMut::with_capacity(512),
            outcomes: Vec::new(),
            state: State::Command,
            tls: config.tls,
            client: None,
            user: None,
            transaction: None,
            pending: Vec::new(),
            messages: 0,
            errors: 0,
            failed_logins: 0,
            now: 0,
            config,
        };
        let protocol = if session.config.mode == Mode::Lmtp { "LMTP" } else { "ESMTP" };
        let _ = write!(session.output, "220 {} {protocol} ready\r\n", session.config.host_name);
        session
    }

    /// Where to read into, some 16 KiB at a time.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.input.buffer()
    }

    /// Takes the replies that wait to be written.
    pub fn output(&mut self) -> Bytes {
        self.output.split().freeze()
    }

    /// Commands that were answered since the last call, for the metrics. Call it at every write.
    pub fn outcomes(&mut self) -> std::vec::Drain<'_, (&'static str, Outcome)> {
        self.outcomes.drain(..)
    }

    /// The name that the client logged in with.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Goes on with what was read. `unix_seconds` is the wall clock, for the `Received:` line.
    pub fn proceed(&mut self, unix_seconds: i64) -> Next<R> {
        self.now = unix_seconds;
        loop {
            if self.output.len() >= FLUSH_AT {
                return Next::Write;
            }
            let step = match self.state {
                State::Command => self.read_command(),
                State::Auth(_) => self.read_auth(),
                State::Data(_) => self.read_data(),
                State::Chunk { .. } => self.read_chunk(),
                State::Skip { .. } => self.skip_chunk(),
                State::Asked(_) | State::Closed => Some(Next::Close),
            };
            if let Some(next) = step {
                return next;
            }
        }
    }

    /// The answer to [`Next::Sender`].
    pub fn sender_checked(&mut self, outcome: SenderOutcome) {
        if !matches!(self.state, State::Asked(Question::Sender)) {
            return;
        }
        self.state = State::Command;
        match outcome {
            SenderOutcome::Accepted => self.success("MAIL", Reply(250, "2.1.0", "Ok")),
            SenderOutcome::Refused => {
                self.transaction = None;
                // RFC 6409 6.1.
                self.fault("MAIL", Reply(550, "5.7.1", "This sender address is not one of yours"));
            }
            SenderOutcome::Temporary => {
                self.transaction = None;
                self.reply("MAIL", Reply(451, "4.3.0", "Cannot check the sender now, try again later"));
            }
        }
    }

    /// The answers to [`Next::Verify`], in its order.
    pub fn verified(&mut self, verdicts: Vec<Verdict<R>>) {
        if !matches!(self.state, State::Asked(Question::Recipients)) {
            return;
        }
        self.state = State::Command;
        let mut verdicts = verdicts.into_iter();
        for pending in std::mem::take(&mut self.pending) {
            let reply = match pending {
                Ok(address) => self.judge(address, verdicts.next().unwrap_or(Verdict::Temporary)),
                Err(reply) => reply,
            };
            self.reply("RCPT", reply);
        }
    }

    /// The answer to [`Next::LogIn`].
    pub fn logged_in(&mut self, outcome: LoginOutcome) {
        let State::Asked(Question::Login(login)) = std::mem::replace(&mut self.state, State::Command) else {
            return;
        };
        match outcome {
            LoginOutcome::Accepted => {
                self.user = Some(login.name);
                self.success("AUTH", Reply(235, "2.7.0", "Authentication successful"));
            }
            LoginOutcome::Temporary => {
                self.reply("AUTH", Reply(454, "4.7.0", "Temporary authentication failure, try again later"));
            }
            LoginOutcome::Refused => {
                self.fault("AUTH", Reply(535, "5.7.8", "Authentication credentials invalid"));
                self.failed_logins += 1;
                if self.failed_logins >= MOST_FAILED_LOGINS {
                    self.farewell("4.7.0", "Too many wrong passwords");
                }
            }
        }
    }

    /// TLS has begun. What the client said before counts for nothing (RFC 3207 4.2).
    pub fn tls_started(&mut self) {
        self.input.clear();
        self.tls = true;
        self.client = None;
        self.user = None;
        self.transaction = None;
        self.pending.clear();
        self.state = State::Command;
    }

    /// The client has said nothing for too long.
    pub fn timed_out(&mut self) {
        self.farewell("4.4.2", "Connection timed out");
    }

    /// The node stops.
    pub fn stopping(&mut self) {
        self.farewell("4.3.2", "Service is going down, try again later");
    }

    /// 421, after which the connection is closed (RFC 5321 3.8).
    fn farewell(&mut self, status: &'static str, text: &'static str) {
        self.transaction = None;
        self.state = State::Closed;
        self.write(Reply(421, status, text));
    }

    fn read_command(&mut self) -> Option<Next<R>> {
        let asked = self.pending.len();
        if asked > 0 && (asked >= BATCH || !self.input.has_line(b"RCPT ")) {
            return self.ask();
        }
        let line = match self.input.line(false) {
            Line::Complete(line) => line,
            Line::Partial => return Some(Next::Read),
            Line::TooLong => {
                self.fault_in_order("unknown", Reply(500, "5.5.2", "Line too long"));
                return None;
            }
            Line::Flood => {
                self.farewell("4.7.0", "Line much too long");
                return None;
            }
        };
        // Controls cannot be part of any command, and must not get into headers or logs.
        let text = std::str::from_utf8(&line).ok().filter(|text| !text.contains(|c: char| c.is_control()));
        match text {
            Some(text) => {
                let (verb, parsed) = command::parse(text);
                self.command(verb, parsed)
            }
            None => {
                let reply = Reply(500, "5.5.2", "Command holds characters that are not allowed");
                self.fault_in_order("unknown", reply);
                None
            }
        }
    }

    /// The sender of the transaction under way; None if it is the null path, or there is none.
    pub fn sender(&self) -> Option<&Address> {
        self.transaction.as_ref()?.sender.as_ref()
    }

    /// One question for all RCPT commands that wait, if any of them is still open.
    fn ask(&mut self) -> Option<Next<R>> {
        let addresses: Vec<Address> =
            self.pending.iter().filter_map(|pending| pending.as_ref().ok()).cloned().collect();
        self.state = State::Asked(Question::Recipients);
        if addresses.is_empty() {
            self.verified(Vec::new());
            return None;
        }
        Some(Next::Verify(addresses))
    }

    /// A good command: whatever went wrong before is forgiven.
    fn success(&mut self, command: &'static str, reply: Reply) {
        self.errors = 0;
        self.reply(command, reply);
    }

    /// A command that no working client sends. After many in a row the client is sent away.
    fn fault(&mut self, command: &'static str, reply: Reply) {
        self.reply(command, reply);
        self.errors += 1;
        if self.errors >= MOST_ERRORS {
            self.farewell("4.7.0", "Too many errors");
        }
    }

    fn reply(&mut self, command: &'static str, reply: Reply) {
        self.outcomes.push((command, Outcome::of(reply.0)));
        self.write(reply);
    }

    /// RFC 2034 4: the enhanced status code comes first in the text, but not in 1yz and 3yz replies.
    fn write(&mut self, Reply(code, status, text): Reply) {
        let space = if status.is_empty() { "" } else { " " };
        let _ = write!(self.output, "{code} {status}{space}{text}\r\n");
    }
}
