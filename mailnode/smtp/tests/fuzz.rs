//! Random and mutated bytes: no panic, bounded memory, bounded work, and the same replies in any chunks.

use smtp::{Config, Delivery, FLUSH_AT, Limits, LoginOutcome, Mode, Next, SenderOutcome, Session, Verdict};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

const SEEDS: [&str; 6] = [
    "EHLO a.example\r\nMAIL FROM:<a@b.org> SIZE=10 BODY=8BITMIME\r\nRCPT TO:<c@d.org>\r\nRCPT TO:<e@d.org>\r\nDATA\r\n\
     Subject: x\r\n\r\n..\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<\"q q\"@d.org>\r\nDATA\r\n.\r\nQUIT\r\n",
    "LHLO a.example\r\nMAIL FROM:<a@b.org>\r\nRCPT TO:<c@d.org>\r\nRCPT TO:<e@d.org>\r\nBDAT 5\r\nabcdeBDAT 3 LAST\r\n\
     x\r\nRSET\r\nNOOP\r\nVRFY x\r\nHELP\r\n",
    "HELO a\r\nMAIL FROM:<@x,@y:a@b.org>\r\nRCPT TO:<Postmaster>\r\nDATA\r\nx\n.\ny\r\n.\nz\r\n.\r\nBDAT 99999999999 LAST\r\n",
    "EHLO [127.0.0.1]\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nMAIL FROM:<\u{e4}@b.org> SMTPUTF8\r\nRCPT TO:<\u{e4}@d.org>\r\nDATA\r\n.\r\n",
    "EHLO a\r\nAUTH LOGIN\r\nYWxpY2U=\r\nc2VjcmV0\r\nAUTH PLAIN =\r\nAUTH PLAIN\r\n*\r\nSTARTTLS\r\nMAIL FROM:<a@b.org> AUTH=<>\r\n",
    "EHLO a\r\nMAIL FROM:<a@b.org>\r\nRCPT TO:<c@d.org>\r\nDATA\r\nReceived: x\r\nReceived: y\r\n\r\n\r\n.\r\n.\r\n\r\n",
];

fn mutated(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=random.below(3) {
        bytes.extend_from_slice(SEEDS[random.below(SEEDS.len())].as_bytes());
    }
    for _ in 0..random.below(8) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes.insert(at, b"\r\n.<>@ \0\"\\:=*"[random.below(13)]),
            2 => drop(bytes.drain(at..(at + random.below(20)).min(bytes.len()))),
            3 => {
                let copy = bytes[at..(at + random.below(60)).min(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => bytes.truncate(at.max(1)),
            _ => bytes.splice(at..at, vec![b'x'; random.below(6_000)]).for_each(drop),
        }
        if bytes.is_empty() {
            bytes.push(b'\n');
        }
    }
    bytes
}

fn noise(random: &mut Random) -> Vec<u8> {
    (0..random.below(3_000))
        .map(|_| if random.below(9) == 0 { b'\n' } else { random.below(256) as u8 })
        .collect()
}

/// The whole of what the server says, and how often it was given bytes of a message.
fn play(mode: Mode, input: &[u8], mut chunk: impl FnMut() -> usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut session = Session::<u8>::new(Config {
        mode,
        host_name: "mx.example.org".into(),
        peer: "::1".parse().unwrap(),
        session: 1,
        tls: true,
        clear_text_login: false,
        limits: Limits { message_bytes: 500, recipients: 5 },
    });
    let (mut said, mut bodies, mut rest) = (Vec::new(), Vec::new(), input);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(chunk().clamp(1, rest.len()));
        rest = after;
        session.buffer().extend_from_slice(piece);
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 10 + 2 * input.len(), "no progress");
            match session.proceed(0) {
                Next::Verify(addresses) => {
                    assert!(!addresses.is_empty() && addresses.len() <= 100);
                    let verdict = |address: &smtp::Address| match address.local_part().len() % 3 {
                        0 => Verdict::Unknown,
                        _ => Verdict::Accepted(0),
                    };
                    session.verified(addresses.iter().map(verdict).collect());
                }
                Next::Sender(_) => session.sender_checked(SenderOutcome::Accepted),
                Next::LogIn(login) => session.logged_in(match login.name.as_str() {
                    "alice" => LoginOutcome::Accepted,
                    _ => LoginOutcome::Refused,
                }),
                Next::Deliver(message) => {
                    assert!(!message.recipients.is_empty() && message.recipients.len() <= 5);
                    assert!(message.body.len() < 500 + 1_700);
                    assert!(message.body[..message.return_path].starts_with(b"Return-Path: <"));
                    let deliveries = vec![Delivery::Stored; message.recipients.len()];
                    bodies.push(message.body);
                    session.delivered(&deliveries);
                }
                Next::StartTls => panic!("TLS within TLS"),
                next => {
                    let output = session.output();
                    assert!(output.len() < FLUSH_AT + 16 * 1024, "{} bytes wait", output.len());
                    said.extend_from_slice(&output);
                    session.outcomes().for_each(drop);
                    match next {
                        Next::Close => return (said, bodies),
                        Next::Read => break,
                        _ => {}
                    }
                }
            }
        }
        assert!(session.buffer().len() <= 12_288 + 2, "{} bytes are kept", session.buffer().len());
    }
    (said, bodies)
}

#[test]
fn whatever_comes_is_answered_the_same_in_any_chunks() {
    let mut random = Random(7);
    for round in 0..3_000 {
        let input = if round % 5 == 0 { noise(&mut random) } else { mutated(&mut random) };
        let mode = [Mode::Smtp, Mode::Submission, Mode::Lmtp][round % 3];
        let whole = play(mode, &input, || usize::MAX);
        let pieces = play(mode, &input, || 1 + random.below(40));
        assert_eq!(whole, pieces, "{:?}", String::from_utf8_lossy(&input));
        let text = String::from_utf8(whole.0).expect("replies are text");
        for line in text.split_terminator("\r\n") {
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
            assert!(code.is_some_and(|code| (200..600).contains(&code)) && line.len() < 512, "{line:?}");
        }
    }
}

#[test]
fn trace_lines_are_never_more_than_two_fields() {
    let mut random = Random(99);
    let mut seen = 0;
    for _ in 0..1_500 {
        let input = mutated(&mut random);
        for body in play(Mode::Smtp, &input, || usize::MAX).1 {
            let text = String::from_utf8_lossy(&body);
            let mut lines = text.split("\r\n");
            assert!(lines.next().unwrap().starts_with("Return-Path: <"), "{text}");
            assert!(lines.next().unwrap().starts_with("Received: from "), "{text}");
            let folded = lines.take_while(|line| line.starts_with('\t')).count();
            assert!(folded >= 2, "{text}");
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn a_message_without_end_is_given_up() {
    let start = b"HELO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.org>\r\nDATA\r\n";
    let input = [&start[..], &b"x".repeat(3 * 1024 * 1024)].concat();
    let (said, _) = play(Mode::Smtp, &input, || 10_000);
    assert!(
        String::from_utf8(said)
            .unwrap()
            .ends_with("552 5.3.4 Message is too big\r\n421 4.7.0 Message much too big\r\n")
    );
}
