//! What each command does (RFC 1939 4 to 7).

use super::{Listed, Next, Question, Sending, Session, State};
use crate::command::{self, Command, Login};

impl Session {
    pub(super) fn command(&mut self, verb: &'static str, command: Command) -> Option<Next> {
        match command {
            Command::Capa => self.capabilities(verb),
            Command::Quit => return self.quit(verb),
            command if self.maildrop.is_none() => return self.authorization(verb, command),
            Command::Stat => {
                let (count, size) = self.totals();
                self.say_ok(verb, format_args!("{count} {size}"));
            }
            Command::List(None) => {
                let (count, size) = self.totals();
                self.say_ok(verb, format_args!("{count} messages ({size} octets)"));
                self.state = State::Sending(Sending::List { next: 0 });
            }
            Command::List(Some(number)) => {
                if let Some((_, listed)) = self.find(verb, number) {
                    self.say_ok(verb, format_args!("{number} {}", listed.size));
                }
            }
            Command::Uidl(None) => {
                self.ok(verb, "Unique ids follow");
                self.state = State::Sending(Sending::Uidl { next: 0 });
            }
            Command::Uidl(Some(number)) => {
                if let Some((_, listed)) = self.find(verb, number) {
                    let validity = self.uid_validity();
                    self.say_ok(verb, format_args!("{number} {validity}.{}", listed.uid));
                }
            }
            Command::Retr(number) => return self.ask_body(verb, number, None),
            Command::Top { message, lines } => return self.ask_body(verb, message, Some(lines)),
            Command::Dele(number) => {
                if let Some((index, _)) = self.find(verb, number) {
                    if let Some(deleted) = self.deleted.get_mut(index) {
                        *deleted = true;
                    }
                    self.ok(verb, "Marked as deleted");
                }
            }
            Command::Rset => {
                self.deleted.fill(false);
                self.ok(verb, "Nothing is marked as deleted");
            }
            Command::Noop => self.ok(verb, "Ok"),
            _ => self.fault(verb, "Already logged in"),
        }
        None
    }

    /// Before login (RFC 1939 4).
    fn authorization(&mut self, verb: &'static str, command: Command) -> Option<Next> {
        match command {
            Command::User(_) | Command::Pass(_) | Command::Auth { .. } if !self.may_log_in() => {
                self.fault(verb, "Start TLS first");
            }
            Command::User(name) => {
                self.name = Some(name);
                self.ok(verb, "Password please");
            }
            Command::Pass(password) => match self.name.take() {
                Some(name) => return self.log_in(verb, Login { name, password }),
                None => self.fault(verb, "Give the user name first"),
            },
            Command::Auth { mechanism, initial } => match (mechanism.as_str(), initial) {
                ("PLAIN", Some(initial)) => return self.auth_response(&initial),
                ("PLAIN", None) => {
                    // RFC 5034 4: an empty challenge.
                    self.output.text().extend_from_slice(b"+ \r\n");
                    self.state = State::Auth;
                }
                _ => self.fault(verb, "Mechanism not supported"),
            },
            Command::Stls if self.tls => self.fault(verb, "TLS is already active"),
            Command::Stls => {
                self.ok(verb, "Begin TLS");
                self.state = State::Asked(Question::Tls);
                return Some(Next::StartTls);
            }
            Command::Utf8 => self.ok(verb, "UTF-8"),
            _ => self.fault(verb, "Log in first"),
        }
        None
    }

    fn may_log_in(&self) -> bool {
        self.tls || self.config.clear_text_login
    }

    pub(super) fn auth_response(&mut self, line: &str) -> Option<Next> {
        if line == "*" {
            self.fault("AUTH", "Authentication cancelled");
            return None;
        }
        match command::plain(line) {
            Some(login) => self.log_in("AUTH", login),
            None => {
                self.fault("AUTH", "Malformed response");
                None
            }
        }
    }

    fn log_in(&mut self, command: &'static str, login: Login) -> Option<Next> {
        self.state = State::Asked(Question::Login { command });
        Some(Next::LogIn(login))
    }

    /// RFC 2449 5. STLS is for AUTHORIZATION only (RFC 2595 4).
    fn capabilities(&mut self, verb: &'static str) {
        self.ok(verb, "Capabilities follow");
        let (log_in, stls) = (self.may_log_in(), !self.tls && self.maildrop.is_none());
        let text = self.output.text();
        text.extend_from_slice(b"TOP\r\nUIDL\r\n");
        if log_in {
            text.extend_from_slice(b"USER\r\nSASL PLAIN\r\n");
        }
        if stls {
            text.extend_from_slice(b"STLS\r\n");
        }
        text.extend_from_slice(
            b"PIPELINING\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nEXPIRE NEVER\r\nUTF8 USER\r\n.\r\n",
        );
    }

    fn quit(&mut self, verb: &'static str) -> Option<Next> {
        let marked: Vec<usize> = self
            .deleted
            .iter()
            .enumerate()
            .filter(|(_, deleted)| **deleted)
            .map(|(index, _)| index)
            .collect();
        if marked.is_empty() {
            self.ok(verb, "Bye");
            self.state = State::Closed;
            return None;
        }
        self.state = State::Asked(Question::Expunge);
        Some(Next::Expunge(marked))
    }

    fn ask_body(&mut self, command: &'static str, number: u32, lines: Option<u32>) -> Option<Next> {
        let (index, _) = self.find(command, number)?;
        self.state = State::Asked(Question::Body { command, lines });
        Some(Next::Body(index))
    }

    /// A message by its number, unless it is marked as deleted (RFC 1939 5). Says so if there is none.
    fn find(&mut self, command: &'static str, number: u32) -> Option<(usize, Listed)> {
        let index = (number as usize).checked_sub(1);
        let found = index.and_then(|index| self.at(index).map(|listed| (index, listed)));
        if found.is_none() {
            // Not a fault: clients try numbers until there are no more.
            self.error(command, "No such message");
        }
        found
    }
}
