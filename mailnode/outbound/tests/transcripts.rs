//! Dialogues with servers, played through the client: files in `transcripts/`, in pieces of any length.
//!
//! ```text
//! option: tls never|required, login, utf8
//! recipients: a@example.net b@example.net     of the next transaction, which begins when the session is ready
//! message: text with \r\n escapes
//! S: what the server sends        C: what it must have been sent       TLS: TLS begins
//! DONE: ok, 4.2.0, 5.1.1          the outcome of each recipient
//! CLOSED: none, 4.4.2, 5.4.6      the session is over, and why
//! EOF                             the server closes the connection
//! ```

use bytes::{Bytes, BytesMut};
use outbound::client::{Config, Login, Next, Session, Tls};
use outbound::{Outcome, Transaction};
use std::path::Path;

struct Played {
    session: Session,
    sent: BytesMut,
    waiting: Option<Transaction>,
    done: Vec<String>,
    closed: Option<String>,
    wants_tls: bool,
    ready: bool,
}

fn show(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Delivered(_) => "ok".into(),
        Outcome::Failed(problem) => {
            assert_eq!(problem.permanent, problem.status.class == 5, "{problem:?}");
            problem.status.to_string()
        }
    }
}

impl Played {
    fn run(&mut self) {
        loop {
            let next = self.session.proceed();
            self.sent.extend_from_slice(&self.session.output());
            match next {
                Next::Write => {}
                Next::Read(_) => return,
                Next::StartTls => {
                    self.wants_tls = true;
                    return;
                }
                Next::Ready => match self.waiting.take() {
                    Some(transaction) => self.session.begin(transaction),
                    None if self.ready => {
                        self.session.quit();
                        self.ready = false;
                    }
                    None => {
                        self.ready = true;
                        return;
                    }
                },
                Next::Done(outcomes) => {
                    self.done.push(outcomes.iter().map(show).collect::<Vec<_>>().join(", "));
                }
                Next::Closed(problem) => {
                    self.closed =
                        Some(problem.map_or("none".into(), |problem| show(&Outcome::Failed(problem))));
                    return;
                }
            }
        }
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\r", "\r").replace("\\n", "\n")
}

fn play(path: &Path, chunk: usize) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut config =
        Config { host_name: "mx.example.org".into(), not_ourselves: true, tls: Tls::IfOffered, login: None };
    let mut played: Option<Played> = None;
    let mut next = Transaction {
        sender: Some("a@example.org".into()),
        recipients: Vec::new(),
        message: Bytes::new(),
        utf8: false,
    };
    for (number, line) in text.lines().enumerate() {
        let at = format!("{}:{}, in pieces of {chunk}", path.display(), number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (kind, rest) = line.split_once(": ").unwrap_or((line.trim_end_matches(':'), ""));
        match (kind, rest) {
            ("option", "tls never") => config.tls = Tls::Never,
            ("option", "tls required") => config.tls = Tls::Required,
            ("option", "login") => {
                config.login = Some(Login { name: "me".into(), password: "secret".into() });
            }
            ("option", "utf8") => next.utf8 = true,
            ("sender", _) => next.sender = Some(rest.to_owned()).filter(|sender| !sender.is_empty()),
            ("message", _) => next.message = Bytes::from(unescape(rest)),
            ("recipients", _) => {
                next.recipients = rest.split(' ').map(String::from).collect();
                match &mut played {
                    Some(played) => {
                        played.waiting = Some(next.clone());
                        played.ready = false;
                        played.run();
                    }
                    None => {
                        played = Some(Played {
                            session: Session::new(config.clone()),
                            sent: BytesMut::new(),
                            waiting: Some(next.clone()),
                            done: Vec::new(),
                            closed: None,
                            wants_tls: false,
                            ready: false,
                        });
                    }
                }
            }
            _ => {
                let played = played.as_mut().unwrap_or_else(|| panic!("{at}: recipients first"));
                match kind {
                    "S" => {
                        let bytes = format!("{}\r\n", unescape(rest));
                        for piece in bytes.as_bytes().chunks(chunk) {
                            played.session.buffer().extend_from_slice(piece);
                            if played.closed.is_none() && !played.wants_tls {
                                played.run();
                            }
                        }
                    }
                    "C" => {
                        if played.ready {
                            played.run();
                        }
                        let wanted = format!("{rest}\r\n");
                        let shown = String::from_utf8_lossy(&played.sent).into_owned();
                        assert!(
                            played.sent.starts_with(wanted.as_bytes()),
                            "{at}: wanted {rest}, got {shown}"
                        );
                        let _ = played.sent.split_to(wanted.len());
                    }
                    "TLS" => {
                        assert!(std::mem::take(&mut played.wants_tls) && played.sent.is_empty(), "{at}");
                        played.session.tls_started();
                        played.run();
                    }
                    "DONE" => {
                        assert!(!played.done.is_empty(), "{at}: nothing is done");
                        assert_eq!(played.done.remove(0), rest, "{at}");
                    }
                    "EOF" => {
                        played.session.broken("the connection was closed");
                        played.run();
                    }
                    "CLOSED" => assert_eq!(played.closed.as_deref(), Some(rest), "{at}"),
                    other => panic!("{at}: {other}"),
                }
            }
        }
    }
    let played = played.unwrap();
    assert!(played.sent.is_empty(), "{}: left over: {:?}", path.display(), played.sent);
    assert!(played.done.is_empty(), "{}: left over: {:?}", path.display(), played.done);
}

#[test]
fn the_dialogues_are_as_written_in_any_pieces() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut count = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        for chunk in [usize::MAX, 1, 7] {
            play(&path, chunk);
        }
        count += 1;
    }
    assert!(count >= 8, "{count} dialogues");
}
