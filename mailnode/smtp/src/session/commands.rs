//! What each command does, but for the message itself.

use super::{Client, Mode, Next, Question, Reply, Session, State, Transaction, Verdict};
use crate::address::Address;
use crate::auth::{Exchange, Progress};
use crate::command::{Command, Mail, Malformed};
use crate::input::Line;
use std::fmt::Write;

impl<R> Session<R> {
    pub(super) fn command(
        &mut self,
        verb: &'static str,
        parsed: Result<Command, Malformed>,
    ) -> Option<Next<R>> {
        match parsed {
            // Refusals of recipients keep their place among the replies that are open.
            Ok(Command::Rcpt(address)) => self.rcpt(address),
            Err(malformed) if verb == "RCPT" => {
                let (code, status, text) = malformed.reply();
                self.refuse_rcpt(Reply(code, status, text));
            }
            Err(malformed) => {
                let (code, status, text) = malformed.reply();
                self.fault(verb, Reply(code, status, text));
                if malformed == Malformed::Chunk {
                    // The bytes of the chunk would be taken for commands.
                    self.farewell("4.7.0", "Lost the place in the stream");
                }
            }
            Ok(command) => return self.other(verb, command),
        }
        None
    }

    fn other(&mut self, verb: &'static str, command: Command) -> Option<Next<R>> {
        match command {
            Command::Ehlo(name) => self.hello(verb, name, true, self.config.mode != Mode::Lmtp),
            Command::Helo(name) => self.hello(verb, name, false, self.config.mode != Mode::Lmtp),
            Command::Lhlo(name) => self.hello(verb, name, true, self.config.mode == Mode::Lmtp),
            Command::Mail(mail) => return self.mail(mail),
            Command::Rcpt(address) => self.rcpt(address),
            Command::Data => self.data(),
            Command::Bdat { size, last } => self.bdat(size, last),
            Command::Rset => {
                self.transaction = None;
                self.success(verb, Reply(250, "2.0.0", "Ok"));
            }
            Command::Noop => self.success(verb, Reply(250, "2.0.0", "Ok")),
            // RFC 5321 3.5.3, 7.3: who has an account is not told.
            Command::Vrfy => self.success(verb, Reply(252, "2.5.2", "Cannot verify, but will try delivery")),
            Command::Help => self.success(verb, Reply(214, "2.0.0", "See RFC 5321")),
            Command::Quit => {
                self.transaction = None;
                self.success(verb, Reply(221, "2.0.0", "Bye"));
                self.state = State::Closed;
            }
            Command::StartTls => return self.start_tls(verb),
            Command::Auth { mechanism, initial } => return self.auth(&mechanism, initial.as_deref()),
        }
        None
    }

    fn hello(&mut self, verb: &'static str, name: String, extended: bool, right_protocol: bool) {
        if !right_protocol {
            // RFC 2033 4.1.
            return self.fault(verb, Reply(500, "5.5.1", "This is the other protocol, of SMTP and LMTP"));
        }
        // RFC 5321 4.1.4: EHLO clears everything as RSET does.
        self.transaction = None;
        self.client = Some(Client { name, extended });
        if !extended {
            return self.success(verb, Reply(250, "", "Ok"));
        }
        self.errors = 0;
        self.outcomes.push((verb, super::Outcome::Ok));
        let offers_auth = self.config.mode == Mode::Submission && self.user.is_none() && self.may_log_in();
        let text = &mut self.output;
        let size = self.config.limits.message_bytes;
        let _ = write!(
            text,
            "250-{}\r\n250-PIPELINING\r\n250-SIZE {size}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n",
            self.config.host_name
        );
        if !self.tls {
            let _ = text.write_str("250-STARTTLS\r\n");
        }
        if offers_auth {
            let _ = text.write_str("250-AUTH PLAIN LOGIN\r\n");
        }
        let _ = text.write_str("250-CHUNKING\r\n250 ENHANCEDSTATUSCODES\r\n");
    }

    fn may_log_in(&self) -> bool {
        self.tls || self.config.clear_text_login
    }

    fn mail(&mut self, mail: Mail) -> Option<Next<R>> {
        let refusal = if self.client.is_none() {
            Some(Reply(503, "5.5.1", "Say hello first"))
        } else if self.transaction.is_some() {
            Some(Reply(503, "5.5.1", "Sender already given"))
        } else if self.config.mode == Mode::Submission && self.user.is_none() {
            // RFC 6409 4.3, RFC 4954 6.
            Some(Reply(530, "5.7.0", "Authentication required"))
        } else if !mail.utf8 && mail.sender.as_ref().is_some_and(|sender| !sender.is_ascii()) {
            // RFC 6531 3.5.
            Some(Reply(550, "5.6.7", "Non-ASCII addresses need SMTPUTF8"))
        } else {
            None
        };
        if let Some(reply) = refusal {
            self.fault("MAIL", reply);
            return None;
        }
        // RFC 1870 6.1: no need to wait for the message to know that it is too big.
        if mail.size.is_some_and(|size| size > self.config.limits.message_bytes) {
            self.reply("MAIL", Reply(552, "5.3.4", "Message is too big"));
            return None;
        }
        self.messages += 1;
        let sender = mail.sender.clone();
        self.transaction = Some(Transaction {
            sender: mail.sender,
            declared_size: mail.size.unwrap_or(0),
            utf8: mail.utf8,
            recipients: Vec::new(),
            id: format!("{:016x}.{}", self.config.session, self.messages),
            body: Vec::new(),
            head: 0,
            chunked: false,
            dropped: 0,
        });
        match sender {
            Some(sender) if self.config.mode == Mode::Submission => {
                self.state = State::Asked(Question::Sender);
                return Some(Next::Sender(sender));
            }
            _ => self.success("MAIL", Reply(250, "2.1.0", "Ok")),
        }
        None
    }

