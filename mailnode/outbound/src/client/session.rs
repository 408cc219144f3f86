//! One connection to a server: greeting, EHLO or HELO, TLS, log-in, transactions, QUIT.

use super::capabilities::Capabilities;
use super::reply::{Replies, Reply};
use super::stuffing::Stuffing;
use super::transaction::{BATCH, Outcome, Running, Transaction};
use crate::problem::Problem;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::time::Duration;

/// RFC 5321 4.5.3.2: how long a server may take.
const GREETING: Duration = Duration::from_secs(5 * 60);
const COMMAND: Duration = Duration::from_secs(5 * 60);
const DATA: Duration = Duration::from_secs(2 * 60);
const END_OF_DATA: Duration = Duration::from_secs(10 * 60);
/// Not in the RFC, and nothing depends on it.
const QUIT: Duration = Duration::from_secs(5);

/// Whether to begin TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    Never,
    /// If the server offers it: better than clear text, and no worse than it.
    IfOffered,
    /// Nothing is sent without it.
    Required,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub name: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.name)
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    /// What we call ourselves.
    pub host_name: String,
    /// A host that calls itself the same is us: mail that goes there would come back. Not asked of a relay, which was
    /// chosen by somebody who knows.
    pub not_ourselves: bool,
    pub tls: Tls,
    /// Sent only under TLS.
    pub login: Option<Login>,
}

/// What the session wants next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Write the output; there is more to come without reading.
    Write,
    /// Write the output, then read, for so long at most.
    Read(Duration),
    /// Write the output, begin TLS, then call [`Session::tls_started`].
    StartTls,
    /// [`Session::begin`] or [`Session::quit`].
    Ready,
    /// What came of the transaction, one outcome a recipient.
    Done(Vec<Outcome>),
    /// Nothing more can be sent here. None after [`Session::quit`].
    Closed(Option<Problem>),
}

/// The reply that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth(Step),
    Sender,
    Recipient(usize),
    Data,
    EndOfData,
    Reset,
    Quit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Plain,
    LoginBegin,
    LoginName,
    LoginPassword,
}

#[derive(Debug)]
enum State {
    /// Replies are awaited, or the next command can be said.
    Talking,
    TlsAsked,
    Body(Stuffing),
    Ready,
    Closed(Option<Problem>),
}

#[derive(Debug)]
pub struct Session {
    config: Config,
    replies: Replies,
    output: BytesMut,
    expected: VecDeque<Expected>,
    state: State,
    capabilities: Capabilities,
    under_tls: bool,
    running: Option<Running>,
    /// To be told before anything else.
    done: Option<Vec<Outcome>>,
}

