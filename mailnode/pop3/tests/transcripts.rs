//! Dialogues in `transcripts/*.txt`, played against the state machine with a small maildrop behind it: once with
//! all that a client sends at a time in one piece, and once byte by byte. Both must give the same replies.
//!
//! Lines: `option: tls|clear-text-login`; `message: ` a message of the maildrop, with escapes, or `!gone` or
//! `!later` for one that cannot be read; `C: ` a line from the client; `R: ` raw bytes from the client with escapes;
//! `S: ` a line that the server must send next; `TLS` the client begins TLS; `EXPUNGED: ` the indexes that were
//! removed; `CLOSED` the server closes.

use bytes::Bytes;
use pop3::{Body, Config, Listed, LoginFailure, Maildrop, Next, Session};
use std::path::Path;

struct Played {
    session: Session,
    messages: Vec<Vec<u8>>,
    output: Vec<u8>,
    expunged: Option<Vec<usize>>,
    wants_tls: bool,
    closed: bool,
}

impl Played {
    fn new(config: Config, messages: Vec<Vec<u8>>) -> Self {
        let session = Session::new(config);
        Self { session, messages, output: Vec::new(), expunged: None, wants_tls: false, closed: false }
    }

    fn maildrop(&self) -> Maildrop {
        let listed = |(uid, message): (u32, &Vec<u8>)| Listed { uid, size: message.len() as u64 };
        Maildrop { uid_validity: 5, messages: (11..).zip(&self.messages).map(listed).collect() }
    }

    fn run(&mut self) {
        loop {
            let next = self.session.proceed();
            for piece in self.session.output() {
                self.output.extend_from_slice(&piece);
            }
            match next {
                Next::Read => return,
                Next::Write => {}
                Next::LogIn(login) => match (login.name.as_str(), login.password.as_str()) {
                    ("alice", "secret" | " two words ") => {
                        let maildrop = self.maildrop();
                        self.session.logged_in(Ok(maildrop));
                    }
                    ("later", _) => self.session.logged_in(Err(LoginFailure::Temporary)),
                    _ => self.session.logged_in(Err(LoginFailure::Refused)),
                },
                Next::Body(index) => self.session.body(match self.messages[index].as_slice() {
                    b"!gone" => Body::Gone,
                    b"!later" => Body::Temporary,
                    message => Body::Here(Bytes::copy_from_slice(message)),
                }),
                Next::Expunge(indexes) => {
                    let good = indexes != [0];
                    self.expunged = Some(indexes);
                    self.session.expunged(good);
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
    text.replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0").into_bytes()
}

fn play(path: &Path, chunk: usize) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut config = Config { host_name: "mail.example.org".into(), tls: false, clear_text_login: false };
    let mut messages = Vec::new();
    let mut played: Option<Played> = None;
    let mut waiting: Vec<u8> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = format!("{}:{}, in pieces of {chunk}", path.display(), number + 1);
        let (kind, rest) = line.split_once(": ").unwrap_or((line, ""));
        match kind {
            "option" if rest == "tls" => config.tls = true,
            "option" if rest == "clear-text-login" => config.clear_text_login = true,
            "message" => messages.push(unescape(rest)),
            "C" => waiting.extend_from_slice(format!("{rest}\r\n").as_bytes()),
            "R" => waiting.extend_from_slice(&unescape(rest)),
            "S" | "TLS" | "EXPUNGED" | "CLOSED" => {
                let played = played.get_or_insert_with(|| Played::new(config.clone(), messages.clone()));
                if !waiting.is_empty() || played.output.is_empty() {
                    played.send(&std::mem::take(&mut waiting), chunk);
                    if !played.closed && !played.wants_tls {
                        played.run();
                    }
                }
                let shown = String::from_utf8_lossy(&played.output).into_owned();
                match kind {
                    "S" => {
                        let expected = [unescape(rest).as_slice(), b"\r\n"].concat();
                        assert!(played.output.starts_with(&expected), "{at}: wanted {rest}, got {shown}");
                        played.output.drain(..expected.len());
                    }
                    "TLS" => {
                        assert!(played.wants_tls && played.output.is_empty(), "{at}: {shown}");
                        played.wants_tls = false;
                        played.session.tls_started();
                    }
                    "EXPUNGED" => {
                        let indexes: Vec<usize> =
                            rest.split_whitespace().map(|word| word.parse().unwrap()).collect();
                        assert_eq!(played.expunged, Some(indexes), "{at}");
                    }
                    _ => assert!(played.closed && played.output.is_empty(), "{at}: {shown}"),
                }
            }
            "" => {}
            comment if comment.starts_with('#') => {}
            other => panic!("{at}: {other}"),
        }
    }
    let left = String::from_utf8_lossy(&played.unwrap().output).into_owned();
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
    assert!(count >= 6, "{count} dialogues");
}

fn logged_in(messages: Vec<Vec<u8>>) -> Played {
    let config = Config { host_name: "mail.example.org".into(), tls: true, clear_text_login: false };
    let mut played = Played::new(config, messages);
    played.send(b"USER alice\r\nPASS secret\r\n", usize::MAX);
    played.output.clear();
    played
}

#[test]
fn what_came_in_clear_text_is_forgotten_when_tls_begins() {
    let config = Config { host_name: "mail.example.org".into(), tls: false, clear_text_login: false };
    let mut played = Played::new(config, Vec::new());
    played.send(b"STLS\r\nUSER alice\r\nPASS secret\r\n", usize::MAX);
    assert!(played.wants_tls);
    played.output.clear();
    played.session.tls_started();
    played.wants_tls = false;
    played.run();
    assert!(played.output.is_empty());
    played.send(b"STAT\r\n", usize::MAX);
    assert_eq!(played.output, b"-ERR Log in first\r\n");
}

#[test]
fn a_long_list_is_made_as_the_client_takes_it() {
    let mut played = logged_in(vec![Vec::new(); 100_000]);
    played.session.buffer().extend_from_slice(b"UIDL\r\n");
    let (mut writes, mut total) = (0, 0);
    loop {
        let next = played.session.proceed();
        let waiting: usize = played.session.output().iter().map(Bytes::len).sum();
        assert!(waiting < 80 * 1024, "{waiting} bytes wait");
        total += waiting;
        match next {
            Next::Write => writes += 1,
            Next::Read => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(writes > 10 && total > 1_000_000);
}

#[test]
fn a_message_full_of_dots_does_not_pile_up() {
    let mut played = logged_in(vec![b"\r\n.".repeat(200_000)]);
    played.session.buffer().extend_from_slice(b"RETR 1\r\n");
    let (mut pieces, mut total) = (0, 0);
    loop {
        let next = played.session.proceed();
        match next {
            Next::Body(index) => {
                let body = Bytes::from(played.messages[index].clone());
                played.session.body(Body::Here(body));
                continue;
            }
            Next::Write | Next::Read => {}
            other => panic!("{other:?}"),
        }
        let output = played.session.output();
        pieces += output.len();
        total += output.iter().map(Bytes::len).sum::<usize>();
        if matches!(next, Next::Read) {
            break;
        }
    }
    assert!(pieces < 30 && total > 800_000, "{pieces} pieces, {total} bytes");
}