    fn rcpt(&mut self, address: Address) {
        let refusal = match &self.transaction {
            None => Some(Reply(503, "5.5.1", "Give the sender first")),
            Some(transaction) if transaction.chunked => Some(Reply(503, "5.5.1", "The message has begun")),
            Some(transaction) if !transaction.utf8 && !address.is_ascii() => {
                Some(Reply(553, "5.6.7", "Non-ASCII addresses need SMTPUTF8"))
            }
            Some(_) => None,
        };
        match refusal {
            Some(reply) => self.refuse_rcpt(reply),
            None => self.pending.push(Ok(address)),
        }
    }

    fn refuse_rcpt(&mut self, reply: Reply) {
        self.fault_in_order("RCPT", reply);
    }

    /// A fault that waits for its turn if recipients before it have no reply yet.
    pub(super) fn fault_in_order(&mut self, command: &'static str, reply: Reply) {
        if self.pending.is_empty() {
            self.fault(command, reply);
        } else {
            self.errors += 1;
            self.pending.push(Err(reply));
        }
    }

    /// What the client is told of a recipient. The codes follow RFC 5321 4.2.3 and RFC 3463.
    pub(super) fn judge(&mut self, address: Address, verdict: Verdict<R>) -> Reply {
        let limit = self.config.limits.recipients;
        let Some(transaction) = &mut self.transaction else {
            return Reply(503, "5.5.1", "Give the sender first");
        };
        match verdict {
            // RFC 5321 4.5.3.1.10.
            Verdict::Accepted(_) if transaction.recipients.len() >= limit => {
                Reply(452, "4.5.3", "Too many recipients")
            }
            Verdict::Accepted(target) => {
                transaction.recipients.push(super::Recipient { address, target });
                self.errors = 0;
                Reply(250, "2.1.5", "Ok")
            }
            Verdict::Unknown => Reply(550, "5.1.1", "No such user here"),
            Verdict::Disabled => Reply(550, "5.2.1", "This mailbox takes no mail"),
            Verdict::OverQuota => Reply(452, "4.2.2", "Mailbox is full"),
            // RFC 3463 3.8: list expansion prohibited.
            Verdict::NotAllowed => Reply(550, "5.7.2", "The sender may not post to this list"),
            Verdict::Foreign if self.config.mode == Mode::Submission => {
                Reply(550, "5.7.1", "This server does not send mail to other domains")
            }
            Verdict::Foreign => Reply(550, "5.7.1", "Relaying denied"),
            Verdict::Malformed => Reply(553, "5.1.3", "Malformed address"),
            Verdict::Temporary => Reply(451, "4.3.0", "Cannot verify the recipient now, try again later"),
        }
    }

    fn start_tls(&mut self, verb: &'static str) -> Option<Next<R>> {
        if self.tls {
            self.fault(verb, Reply(503, "5.5.1", "TLS is already active"));
            return None;
        }
        self.success(verb, Reply(220, "2.0.0", "Ready to start TLS"));
        self.state = State::Asked(Question::Tls);
        Some(Next::StartTls)
    }

    fn auth(&mut self, mechanism: &str, initial: Option<&str>) -> Option<Next<R>> {
        let refusal = if self.config.mode != Mode::Submission {
            Some(Reply(502, "5.5.1", "Users log in on the submission port"))
        } else if self.client.as_ref().is_none_or(|client| !client.extended) {
            Some(Reply(503, "5.5.1", "Say EHLO first"))
        } else if self.user.is_some() || self.transaction.is_some() {
            // RFC 4954 4.
            Some(Reply(503, "5.5.1", "Not now"))
        } else if !self.may_log_in() {
            Some(Reply(538, "5.7.11", "Start TLS first"))
        } else {
            None
        };
        if let Some(reply) = refusal {
            self.fault("AUTH", reply);
            return None;
        }
        match Exchange::begin(mechanism, initial) {
            Some(progress) => self.auth_progress(progress),
            None => {
                self.fault("AUTH", Reply(504, "5.5.4", "Mechanism not supported"));
                None
            }
        }
    }

    pub(super) fn read_auth(&mut self) -> Option<Next<R>> {
        let line = match self.input.line(true) {
            Line::Complete(line) => line,
            Line::Partial => return Some(Next::Read),
            Line::TooLong => bytes::BytesMut::new(),
            Line::Flood => {
                self.farewell("4.7.0", "Line much too long");
                return None;
            }
        };
        let State::Auth(exchange) = std::mem::replace(&mut self.state, State::Command) else { return None };
        // What is not text is not base64 either.
        let progress = exchange.response(std::str::from_utf8(&line).unwrap_or("!"));
        self.auth_progress(progress)
    }

    fn auth_progress(&mut self, progress: Progress) -> Option<Next<R>> {
        match progress {
            Progress::Ask(exchange, challenge) => {
                self.state = State::Auth(exchange);
                self.write(Reply(334, "", challenge));
            }
            Progress::Done(login) => {
                self.state = State::Asked(Question::Login(login.clone()));
                return Some(Next::LogIn(login));
            }
            Progress::Cancelled => self.fault("AUTH", Reply(501, "5.7.0", "Authentication cancelled")),
            Progress::Malformed => self.fault("AUTH", Reply(501, "5.5.2", "Malformed response")),
        }
        None
    }
}
