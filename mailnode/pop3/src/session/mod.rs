//! The state of one connection (RFC 1939 3: AUTHORIZATION, TRANSACTION, UPDATE).

mod commands;

use crate::command::{self, Login, Malformed};
use crate::input::{Input, Line};
use crate::output::Output;
use crate::stuffing::{Stuffing, top};
use bytes::{Bytes, BytesMut};
use std::fmt::Write;

/// Errors in a row, after which the client is sent away.
const MOST_ERRORS: u32 = 10;
/// Wrong passwords on one connection.
const MOST_FAILED_LOGINS: u32 = 3;

#[derive(Clone, Debug)]
pub struct Config {
    /// What the server calls itself.
    pub host_name: String,
    /// The connection is under TLS already.
    pub tls: bool,
    /// Whether passwords may come in clear text. Only for networks where nobody listens.
    pub clear_text_login: bool,
}

/// What the session wants next.
#[derive(Debug)]
pub enum Next {
    /// Write the output, then read more into [`Session::buffer`].
    Read,
    /// Write the output; there is more to come without reading.
    Write,
    /// Answer with [`Session::logged_in`].
    LogIn(Login),
    /// The body of a message, by its index in [`Maildrop::messages`]. Answer with [`Session::body`].
    Body(usize),
    /// Remove these messages (indexes, ascending). Answer with [`Session::expunged`].
    Expunge(Vec<usize>),
    /// Write the output, begin TLS, then call [`Session::tls_started`].
    StartTls,
    /// Write the output and close the connection.
    Close,
}

