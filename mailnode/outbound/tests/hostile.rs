//! Servers that mean no good, or are broken: whatever comes in whatever pieces, the session ends or waits, says one
//! outcome a recipient, claims no delivery that the server did not promise, and keeps little.

use bytes::Bytes;
use outbound::client::{Config, Login, Next, Session, Tls};
use outbound::{Outcome, Transaction};

const RECIPIENTS: usize = 3;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

fn session(random: &mut Random) -> Session {
    Session::new(Config {
        host_name: "mx.example.org".into(),
        not_ourselves: true,
        tls: [Tls::Never, Tls::IfOffered, Tls::Required][random.below(3)],
        login: (random.below(4) == 0).then(|| Login { name: "me".into(), password: "secret".into() }),
    })
}

fn transaction() -> Transaction {
    Transaction {
        sender: Some("a@example.org".into()),
        recipients: (0..RECIPIENTS).map(|number| format!("r{number}@example.net")).collect(),
        message: Bytes::from_static(b"Subject: x\r\n\r\nhello\r\n"),
        utf8: false,
    }
}

/// Something that a server might say.
fn said(random: &mut Random) -> Vec<u8> {
    const PHRASES: [&[u8]; 20] = [
        b"220 mx1.example.net ready\r\n",
        b"250-mx1.example.net\r\n250-PIPELINING\r\n250-STARTTLS\r\n250-AUTH PLAIN LOGIN\r\n250 SIZE 1000\r\n",
        b"250 mx1.example.net\r\n",
        b"250 ok\r\n",
        b"250 ok\r\n",
        b"250 ok\r\n",
        b"251 2.1.5 ok\r\n",
        b"354 go\r\n",
        b"354 go\r\n",
        b"235 welcome\r\n",
        b"334 VXNlcm5hbWU6\r\n",
        b"421 4.3.2 bye\r\n",
        b"450 4.7.1 later\r\n",
        b"500 what\r\n",
        b"550 5.1.1 no\r\n",
        b"550-5.1.1 no\r\n550 5.1.1 such user\r\n",
        b"250-and so on\r\n",
        b"999 nonsense\r\n",
        b"\xff\xfe\r\n",
        b"\n",
    ];
    let mut bytes = PHRASES[random.below(PHRASES.len())].to_vec();
    if random.below(8) == 0 && !bytes.is_empty() {
        let at = random.below(bytes.len());
        bytes[at] = random.below(256) as u8;
    }
    bytes
}

/// What a good server would answer to what it was sent.
fn right_answers(sent: &[u8]) -> Vec<u8> {
    if sent.is_empty() {
        return b"220 mx1.example.net ready\r\n".to_vec();
    }
    let mut answers = Vec::new();
    for line in String::from_utf8_lossy(sent).lines() {
        answers.extend_from_slice(match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => &b"250-mx1.example.net\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n"[..],
            "STARTTLS" => b"220 go\r\n",
            "AUTH" => b"235 welcome\r\n",
            "DATA" => b"354 go\r\n",
            "MAIL" | "RCPT" | "RSET" | "." => b"250 ok\r\n",
            "QUIT" => b"221 bye\r\n",
            _ => b"",
        });
    }
    answers
}

#[test]
fn whatever_a_server_says_every_recipient_gets_one_outcome() {
    let mut random = Random(7);
    let (mut delivered, mut finished) = (0, 0);
    for _ in 0..20_000 {
        let mut session = session(&mut random);
        let (mut begun, mut outcomes, mut positive_after_dot) = (false, Vec::new(), false);
        let mut dot_sent = false;
        let mut steps = 0;
        let mut sent = Vec::new();
        loop {
            steps += 1;
            assert!(steps < 2_000, "no end");
            let next = session.proceed();
            let output = session.output();
            sent.extend_from_slice(&output);
            dot_sent |= output.ends_with(b"\r\n.\r\n");
            match next {
                Next::Write => {}
                Next::Read(within) => {
                    assert!(within.as_secs() > 0);
                    if steps > 60 || random.below(40) == 0 {
                        session.broken("closed");
                        continue;
                    }
                    let right = right_answers(&std::mem::take(&mut sent));
                    let said =
                        if random.below(8) > 0 && !right.is_empty() { right } else { said(&mut random) };
                    positive_after_dot |= dot_sent && said.contains(&b'2');
                    let end = 1 + random.below(said.len());
                    session.buffer().extend_from_slice(if random.below(3) == 0 {
                        &said[..end]
                    } else {
                        &said
                    });
                    assert!(session.buffer().len() < 10_000);
                }
                Next::StartTls => session.tls_started(),
                Next::Ready if begun => session.quit(),
                Next::Ready => {
                    begun = true;
                    session.begin(transaction());
                }
                Next::Done(done) => {
                    assert!(begun && outcomes.is_empty() && done.len() == RECIPIENTS);
                    outcomes = done;
                }
                Next::Closed(_) => break,
            }
        }
        assert_eq!(outcomes.is_empty(), !begun);
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Delivered(_))) {
            assert!(dot_sent && positive_after_dot, "nobody promised this");
            delivered += 1;
        }
        finished += usize::from(begun);
    }
    assert!(
        delivered > 20 && finished > 500,
        "{delivered} delivered, {finished} begun: the test is too tame"
    );
}

#[test]
fn a_250_that_comes_with_the_354_says_nothing_of_the_message() {
    let config =
        Config { host_name: "mx.example.org".into(), not_ourselves: true, tls: Tls::Never, login: None };
    let mut session = Session::new(config);
    let answers = [
        "220 a\r\n",
        "250 a\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "354 go\r\n250 taken\r\n",
    ];
    let mut answers = answers.iter();
    loop {
        match session.proceed() {
            Next::Read(_) => session.buffer().extend_from_slice(answers.next().unwrap().as_bytes()),
            Next::Ready => session.begin(transaction()),
            Next::Done(outcomes) => {
                return assert!(
                    outcomes.iter().all(|outcome| matches!(outcome, Outcome::Failed(_))),
                    "{outcomes:?}"
                );
            }
            Next::Write => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn endless_lines_and_endless_replies_end_the_session() {
    for flood in [&b"2"[..], b"250-more\r\n"] {
        let mut session = session(&mut Random(1));
        let mut fed = 0;
        loop {
            match session.proceed() {
                Next::Read(_) => {
                    assert!(fed < 100_000, "{}", flood.escape_ascii());
                    session.buffer().extend_from_slice(&flood.repeat(100));
                    fed += 100 * flood.len();
                    assert!(session.buffer().len() <= 4_096 + 1_100);
                }
                Next::Closed(problem) => {
                    assert!(!problem.unwrap().permanent);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_password_is_not_printed() {
    let config = Config {
        host_name: String::new(),
        not_ourselves: true,
        tls: Tls::Required,
        login: Some(Login { name: "me".into(), password: "secret".into() }),
    };
    assert!(!format!("{config:?} {:?}", Session::new(config.clone())).contains("secret"));
}
