//! Dialogues in `transcripts/*.txt`, played against the state machine with a small node behind it: once with all
//! that a client sends at a time in one piece, and once byte by byte. Both must give the same replies.
//!
//! Lines: `mode: smtp|submission|lmtp`; `option: tls|clear-text-login`; `C: ` a line from the client (CRLF is
//! added); `R: ` raw bytes from the client with escapes; `S: ` a line that the server must send next; `TLS` the
//! client begins TLS; `M: ` the content of the message delivered last, with escapes; `CLOSED` the server closes.

use smtp::{Config, Delivery, Limits, LoginOutcome, Mode, Next, SenderOutcome, Session, Verdict};
use std::path::Path;

struct Played {
    session: Session<String>,
    output: Vec<u8>,
    messages: Vec<Vec<u8>>,
    wants_tls: bool,
    closed: bool,
}

fn verdict(address: &str) -> Verdict<String> {
    match address.split_once('@').unwrap_or((address, "example.org")) {
        ("full", "example.org") => Verdict::OverQuota,
        ("off", "example.org") => Verdict::Disabled,
        ("later", "example.org") => Verdict::Temporary,
        ("alice" | "bob" | "broken" | "Postmaster" | "grün", "example.org") => {
            Verdict::Accepted(address.to_owned())
        }
        (_, "example.org") => Verdict::Unknown,
        _ => Verdict::Foreign,
    }
}

impl Played {
    fn new(config: Config) -> Self {
        let session = Session::new(config);
        Self { session, output: Vec::new(), messages: Vec::new(), wants_tls: false, closed: false }
    }

    fn run(&mut self) {
        loop {
            let next = self.session.proceed(0);
            self.output.extend_from_slice(&self.session.output());
            match next {
                Next::Read => return,
                Next::Write => {}
                Next::Verify(addresses) => {
                    self.session
                        .verified(addresses.iter().map(|address| verdict(address.as_str())).collect());
                }
                Next::Sender(sender) => self.session.sender_checked(match sender.as_str() {
                    "alice@example.org" | "list@example.org" => SenderOutcome::Accepted,
                    "later@example.org" => SenderOutcome::Temporary,
                    _ => SenderOutcome::Refused,
                }),
                Next::LogIn(login) => {
                    self.session.logged_in(match (login.name.as_str(), login.password.as_str()) {
                        ("alice", "secret") => LoginOutcome::Accepted,
                        ("later", _) => LoginOutcome::Temporary,
                        _ => LoginOutcome::Refused,
                    })
                }
                Next::Deliver(message) => {
                    let deliveries: Vec<_> = message
                        .recipients
                        .iter()
                        .map(|recipient| match recipient.target.as_str() {
                            "broken@example.org" => Delivery::Failed,
                            _ => Delivery::Stored,
                        })
                        .collect();
                    self.messages.push(message.body);
                    self.session.delivered(&deliveries);
                }
                Next::StartTls => {
                    self.wants_tls = true;
                    return;
                }
                Next::Close => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8], chunk: usize) {
        for piece in bytes.chunks(chunk) {
            self.session.buffer().extend_from_slice(piece);
            if !self.closed && !self.wants_tls {
                self.run();
            }
        }
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match (byte, if byte == b'\\' { bytes.next() } else { None }) {
            (b'\\', Some(b'r')) => out.push(b'\r'),
            (b'\\', Some(b'n')) => out.push(b'\n'),
            (b'\\', Some(b'0')) => out.push(0),
            (b'\\', Some(b'f')) => out.push(0xff),
            (b'\\', other) => out.extend(other),
            (plain, _) => out.push(plain),
        }
    }
    out
}

fn config() -> Config {
    Config {
        mode: Mode::Smtp,
        host_name: "mx.example.org".into(),
        peer: "192.0.2.1".parse().unwrap(),
        session: 7,
        tls: false,
        clear_text_login: false,
        limits: Limits { message_bytes: 1_000, recipients: 3 },
    }
}

fn play(path: &Path, chunk: usize) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut config = config();
    let mut played: Option<Played> = None;
    let mut waiting: Vec<u8> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = format!("{}:{}, in pieces of {chunk}", path.display(), number + 1);
        let (kind, rest) = line.split_once(": ").unwrap_or((line, ""));
        match kind {
            "mode" => {
                config.mode = match rest {
                    "smtp" => Mode::Smtp,
                    "submission" => Mode::Submission,
                    "lmtp" => Mode::Lmtp,
                    other => panic!("{at}: {other}"),
                }
            }
            "option" if rest == "tls" => config.tls = true,
            "option" if rest == "clear-text-login" => config.clear_text_login = true,
            "C" => waiting.extend_from_slice(format!("{rest}\r\n").as_bytes()),
            "C:" => waiting.extend_from_slice(b"\r\n"),
            "R" => waiting.extend_from_slice(&unescape(rest)),
            "S" | "M" | "TLS" | "CLOSED" => {
                let played = played.get_or_insert_with(|| Played::new(config.clone()));
                if !waiting.is_empty() || played.output.is_empty() {
                    played.send(&std::mem::take(&mut waiting), chunk);
                    if !played.closed && !played.wants_tls {
                        played.run();
                    }
                }
                match kind {
                    "S" => {
                        let expected = format!("{rest}\r\n");
                        let shown = String::from_utf8_lossy(&played.output).into_owned();
                        assert!(
                            played.output.starts_with(expected.as_bytes()),
                            "{at}: wanted {rest}, got {shown}"
                        );
                        played.output.drain(..expected.len());
                    }
                    "M" => {
                        let body = played.messages.last().unwrap_or_else(|| panic!("{at}: no message"));
                        let wanted = unescape(rest);
                        let shown = String::from_utf8_lossy(body);
                        assert!(
                            body.ends_with(&wanted) && body.starts_with(b"Return-Path: <"),
                            "{at}: {shown}"
                        );
                        let head = &body[..body.len() - wanted.len()];
                        assert!(head.ends_with(b"\tThu, 1 Jan 1970 00:00:00 +0000\r\n"), "{at}: {shown}");
                    }
                    "TLS" => {
                        assert!(played.wants_tls && played.output.is_empty(), "{at}");
                        played.wants_tls = false;
                        played.session.tls_started();
                    }
                    _ => assert!(
                        played.closed && played.output.is_empty(),
                        "{at}: {}",
                        String::from_utf8_lossy(&played.output)
                    ),
                }
            }
            "" => {}
            comment if comment.starts_with('#') => {}
            other => panic!("{at}: {other}"),
        }
    }
    let played = played.unwrap();
    let left = String::from_utf8_lossy(&played.output).into_owned();
    assert!(left.is_empty() && waiting.is_empty(), "{}: left over: {left}", path.display());
}