/// The messages of a session.
#[derive(Clone, Debug, Default)]
pub struct Maildrop {
    /// With the UID it names a message on every node, for ever (RFC 1939 7, UIDL).
    pub uid_validity: u32,
    pub messages: Vec<Listed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub uid: u32,
    /// Bytes of the body, exactly.
    pub size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginFailure {
    Refused,
    Temporary,
}

/// What came of the question for a body.
#[derive(Clone, Debug)]
pub enum Body {
    Here(Bytes),
    /// Another session expunged it.
    Gone,
    Temporary,
    /// Encrypted, and this session has no key for it.
    Locked,
}

#[derive(Debug)]
enum State {
    Command,
    /// AUTH PLAIN waits for its response.
    Auth,
    Asked(Question),
    Sending(Sending),
    Closed,
}

#[derive(Debug)]
enum Question {
    Login { command: &'static str },
    Body { command: &'static str, lines: Option<u32> },
    Expunge,
    Tls,
}

/// A multi-line response that is written as the client takes it.
#[derive(Debug)]
enum Sending {
    Message(Stuffing),
    List { next: usize },
    Uidl { next: usize },
}

/// One connection. See the crate's description for how to drive it.
#[derive(Debug)]
pub struct Session {
    config: Config,
    input: Input,
    output: Output,
    outcomes: Vec<(&'static str, bool)>,
    state: State,
    tls: bool,
    /// Given with USER, until PASS.
    name: Option<String>,
    /// From login on.
    maildrop: Option<Maildrop>,
    /// Which messages are marked as deleted.
    deleted: Vec<bool>,
    errors: u32,
    failed_logins: u32,
}

impl Session {
    /// A session whose greeting is in the output.
    pub fn new(config: Config) -> Self {
        let mut session = Self {
            input: Input::default(),
            output: Output::default(),
            outcomes: Vec::new(),
            state: State::Command,
            tls: config.tls,
            name: None,
            maildrop: None,
            deleted: Vec::new(),
            errors: 0,
            failed_logins: 0,
            config,
        };
        let _ = write!(session.output.text(), "+OK {} ready\r\n", session.config.host_name);
        session
    }

    /// Where to read into, some 16 KiB at a time.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.input.buffer()
    }

    /// Takes what waits to be written.
    pub fn output(&mut self) -> Vec<Bytes> {
        self.output.take()
    }

    /// Commands that were answered since the last call, and whether with +OK. Call it at every write.
    pub fn outcomes(&mut self) -> std::vec::Drain<'_, (&'static str, bool)> {
        self.outcomes.drain(..)
    }

    /// Goes on with what was read.
    pub fn proceed(&mut self) -> Next {
        loop {
            if self.output.is_full() {
                return Next::Write;
            }
            let step = match self.state {
                State::Command => self.read_command(),
                State::Auth => self.read_auth(),
                State::Sending(_) => {
                    self.send();
                    None
                }
                State::Asked(_) | State::Closed => Some(Next::Close),
            };
            if let Some(next) = step {
                return next;
            }
        }
    }

    /// The answer to [`Next::LogIn`].
    pub fn logged_in(&mut self, outcome: Result<Maildrop, LoginFailure>) {
        let State::Asked(Question::Login { command }) = self.state else { return };
        self.state = State::Command;
        match outcome {
            Ok(maildrop) => {
                self.deleted = vec![false; maildrop.messages.len()];
                self.maildrop = Some(maildrop);
                self.ok(command, "Logged in");
            }
            // RFC 3206 4, 5.
            Err(LoginFailure::Temporary) => {
                self.error(command, "[SYS/TEMP] Cannot log in now, try again later")
            }
            Err(LoginFailure::Refused) => {
                self.fault(command, "[AUTH] Invalid user name or password");
                self.failed_logins += 1;
                if self.failed_logins >= MOST_FAILED_LOGINS {
                    self.state = State::Closed;
                }
            }
        }
    }

    /// The answer to [`Next::Body`].
    pub fn body(&mut self, body: Body) {
        let State::Asked(Question::Body { command, lines }) = self.state else { return };
        self.state = State::Command;
        match body {
            Body::Here(message) => {
                let message = lines.map_or_else(|| message.clone(), |lines| top(&message, lines));
                self.ok(command, "Message follows");
                self.state = State::Sending(Sending::Message(Stuffing::new(message)));
            }
            Body::Gone => self.error(command, "The message is gone"),
            Body::Temporary => {
                self.error(command, "[SYS/TEMP] The message cannot be read now, try again later")
            }
            // RFC 3206 4: a person has to do something about it.
            Body::Locked => {
                self.error(command, "[SYS/PERM] The message is encrypted, and your password does not open it")
            }
        }
    }

    /// The answer to [`Next::Expunge`].
    pub fn expunged(&mut self, all_gone: bool) {
        if !matches!(self.state, State::Asked(Question::Expunge)) {
            return;
        }
        if all_gone {
            self.ok("QUIT", "Bye");
        } else {
            // RFC 1939 6.
            self.error("QUIT", "[SYS/TEMP] Some deleted messages were not removed");
        }
        self.state = State::Closed;
    }

    /// TLS has begun. What the client said before counts for nothing (RFC 2595 4).
    pub fn tls_started(&mut self) {
        self.input.clear();
        self.name = None;
        self.tls = true;
        self.state = State::Command;
    }

    /// The client has said nothing for too long: it gets no answer, and nothing is removed (RFC 1939 3).
    pub fn timed_out(&mut self) {
        self.state = State::Closed;
    }

    /// The node stops. Nothing is removed.
    pub fn stopping(&mut self) {
        let _ = write!(self.output.text(), "-ERR [SYS/TEMP] Service is going down, try again later\r\n");
        self.state = State::Closed;
    }

    fn read_command(&mut self) -> Option<Next> {
        let line = match self.input.line() {
            Line::Complete(line) => line,
            Line::Partial => return Some(Next::Read),
            Line::TooLong => {
                self.error("unknown", "Line too long");
                self.state = State::Closed;
                return None;
            }
        };
        let text = std::str::from_utf8(&line).ok().filter(|text| !text.contains(|c: char| c.is_control()));
        let Some(text) = text else {
            self.fault("unknown", "Command holds characters that are not allowed");
            return None;
        };
        let (verb, parsed) = command::parse(text);
        match parsed {
            Ok(command) => return self.command(verb, command),
            Err(Malformed::Unknown) => self.fault(verb, "Unknown command"),
            Err(Malformed::Arguments) => self.fault(verb, "Wrong arguments"),
        }
        None
    }

    fn read_auth(&mut self) -> Option<Next> {
        let line = match self.input.line() {
            Line::Complete(line) => line,
            Line::Partial => return Some(Next::Read),
            Line::TooLong => {
                self.error("AUTH", "Line too long");
                self.state = State::Closed;
                return None;
            }
        };
        self.state = State::Command;
        // What is not text is not base64 either.
        self.auth_response(std::str::from_utf8(&line).unwrap_or("!"))
    }

    fn at(&self, index: usize) -> Option<Listed> {
        let deleted = self.deleted.get(index).copied().unwrap_or(true);
        self.maildrop.as_ref()?.messages.get(index).copied().filter(|_| !deleted)
    }

    fn uid_validity(&self) -> u32 {
        self.maildrop.as_ref().map_or(0, |maildrop| maildrop.uid_validity)
    }

    fn totals(&self) -> (usize, u64) {
        let listed = (0..self.deleted.len()).filter_map(|index| self.at(index));
        listed.fold((0, 0), |(count, size), listed| (count + 1, size + listed.size))
    }

    /// Goes on with a multi-line response until it is over or the output is full.
    fn send(&mut self) {
        let validity = self.uid_validity();
        while !self.output.is_full() {
            let next = match &mut self.state {
                State::Sending(Sending::Message(pieces)) => {
                    match pieces.next() {
                        Some(piece) => self.output.piece(piece),
                        None => self.state = State::Command,
                    }
                    continue;
                }
                State::Sending(Sending::List { next } | Sending::Uidl { next }) => {
                    *next += 1;
                    *next - 1
                }
                _ => return,
            };
            if next >= self.deleted.len() {
                self.output.text().extend_from_slice(b".\r\n");
                self.state = State::Command;
            } else if let Some(listed) = self.at(next) {
                let uidl = matches!(self.state, State::Sending(Sending::Uidl { .. }));
                let (number, text) = (next + 1, self.output.text());
                let _ = if uidl {
                    write!(text, "{number} {validity}.{}\r\n", listed.uid)
                } else {
                    write!(text, "{number} {}\r\n", listed.size)
                };
            }
        }
    }

    fn ok(&mut self, command: &'static str, text: &str) {
        self.say_ok(command, format_args!("{text}"));
    }

    fn say_ok(&mut self, command: &'static str, text: std::fmt::Arguments<'_>) {
        self.errors = 0;
        self.outcomes.push((command, true));
        let _ = write!(self.output.text(), "+OK {text}\r\n");
    }

    fn error(&mut self, command: &'static str, text: &str) {
        self.outcomes.push((command, false));
        let _ = write!(self.output.text(), "-ERR {text}\r\n");
    }

    /// A command that no working client sends. After many in a row the client is sent away.
    fn fault(&mut self, command: &'static str, text: &str) {
        self.error(command, text);
        self.errors += 1;
        if self.errors >= MOST_ERRORS {
            self.state = State::Closed;
        }
    }
}