impl Session {
    /// A session that waits for the greeting.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            replies: Replies::default(),
            output: BytesMut::new(),
            expected: VecDeque::from([Expected::Greeting]),
            state: State::Talking,
            capabilities: Capabilities::default(),
            under_tls: false,
            running: None,
            done: None,
        }
    }

    pub fn buffer(&mut self) -> &mut BytesMut {
        self.replies.buffer()
    }

    /// Takes what waits to be written.
    pub fn output(&mut self) -> Bytes {
        self.output.split().freeze()
    }

    pub const fn is_under_tls(&self) -> bool {
        self.under_tls
    }

    /// Goes on with what was read.
    pub fn proceed(&mut self) -> Next {
        loop {
            if let Some(done) = self.done.take() {
                return Next::Done(done);
            }
            // What comes before it was asked for would be taken for the answer to what is said next.
            if self.expected.is_empty() && !self.replies.is_empty() && !matches!(self.state, State::Closed(_))
            {
                self.broken("the server spoke out of turn");
                continue;
            }
            match &mut self.state {
                State::Closed(problem) => return Next::Closed(problem.clone()),
                State::Ready => return Next::Ready,
                State::TlsAsked => return Next::StartTls,
                State::Body(stuffing) => {
                    if stuffing.proceed(&mut self.output) {
                        return Next::Write;
                    }
                    self.state = State::Talking;
                    self.expected.push_back(Expected::EndOfData);
                }
                State::Talking => {
                    let Some(&expected) = self.expected.front() else {
                        self.say_next();
                        continue;
                    };
                    match self.replies.next() {
                        Ok(Some(reply)) => {
                            self.expected.pop_front();
                            self.heard(expected, &reply);
                        }
                        Ok(None) => return Next::Read(patience(expected)),
                        Err(error) => self.broken(&format!("the server sent {error}")),
                    }
                }
            }
        }
    }

    /// Begins a transaction. Only after [`Next::Ready`].
    pub fn begin(&mut self, transaction: Transaction) {
        if !matches!(self.state, State::Ready) {
            return;
        }
        let mut running = Running::new(transaction);
        if let Some(problem) = self.cannot_take(&running.transaction) {
            running.fail_all(&problem);
            self.done = Some(running.finish());
            return;
        }
        self.say_sender(&running.transaction);
        self.expected.push_back(Expected::Sender);
        self.running = Some(running);
        self.state = State::Talking;
        if self.capabilities.pipelining {
            self.say_recipients();
        }
    }

    /// Says goodbye (RFC 5321 4.1.1.10).
    pub fn quit(&mut self) {
        if matches!(self.state, State::Ready) {
            self.say("QUIT");
            self.expected.push_back(Expected::Quit);
            self.state = State::Talking;
        }
    }

    /// TLS has begun: what was said before counts for nothing (RFC 3207 4.2).
    pub fn tls_started(&mut self) {
        self.under_tls = true;
        self.replies.clear();
        self.capabilities = Capabilities::default();
        self.state = State::Talking;
        self.hello();
    }

    /// The connection is of no use any more: closed, silent for too long, nonsense.
    pub fn broken(&mut self, why: &str) {
        if self.expected.front() == Some(&Expected::Quit) {
            self.state = State::Closed(None);
            return;
        }
        self.close(Problem::temporary(4, 2, why));
    }

    fn close(&mut self, problem: Problem) {
        self.expected.clear();
        self.output.clear();
        if let Some(mut running) = self.running.take() {
            running.fail_all(&problem);
            self.done = Some(running.finish());
        }
        self.state = State::Closed(Some(problem));
    }

    fn heard(&mut self, expected: Expected, reply: &Reply) {
        if expected == Expected::Quit {
            self.state = State::Closed(None);
            return;
        }
        // RFC 5321 3.8: the server ends the session, whatever was asked.
        if reply.code == 421 {
            return self.close(Problem::of_reply(reply));
        }
        match expected {
            Expected::Greeting => self.greeted(reply),
            Expected::Ehlo => self.extended(reply),
            Expected::Helo if reply.is_positive() => self.introduced(),
            Expected::Helo => self.close(at_most_temporary(reply)),
            Expected::StartTls => self.tls_answered(reply),
            Expected::Auth(step) => self.auth_answered(step, reply),
            Expected::Sender | Expected::Recipient(_) | Expected::Data | Expected::EndOfData => {
                self.transaction_answered(expected, reply);
            }
            // RFC 5321 4.1.1.5: RSET cannot fail; a server that refuses it is not to be trusted with another message.
            Expected::Reset if !reply.is_positive() => self.close(Problem::of_reply(reply)),
            Expected::Reset | Expected::Quit => {}
        }
    }

    /// RFC 5321 3.1. A server that refuses everybody may be wrongly set up: another one, or this one later, may not.
    fn greeted(&mut self, reply: &Reply) {
        if reply.code == 220 { self.hello() } else { self.close(at_most_temporary(reply)) }
    }

    fn hello(&mut self) {
        let name = self.config.host_name.clone();
        self.say(&format!("EHLO {name}"));
        self.expected.push_back(Expected::Ehlo);
    }

    fn extended(&mut self, reply: &Reply) {
        if !reply.is_positive() {
            // RFC 5321 3.2: a server that knows no EHLO knows HELO.
            if reply.code < 500 {
                return self.close(Problem::of_reply(reply));
            }
            let name = self.config.host_name.clone();
            self.say(&format!("HELO {name}"));
            self.expected.push_back(Expected::Helo);
            return;
        }
        // RFC 5321 6.3: it is us.
        let name = reply.lines.first().and_then(|line| line.split(' ').next()).unwrap_or_default();
        if self.config.not_ourselves && name.eq_ignore_ascii_case(&self.config.host_name) {
            let text = format!(
                "mail loops back to {name}: its MX records lead here, and the domain is none of ours"
            );
            return self.close(Problem::permanent(4, 6, text));
        }
        self.capabilities = Capabilities::of(&reply.lines);
        self.introduced();
    }

    /// TLS if it is wanted, then the log-in.
    fn introduced(&mut self) {
        if !self.under_tls {
            match (self.config.tls, self.capabilities.start_tls) {
                (Tls::IfOffered | Tls::Required, true) => {
                    self.say("STARTTLS");
                    self.expected.push_back(Expected::StartTls);
                    return;
                }
                (Tls::Required, false) => {
                    return self.close(Problem::temporary(
                        7,
                        10,
                        "the server does not offer TLS, which is required",
                    ));
                }
                _ => {}
            }
        }
        self.log_in();
    }

    fn tls_answered(&mut self, reply: &Reply) {
        if reply.code == 220 {
            // RFC 3207 4.2: whatever came with it in clear text could be anybody's.
            self.replies.clear();
            self.state = State::TlsAsked;
        } else if self.config.tls == Tls::Required {
            self.close(at_most_temporary(reply));
        } else {
            self.log_in();
        }
    }

    fn log_in(&mut self) {
        let Some(login) = self.config.login.clone() else {
            self.state = State::Ready;
            return;
        };
        if !self.under_tls {
            return self.close(Problem::temporary(7, 10, "no password is sent without TLS"));
        }
        let step = if self.capabilities.auth_plain {
            // RFC 4616 2.
            let text = STANDARD.encode(format!("\0{}\0{}", login.name, login.password));
            self.say(&format!("AUTH PLAIN {text}"));
            Step::Plain
        } else if self.capabilities.auth_login {
            self.say("AUTH LOGIN");
            Step::LoginBegin
        } else {
            return self.close(Problem::temporary(
                7,
                0,
                "the server offers neither AUTH PLAIN nor AUTH LOGIN",
            ));
        };
        self.expected.push_back(Expected::Auth(step));
    }

    fn auth_answered(&mut self, step: Step, reply: &Reply) {
        let login =
            self.config.login.clone().unwrap_or(Login { name: String::new(), password: String::new() });
        let next = match (step, reply.code) {
            (Step::Plain | Step::LoginPassword, 235) => {
                self.state = State::Ready;
                return;
            }
            (Step::LoginBegin, 334) => (STANDARD.encode(login.name), Step::LoginName),
            (Step::LoginName, 334) => (STANDARD.encode(login.password), Step::LoginPassword),
            // A password can be put right: the mail waits for that.
            _ => return self.close(at_most_temporary(reply)),
        };
        self.say(&next.0);
        self.expected.push_back(Expected::Auth(next.1));
    }

    /// What this server cannot take, known without asking.
    fn cannot_take(&self, transaction: &Transaction) -> Option<Problem> {
        let size = transaction.message.len() as u64;
        // RFC 1870 6.1.
        if let Some(Some(most)) = self.capabilities.size
            && size > most
        {
            let text = format!("the message has {size} bytes, and the server takes {most} at most");
            return Some(Problem::permanent(3, 4, text));
        }
        if needs_utf8(transaction) && !self.capabilities.utf8 {
            // RFC 6531 3.2.
            return Some(Problem::permanent(
                6,
                7,
                "the server does not take internationalized addresses (SMTPUTF8)",
            ));
        }
        None
    }

    fn say_sender(&mut self, transaction: &Transaction) {
        let mut command = format!("MAIL FROM:<{}>", transaction.sender.as_deref().unwrap_or_default());
        // Writing to a string cannot fail.
        if self.capabilities.size.is_some() {
            let _ = write!(command, " SIZE={}", transaction.message.len());
        }
        if self.capabilities.eight_bit && !transaction.message.is_ascii() {
            command.push_str(" BODY=8BITMIME");
        }
        if self.capabilities.utf8 && needs_utf8(transaction) {
            command.push_str(" SMTPUTF8");
        }
        self.say(&command);
    }

    /// The next recipients: many at once if the server reads ahead (RFC 2920).
    fn say_recipients(&mut self) {
        let count = if self.capabilities.pipelining { BATCH } else { 1 };
        let Some(running) = &mut self.running else { return };
        let end = (running.sent + count).min(running.transaction.recipients.len());
        let batch = running.transaction.recipients.get(running.sent..end).unwrap_or_default();
        for (offset, recipient) in batch.iter().enumerate() {
            self.output.extend_from_slice(format!("RCPT TO:<{recipient}>\r\n").as_bytes());
            self.expected.push_back(Expected::Recipient(running.sent + offset));
        }
        running.sent = end;
    }

    /// Every reply so far is in.
    fn say_next(&mut self) {
        let Some(running) = &self.running else {
            self.state = State::Ready;
            return;
        };
        if !running.sender_refused && running.sent < running.transaction.recipients.len() {
            self.say_recipients();
        } else if running.has_accepted() {
            self.say("DATA");
            self.expected.push_back(Expected::Data);
        } else {
            // Nobody is left to send it to: the transaction is given up before its message.
            self.done = self.running.take().map(Running::finish);
            self.say("RSET");
            self.expected.push_back(Expected::Reset);
        }
    }

    fn transaction_answered(&mut self, expected: Expected, reply: &Reply) {
        let Some(running) = &mut self.running else { return };
        match expected {
            Expected::Sender if !reply.is_positive() => {
                running.sender_refused = true;
                running.fail_all(&Problem::of_reply(reply));
            }
            Expected::Recipient(index) if reply.is_positive() => running.accept(index),
            Expected::Recipient(index) => {
                let mut problem = Problem::of_reply(reply);
                // RFC 5321 4.5.3.1.10: too many recipients is 452, and servers of old say 552.
                if reply.code == 552 && running.has_accepted() {
                    problem = problem.for_now();
                }
                running.fail(index, &problem);
            }
            Expected::Data if reply.code == 354 => {
                self.state = State::Body(Stuffing::new(running.transaction.message.clone()));
            }
            Expected::Data => running.fail_all(&Problem::of_reply(reply)),
            Expected::EndOfData => {
                if reply.is_positive() {
                    running.delivered(&format!("{} {}", reply.code, reply.text));
                } else {
                    running.fail_all(&Problem::of_reply(reply));
                }
                self.done = self.running.take().map(Running::finish);
            }
            _ => {}
        }
    }

    fn say(&mut self, command: &str) {
        self.output.extend_from_slice(command.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }
}

/// A refusal that says nothing about a message.
fn at_most_temporary(reply: &Reply) -> Problem {
    Problem::of_reply(reply).for_now()
}

/// RFC 6531 3.4: for addresses and header fields that are not ASCII.
fn needs_utf8(transaction: &Transaction) -> bool {
    let mut addresses = transaction.recipients.iter().chain(&transaction.sender);
    let header = || {
        let end =
            memchr::memmem::find(&transaction.message, b"\r\n\r\n").unwrap_or(transaction.message.len());
        transaction.message.get(..end).unwrap_or_default()
    };
    addresses.any(|address| !address.is_ascii()) || (transaction.utf8 && !header().is_ascii())
}

const fn patience(expected: Expected) -> Duration {
    match expected {
        Expected::Greeting => GREETING,
        Expected::Data => DATA,
        Expected::EndOfData => END_OF_DATA,
        Expected::Quit => QUIT,
        _ => COMMAND,
    }
}
