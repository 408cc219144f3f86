//! Random and mutated input: nothing a client sends makes a session panic, hang, or keep more than its limits allow.
//!
//! The seeds are fixed, so a failure can be repeated. The mutated input is made of what the clients in the transcripts send.

mod common;

use common::Client;
use common::store::Store;
use imap::{Config, Next};

/// xorshift64*: enough randomness for this.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// What the clients in the transcripts send, a line each.
fn client_lines() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut lines = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path).unwrap();
        let sent = text.lines().filter_map(|line| {
            let (prefix, rest) = line.split_once(':')?;
            (prefix.starts_with('C') && prefix.len() <= 2)
                .then(|| rest.trim_start().replace("\\r\\n", "\r\n"))
        });
        lines.extend(sent.filter(|line| !line.contains("LOGOUT")));
    }
    assert!(lines.len() > 200);
    lines
}

fn mutate(line: &str, random: &mut Random) -> Vec<u8> {
    const INTERESTING: &[&[u8]] = &[
        b"(",
        b")",
        b"[",
        b"]",
        b"\"",
        b"\\",
        b"{",
        b"}",
        b"{3+}\r\n",
        b"{99999+}\r\n",
        b"~{2+}\r\n",
        b"\r\n",
        b"\n",
        b"\0",
        b"*",
        b"%",
        b"$",
        b":",
        b",",
        b"4294967295",
        b"4294967296",
        b"18446744073709551615",
        b"0",
        b"<",
        b">",
        b" ",
        b"\xff",
        b"&",
        b"+",
        b"((((((((((",
        b"BODY[1.1.1.1.1]",
        b"NOT NOT NOT",
        b"1:*",
    ];
    let mut bytes = line.as_bytes().to_vec();
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(4) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 if at < bytes.len() => {
                bytes.remove(at);
            }
            _ => {
                let piece = INTERESTING[random.below(INTERESTING.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

async fn fresh(store: &std::sync::Arc<Store>, random: &mut Random) -> Client {
    let config = Config { max_message: 100_000, ..Config::default() };
    let mut client = if random.below(4) == 0 {
        Client::new(store, config, true)
    } else {
        Client::logged_in_with(store, config).await
    };
    if random.below(2) == 0 {
        client.send("s SELECT INBOX\r\n").await;
    }
    client
}

#[tokio::test]
async fn mutated_commands_do_no_harm() {
    let lines = client_lines();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut answered, mut closed) = (0, 0);
    for _ in 0..150 {
        let store = Store::new();
        for number in 0..3 {
            store.deliver("INBOX", format!("Subject: {number}\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"));
        }
        let mut client = fresh(&store, &mut random).await;
        for _ in 0..60 {
            let mut bytes = mutate(&lines[random.below(lines.len())], &mut random);
            if random.below(10) == 0 {
                bytes.extend_from_slice(b"DONE\r\n");
            }
            let answer = client.send(&bytes).await;
            answered += usize::from(!answer.is_empty());
            assert!(answer.len() < 200_000, "{} bytes for {bytes:?}", answer.len());
            let kept = client.session.wait().0.len();
            assert!(kept <= 100_000 + 65_536, "{kept} bytes are kept");
            if client.next == Next::Close {
                closed += 1;
                client = fresh(&store, &mut random).await;
            }
        }
        // The store was not harmed: another session works.
        let mut other = Client::logged_in(&store).await;
        assert!(other.send("z SELECT INBOX\r\n").await.contains("z OK"), "INBOX is gone");
        assert!(other.send("y FETCH 1:* (FLAGS BODYSTRUCTURE ENVELOPE BODY[])\r\n").await.contains("y OK"));
    }
    assert!(answered > 2000 && closed > 10, "{answered} answers, {closed} closed: the input is too tame");
}

#[tokio::test]
async fn random_bytes_do_no_harm() {
    let mut random = Random(42);
    let store = Store::new();
    for _ in 0..300 {
        let mut client = fresh(&store, &mut random).await;
        for _ in 0..5 {
            let length = random.below(2000);
            let mut bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            // Some line ends, or nothing would ever be a command.
            for _ in 0..random.below(30) {
                let at = random.below(bytes.len() + 1);
                bytes.splice(at..at, *b"\r\n");
            }
            client.send(&bytes).await;
            assert!(client.session.wait().0.len() <= 65_536 + 2100);
        }
    }
}

#[tokio::test]
async fn random_messages_are_fetched_without_harm_and_unchanged() {
    let mut random = Random(7);
    let store = Store::new();
    const PIECES: &[&str] = &[
        "Content-Type: multipart/mixed; boundary=b\r\n",
        "Content-Type: message/rfc822\r\n",
        "\r\n",
        "--b\r\n",
        "--b--\r\n",
        "--b",
        "Subject: =?utf-8?q?x",
        "?=\r\n",
        "From: \"a (b <c@d>, e:;\r\n",
        "\t",
        "Content-Type: text/plain; charset*0=\"u",
        "\n",
        "\r",
        "\0",
        "Content-Transfer-Encoding: base64\r\n",
        "ü",
        "Content-Disposition: attachment; filename*=utf-8''%C3\r\n",
    ];
    let mut bodies = Vec::new();
    for _ in 0..200 {
        let body: String = (0..1 + random.below(40)).map(|_| PIECES[random.below(PIECES.len())]).collect();
        store.deliver("INBOX", body.clone());
        bodies.push(body);
    }
    let mut client = Client::logged_in(&store).await;
    client.send("a SELECT INBOX\r\n").await;
    for (number, body) in (1..).zip(bodies) {
        let answer = client.send(format!("b FETCH {number} BODY.PEEK[]\r\n")).await;
        let expected =
            format!("* {number} FETCH (BODY[] {{{}}}\r\n{body})\r\nb OK FETCH completed\r\n", body.len());
        assert_eq!(answer, expected);
    }
    let all = "(ENVELOPE BODY BODYSTRUCTURE BODY.PEEK[1.1] BODY.PEEK[2.MIME] BODY.PEEK[1.HEADER] BODY.PEEK[HEADER.FIELDS (From)] \
        BODY.PEEK[TEXT]<3.5>)";
    assert!(client.send(format!("c FETCH 1:* {all}\r\n")).await.ends_with("c OK FETCH completed\r\n"));
    assert!(client.send("d SEARCH OR TEXT x SENTSINCE 1-Jan-2000\r\n").await.contains("d OK"));
}
