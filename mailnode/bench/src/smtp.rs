//! The sending side of SMTP (RFC 5321) and LMTP (RFC 2033): one transaction at a time, its commands pipelined if
//! the server offers it (RFC 2920).

use crate::error::{BenchError, printable};
use crate::options::Protocol;
use crate::stream::{Connection, Security};

/// Lines of one reply.
const REPLY: usize = 100;

pub(crate) struct Client {
    connection: Connection,
    protocol: Protocol,
    pipelining: bool,
    /// Kept for its memory.
    out: Vec<u8>,
}

/// What became of a transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Recipients whose copy the server took responsibility for.
    pub acknowledged: usize,
    /// The first refusal, as the server put it.
    pub refusal: Option<String>,
}

impl Outcome {
    fn refused(&mut self, reply: &Reply) {
        self.refusal.get_or_insert_with(|| reply.text.clone());
    }
}

struct Reply {
    code: u16,
    /// The last line; empty if the reply was positive, to save the work.
    text: String,
}

impl Reply {
    const fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }
}

impl Client {
    pub(crate) fn connect(protocol: Protocol, server: &str) -> Result<Self, BenchError> {
        let connection = Connection::open(server, &Security::Plain)?;
        let mut client = Self { connection, protocol, pipelining: false, out: Vec::new() };
        let greeting = client.reply(|_| ())?;
        client.expect_positive(&greeting)?;
        client.connection.send(match protocol {
            Protocol::Lmtp => b"LHLO bench.invalid\r\n",
            Protocol::Smtp => b"EHLO bench.invalid\r\n",
        })?;
        let mut pipelining = false;
        let hello = client.reply(|line| pipelining |= line.eq_ignore_ascii_case(b"PIPELINING"))?;
        client.expect_positive(&hello)?;
        client.pipelining = pipelining;
        Ok(client)
    }

    fn expect_positive(&self, reply: &Reply) -> Result<(), BenchError> {
        if reply.is_positive() {
            return Ok(());
        }
        Err(BenchError::answer(&self.connection.server, "refused", reply.text.as_bytes()))
    }

    /// Reads one reply; `each` sees what stands behind the code in every line.
    fn reply(&mut self, mut each: impl FnMut(&[u8])) -> Result<Reply, BenchError> {
        for _ in 0..REPLY {
            let line = self.connection.line()?;
            let Some((code, rest)) = code(line) else {
                let line = line.to_vec();
                return Err(BenchError::answer(&self.connection.server, "not a reply", &line));
            };
            each(rest.get(1..).unwrap_or_default());
            if rest.first() != Some(&b'-') {
                let text = if code / 100 == 2 { String::new() } else { printable(line) };
                return Ok(Reply { code, text });
            }
        }
        Err(BenchError::answer(&self.connection.server, "a reply has too many lines", b""))
    }

    /// Sends one message. `write` appends it to the buffer, each line ended by CRLF, none beginning with a dot.
    ///
    /// # Errors
    /// If the connection broke: it cannot be used again, and the message may or may not have arrived.
    pub(crate) fn deliver<'a>(
        &mut self,
        recipients: impl Iterator<Item = &'a str>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Outcome, BenchError> {
        let mut out = std::mem::take(&mut self.out);
        let outcome = self.transaction(&mut out, recipients, write);
        self.out = out;
        outcome
    }

    fn transaction<'a>(
        &mut self,
        out: &mut Vec<u8>,
        recipients: impl Iterator<Item = &'a str>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Outcome, BenchError> {
        let mut outcome = Outcome::default();
        out.clear();
        out.extend_from_slice(b"MAIL FROM:<sender@bench.invalid>\r\n");
        for recipient in recipients {
            out.extend_from_slice(b"RCPT TO:<");
            out.extend_from_slice(recipient.as_bytes());
            out.extend_from_slice(b">\r\n");
        }
        out.extend_from_slice(b"DATA\r\n");
        if self.pipelining {
            self.connection.send(out)?;
        }
        let mut accepted = 0_usize;
        let mut go_ahead = false;
        for command in out.split_inclusive(|&byte| byte == b'\n') {
            if !self.pipelining {
                self.connection.send(command)?;
            }
            let reply = self.reply(|_| ())?;
            go_ahead = reply.code == 354;
            if !reply.is_positive() && !go_ahead {
                outcome.refused(&reply);
            } else if command.starts_with(b"RCPT") {
                accepted += 1;
            }
        }
        out.clear();
        if !go_ahead {
            self.connection.send(b"RSET\r\n")?;
            let reply = self.reply(|_| ())?;
            return self.expect_positive(&reply).map(|()| outcome);
        }
        // Without a recipient the server should not have said 354; if it did, it gets nothing (RFC 2920 3.1).
        if accepted > 0 {
            write(out);
        }
        out.extend_from_slice(b".\r\n");
        self.connection.send(out)?;
        // LMTP answers for each accepted recipient (RFC 2033 4.2).
        let (replies, each) = match self.protocol {
            Protocol::Lmtp => (accepted, 1),
            Protocol::Smtp => (1, accepted),
        };
        for _ in 0..replies {
            let reply = self.reply(|_| ())?;
            if reply.is_positive() {
                outcome.acknowledged += each;
            } else {
                outcome.refused(&reply);
            }
        }
        Ok(outcome)
    }

    /// Says goodbye; whether the server hears it does not matter any more.
    pub(crate) fn quit(mut self) {
        if self.connection.send(b"QUIT\r\n").is_ok() {
            let _ = self.reply(|_| ());
        }
    }
}

