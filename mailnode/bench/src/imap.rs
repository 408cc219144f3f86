//! As much of an IMAP client (RFC 9051, RFC 3501) as reading and counting mail takes.

use crate::error::BenchError;
use crate::stream::{Connection, Security};

/// Untagged lines of one answer.
const ANSWER: usize = 1_000_000;
/// More of a message than this is read, but not looked at.
const MESSAGE: u64 = 4 * 1024 * 1024;

pub(crate) struct Client {
    connection: Connection,
    literal: Vec<u8>,
}

impl Client {
    pub(crate) fn log_in(
        server: &str,
        security: &Security,
        user: &str,
        password: &str,
    ) -> Result<Self, BenchError> {
        let mut client = Self { connection: Connection::open(server, security)?, literal: Vec::new() };
        let greeting = client.connection.line()?;
        if !greeting.starts_with(b"* OK") {
            let greeting = greeting.to_vec();
            return Err(BenchError::answer(server, "not the greeting of IMAP", &greeting));
        }
        let quoted = password.replace('\\', "\\\\").replace('"', "\\\"");
        client.command(&format!("LOGIN \"{user}\" \"{quoted}\""), |_| (), |_| ())?;
        Ok(client)
    }

    /// Sends a command and reads its answer: `line` sees the untagged lines, `literal` the counted strings.
    fn command(
        &mut self,
        command: &str,
        mut line: impl FnMut(&[u8]),
        mut literal: impl FnMut(&[u8]),
    ) -> Result<(), BenchError> {
        self.connection.send(format!("a {command}\r\n").as_bytes())?;
        for _ in 0..ANSWER {
            let answer = self.connection.line()?;
            if let Some(tagged) = answer.strip_prefix(b"a ") {
                if tagged.starts_with(b"OK") {
                    return Ok(());
                }
                let tagged = tagged.to_vec();
                // Not the arguments: a password may be among them.
                let name = command.split(' ').next().unwrap_or_default();
                return Err(BenchError::answer(&self.connection.server, name, &tagged));
            }
            line(answer);
            if let Some(count) = literal_size(answer) {
                self.connection.bytes(count, MESSAGE, &mut self.literal)?;
                literal(&self.literal);
            }
        }
        Err(BenchError::answer(&self.connection.server, "an answer without end", b""))
    }

    /// Opens the inbox and says how many messages are in it.
    pub(crate) fn select(&mut self) -> Result<u32, BenchError> {
        let mut exists = None;
        self.command(
            "SELECT INBOX",
            |line| {
                let words = line.strip_prefix(b"* ").and_then(|rest| rest.strip_suffix(b" EXISTS"));
                exists = words.and_then(number).or(exists);
            },
            |_| (),
        )?;
        exists.ok_or_else(|| BenchError::answer(&self.connection.server, "SELECT without EXISTS", b""))
    }

    /// Reads a whole message by its sequence number, without marking it as seen.
    pub(crate) fn fetch<T>(&mut self, number: u32, look: impl Fn(&[u8]) -> T) -> Result<T, BenchError> {
        let mut found = None;
        self.command(
            &format!("FETCH {number} (UID FLAGS BODY.PEEK[])"),
            |_| (),
            |body| found = Some(look(body)),
        )?;
        found.ok_or_else(|| BenchError::answer(&self.connection.server, "FETCH gave no body", b""))
    }

    /// Messages in the inbox, without opening it.
    pub(crate) fn status(&mut self) -> Result<u64, BenchError> {
        let mut messages = None;
        self.command(
            "STATUS INBOX (MESSAGES)",
            |line| messages = status_messages(line).or(messages),
            |_| (),
        )?;
        messages
            .map(u64::from)
            .ok_or_else(|| BenchError::answer(&self.connection.server, "STATUS without MESSAGES", b""))
    }

    pub(crate) fn log_out(mut self) -> Result<(), BenchError> {
        self.command("LOGOUT", |_| (), |_| ())
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `{123}` at the end of a line (RFC 9051 4.3).
fn literal_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"}")?;
    let open = line.iter().rposition(|&byte| byte == b'{')?;
    number(line.get(open + 1..)?).map(u64::from)
}

fn status_messages(line: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(line.strip_prefix(b"* STATUS ")?).ok()?;
    let (_, rest) = text.rsplit_once("(MESSAGES ")?;
    rest.strip_suffix(')')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    /// Answers the greeting and then each command in turn.
    fn server(answers: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut commands = BufReader::new(stream.try_clone().unwrap()).lines();
            for answer in answers {
                stream.write_all(answer.as_bytes()).unwrap();
                if commands.next().is_none() {
                    return;
                }
            }
        });
        address
    }

    #[test]
    fn a_session_counts_and_reads_messages() {
        let address = server(&[
            "* OK hello\r\n",
            "* CAPABILITY IMAP4rev1\r\na OK in\r\n",
            "* STATUS INBOX (MESSAGES 41)\r\na OK done\r\n",
            "* FLAGS ()\r\n* 42 EXISTS\r\n* OK [UIDVALIDITY 1] fine\r\na OK open\r\n",
            "* 42 FETCH (UID 7 FLAGS () BODY[] {9}\r\na OK no\r\n)\r\na OK done\r\n",
            "* BYE\r\na OK bye\r\n",
        ]);
        let mut client = Client::log_in(&address, &Security::Plain, "a@b", "secret").unwrap();
        assert_eq!(client.status().unwrap(), 41);
        assert_eq!(client.select().unwrap(), 42);
        assert_eq!(client.fetch(42, <[u8]>::to_vec).unwrap(), b"a OK no\r\n");
        client.log_out().unwrap();
    }

    #[test]
    fn a_refused_log_in_does_not_show_the_password() {
        let address = server(&["* OK hello\r\n", "a NO [AUTHENTICATIONFAILED] wrong\r\n"]);
        let error = Client::log_in(&address, &Security::Plain, "a@b", "secret").err().unwrap().to_string();
        assert!(error.contains("LOGIN: NO [AUTHENTICATIONFAILED]") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn only_a_count_in_braces_at_the_end_is_a_literal() {
        assert_eq!(literal_size(b"* 1 FETCH (BODY[] {123}"), Some(123));
        assert_eq!(literal_size(b"* 1 FETCH (BODY[] {})"), None);
        assert_eq!(literal_size(b"* OK 123}"), None);
        assert_eq!(literal_size(b"{99999999999999999999}"), None);
        assert_eq!(status_messages(b"* STATUS \"INBOX\" (MESSAGES 3)"), Some(3));
        assert_eq!(status_messages(b"* LIST () \"/\" INBOX"), None);
    }
}
