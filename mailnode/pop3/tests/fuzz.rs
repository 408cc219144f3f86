//! Random and mutated bytes: no panic, bounded memory, bounded work, and the same replies in any chunks.

use bytes::Bytes;
use pop3::{Body, Config, Listed, LoginFailure, Maildrop, Next, Session};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

const SEEDS: [&str; 4] = [
    "CAPA\r\nUSER alice\r\nPASS secret\r\nSTAT\r\nLIST\r\nUIDL\r\nRETR 1\r\nTOP 2 1\r\nDELE 1\r\nQUIT\r\n",
    "AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nRETR 3\r\nRETR 2\r\nRETR 9\r\nLIST 3\r\nUIDL 1\r\nDELE 2\r\nRSET\r\nNOOP\r\n",
    "AUTH PLAIN\r\nAGFsaWNlAHNlY3JldA==\r\nTOP 3 0\r\nTOP 1 4294967296\r\nDELE 3\r\nSTAT\r\nLIST\r\nQUIT\r\n",
    "AUTH PLAIN\r\n*\r\nUTF8\r\nSTLS\r\nUSER bob\r\nPASS x\r\nFOO\r\n\r\n",
];

fn mutated(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=random.below(3) {
        bytes.extend_from_slice(SEEDS[random.below(SEEDS.len())].as_bytes());
    }
    for _ in 0..random.below(8) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes.insert(at, b"\r\n 0123456789*"[random.below(14)]),
            2 => drop(bytes.drain(at..(at + random.below(20)).min(bytes.len()))),
            3 => {
                let copy = bytes[at..(at + random.below(60)).min(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => bytes.splice(at..at, vec![b'x'; random.below(5_000)]).for_each(drop),
        }
        if bytes.is_empty() {
            bytes.push(b'\n');
        }
    }
    bytes
}

fn play(input: &[u8], mut chunk: impl FnMut() -> usize) -> (Vec<u8>, Vec<Vec<usize>>) {
    let config = Config { host_name: "mail.example.org".into(), tls: true, clear_text_login: false };
    let mut session = Session::new(config);
    let bodies: [&[u8]; 3] = [b"A: b\r\n\r\n.x\r\n", b"no end", b"\r\n.\r\n."];
    let (mut said, mut expunged, mut rest) = (Vec::new(), Vec::new(), input);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(chunk().clamp(1, rest.len()));
        rest = after;
        session.buffer().extend_from_slice(piece);
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 10 + 2 * input.len(), "no progress");
            match session.proceed() {
                Next::LogIn(login) if login.name == "alice" => {
                    let messages =
                        bodies.iter().map(|body| Listed { uid: 7, size: body.len() as u64 }).collect();
                    session.logged_in(Ok(Maildrop { uid_validity: 1, messages }));
                }
                Next::LogIn(_) => session.logged_in(Err(LoginFailure::Refused)),
                Next::Body(index) => session.body(Body::Here(Bytes::from_static(bodies[index]))),
                Next::Expunge(indexes) => {
                    assert!(
                        !indexes.is_empty() && indexes.is_sorted() && indexes.iter().all(|index| *index < 3)
                    );
                    expunged.push(indexes);
                    session.expunged(true);
                }
                Next::StartTls => panic!("TLS within TLS"),
                next => {
                    let output = session.output();
                    assert!(output.iter().map(Bytes::len).sum::<usize>() < 80 * 1024);
                    output.iter().for_each(|piece| said.extend_from_slice(piece));
                    session.outcomes().for_each(drop);
                    match next {
                        Next::Close => return (said, expunged),
                        Next::Read => break,
                        _ => {}
                    }
                }
            }
        }
        assert!(session.buffer().len() <= 4_096, "{} bytes are kept", session.buffer().len());
    }
    (said, expunged)
}

#[test]
fn whatever_comes_is_answered_the_same_in_any_chunks() {
    let mut random = Random(7);
    let mut removals = 0;
    for _ in 0..3_000 {
        let input = mutated(&mut random);
        let whole = play(&input, || usize::MAX);
        let pieces = play(&input, || 1 + random.below(40));
        assert_eq!(whole, pieces, "{:?}", String::from_utf8_lossy(&input));
        removals += whole.1.len();
    }
    assert!(removals > 100, "{removals}");
}