#[test]
fn the_dialogues_are_as_written_in_any_chunks() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut count = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        for chunk in [usize::MAX, 1, 7] {
            play(&path, chunk);
        }
        count += 1;
    }
    assert!(count >= 10, "{count} dialogues");
}

#[test]
fn what_came_in_clear_text_is_forgotten_when_tls_begins() {
    let mut played = Played::new(config());
    played.send(
        b"EHLO a.example\r\nMAIL FROM:<a@b.org>\r\nSTARTTLS\r\nEHLO b.example\r\nMAIL FROM:<evil@b.org>\r\n",
        1000,
    );
    assert!(played.wants_tls);
    played.output.clear();
    played.wants_tls = false;
    played.session.tls_started();
    played.run();
    assert!(played.output.is_empty(), "nothing of the clear text was answered");
    played.send(b"RCPT TO:<alice@example.org>\r\nMAIL FROM:<a@b.org>\r\n", 1000);
    let said = String::from_utf8_lossy(&played.output).into_owned();
    assert_eq!(said, "503 5.5.1 Give the sender first\r\n503 5.5.1 Say hello first\r\n");
}

#[test]
fn pipelined_recipients_are_verified_with_one_question_in_batches() {
    let mut session =
        Session::<String>::new(Config { limits: Limits { message_bytes: 1, recipients: 1_000 }, ..config() });
    session.buffer().extend_from_slice(b"EHLO a\r\nMAIL FROM:<>\r\n");
    for number in 0..250 {
        session.buffer().extend_from_slice(format!("RCPT TO:<u{number}@example.org>\r\n").as_bytes());
    }
    session.buffer().extend_from_slice(b"DATA\r\n");
    let mut questions = Vec::new();
    loop {
        match session.proceed(0) {
            Next::Verify(addresses) => {
                questions.push(addresses.len());
                session.verified(
                    addresses.into_iter().map(|address| Verdict::Accepted(address.to_string())).collect(),
                );
            }
            Next::Write => {}
            Next::Read => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(questions, [100, 100, 50]);
    assert!(session.output().ends_with(b"354 Go ahead, end with a dot on a line of its own\r\n"));
}

#[test]
fn a_message_counts_as_one_command_with_its_last_reply() {
    let mut played = Played::new(config());
    played.send(
        b"HELO a\r\nMAIL FROM:<>\r\nRCPT TO:<broken@example.org>\r\nDATA\r\nx\r\n.\r\nFOO\r\n",
        usize::MAX,
    );
    let outcomes: Vec<_> =
        played.session.outcomes().map(|(command, outcome)| (command, outcome.name())).collect();
    let expected =
        [("HELO", "ok"), ("MAIL", "ok"), ("RCPT", "ok"), ("DATA", "temporary"), ("unknown", "refused")];
    assert_eq!(outcomes, expected);
}