/// Three digits and the rest (RFC 5321 4.2).
fn code(line: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = std::str::from_utf8(digits).ok()?.parse().ok()?;
    ((200..600).contains(&code) && matches!(rest.first(), None | Some(b' ' | b'-'))).then_some((code, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// A server that answers each line it gets as the script says; returns all it heard. An empty answer is
    /// silence. The end of a message is answered once, all other lines of it are silence.
    fn server(
        greeting: &'static str,
        script: Vec<(&'static str, &'static str)>,
    ) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(greeting.as_bytes()).unwrap();
            let mut heard = String::new();
            let mut script = script.into_iter();
            let mut expected = script.next();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let line = line.unwrap();
                heard += &format!("{line}\n");
                if let Some((_, answer)) = expected.filter(|(begin, _)| line.starts_with(begin)) {
                    stream.write_all(answer.as_bytes()).unwrap();
                    expected = script.next();
                }
            }
            heard
        });
        (address, thread)
    }

    const LHLO: (&str, &str) = ("LHLO", "250-x\r\n250-PIPELINING\r\n250 8BITMIME\r\n");

    #[test]
    fn lmtp_counts_the_replies_of_each_accepted_recipient() {
        let (address, thread) = server(
            "220 x\r\n",
            vec![
                LHLO,
                ("MAIL", "250 ok\r\n"),
                ("RCPT", "250 ok\r\n"),
                ("RCPT", "550 5.1.1 who?\r\n"),
                ("RCPT", "250 ok\r\n"),
                ("DATA", "354 go\r\n"),
                (".", "250 ok\r\n452 4.2.2 full\r\n"),
                ("QUIT", "221 bye\r\n"),
            ],
        );
        let mut client = Client::connect(Protocol::Lmtp, &address).unwrap();
        assert!(client.pipelining);
        let outcome =
            client.deliver(["a@b", "c@d", "e@f"].into_iter(), |out| out.extend_from_slice(b"Hi\r\n"));
        let refusal = Some("550 5.1.1 who?".to_owned());
        assert_eq!(outcome.unwrap(), Outcome { acknowledged: 1, refusal });
        client.quit();
        let heard = thread.join().unwrap();
        assert!(heard.contains("RCPT TO:<c@d>\nRCPT TO:<e@f>\nDATA\nHi\n.\nQUIT\n"), "{heard}");
    }

    #[test]
    fn smtp_without_pipelining_waits_for_each_reply_and_resets_after_a_refusal() {
        let (address, thread) = server(
            "220-x\r\n220 x\r\n",
            vec![
                ("EHLO", "250 x\r\n"),
                ("MAIL", "250 ok\r\n"),
                ("RCPT", "451 4.3.0 later\r\n"),
                ("DATA", "503 5.5.1 no recipients\r\n"),
                ("RSET", "250 ok\r\n"),
                ("MAIL", "250 ok\r\n"),
                ("RCPT", "250 ok\r\n"),
                ("DATA", "354 go\r\n"),
                (".", "250 ok\r\n"),
            ],
        );
        let mut client = Client::connect(Protocol::Smtp, &address).unwrap();
        assert!(!client.pipelining);
        let first = client.deliver(["a@b"].into_iter(), |out| out.extend_from_slice(b"Hi\r\n")).unwrap();
        assert_eq!(first, Outcome { acknowledged: 0, refusal: Some("451 4.3.0 later".to_owned()) });
        let second = client.deliver(["a@b"].into_iter(), |out| out.extend_from_slice(b"Hi\r\n")).unwrap();
        assert_eq!(second, Outcome { acknowledged: 1, refusal: None });
        drop(client);
        assert_eq!(thread.join().unwrap().matches("Hi\n").count(), 1);
    }

    #[test]
    fn a_connection_that_breaks_before_the_last_reply_acknowledges_nothing() {
        let (address, thread) = server("220 x\r\n", vec![LHLO, ("MAIL", "250 ok\r\nnonsense\r\n")]);
        let mut client = Client::connect(Protocol::Lmtp, &address).unwrap();
        let outcome = client.deliver(["a@b"].into_iter(), |out| out.extend_from_slice(b"Hi\r\n"));
        assert!(matches!(outcome, Err(BenchError::Answer { .. })));
        drop(client);
        thread.join().unwrap();
    }

    #[test]
    fn what_is_not_a_reply_is_told_apart() {
        assert_eq!(code(b"250-PIPELINING"), Some((250, b"-PIPELINING".as_slice())));
        assert_eq!(code(b"354"), Some((354, b"".as_slice())));
        for line in [b"25".as_slice(), b"999 x", b"+50 x", b"2500 x", b"* OK"] {
            assert_eq!(code(line), None);
        }
    }
}
