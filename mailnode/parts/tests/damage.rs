//! `join(cut(message)) == message` for every message, however broken: some made here, those given by
//! `PRICKLE_CORPUS` (directories, separated by colons), and random damage to all of them.
//! The seeds are fixed, so that a failure can be repeated.

use cluster::BlobId;
use parts::{Manifest, PartKey, Reference, cut, join};
use std::collections::BTreeMap;
use std::path::Path;

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

/// Cuts, codes, decodes and joins; returns how many parts were cut out.
fn round_trip(message: &[u8], least: usize) -> usize {
    let cuts = cut(message, least);
    let references = cuts.iter().map(|cut| Reference {
        name: BlobId::of(&cut.coded),
        key: PartKey([0; 32]),
        layout: cut.layout,
        content: cut.content as u64,
    });
    let coded = Manifest::encode(message, &cuts, references.collect()).unwrap();
    let stored: BTreeMap<BlobId, &[u8]> =
        cuts.iter().map(|cut| (BlobId::of(&cut.coded), &cut.coded[..])).collect();
    let (manifest, rest) = Manifest::decode(&coded, message.len() as u64).unwrap();
    assert_eq!(manifest.parts().count(), cuts.len());
    let back = join(&manifest, rest, message.len() as u64, |name| stored.get(&name).copied()).unwrap();
    assert!(back == message, "{} bytes, cut at {least}, came back otherwise", message.len());
    cuts.len()
}

fn files(directory: &Path, found: &mut Vec<Vec<u8>>) {
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            files(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            found.push(bytes);
        }
    }
}

/// Messages made here, with each kind of part, and whatever is given.
fn messages() -> Vec<Vec<u8>> {
    let line = "VGhpcyBpcyBhIGxpbmUgb2YgYmFzZTY0IHRoYXQgaGFzIGp1c3QgNzYgY2hhcmFjdGVycywgeWVz";
    let base64 = format!("{line}\r\n").repeat(40) + "VGhl";
    let text = "A line of text that is like the others.\r\n".repeat(60);
    let leaf = |kind: &str, body: &str| format!("Content-Type: {kind}\r\n\r\n{body}\r\n");
    let inner = format!(
        "Content-Type: multipart/alternative; boundary=\"in ner\"\r\n\r\n--in ner\r\n{}--in ner\r\n{}--in ner--\r\n",
        leaf("text/plain", &text),
        leaf("image/png", &base64),
    );
    let outer = format!(
        "Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\n{inner}--b\r\n{}--b\r\n{}--b\r\n{}--b--\r\nend",
        leaf("application/pdf", &base64),
        leaf("message/rfc822", &inner),
        leaf("application/x", &"\u{0}\u{1}\r\u{2}\n".repeat(300)),
    );
    let mut messages: Vec<Vec<u8>> = [
        outer.clone(),
        inner,
        outer.replace("\r\n", "\n"),
        outer.replace("\r\n", "\r"),
        base64,
        String::new(),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect();
    for directory in std::env::var("PRICKLE_CORPUS").unwrap_or_default().split(':') {
        files(Path::new(directory), &mut messages);
    }
    files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../smtp/tests")), &mut messages);
    files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../imap/tests")), &mut messages);
    messages
}

fn damage(message: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..1 + random.below(6) {
        let at = random.below(message.len() + 1);
        match random.below(7) {
            0 => message.truncate(at),
            1 => drop(message.drain(..at)),
            2 => {
                let end = (at + random.below(400)).min(message.len());
                drop(message.drain(at..end));
            }
            3 => {
                drop(message.splice(at..at, other.iter().copied().skip(random.below(other.len())).take(900)))
            }
            4 => {
                let bytes: &[&[u8]] =
                    &[b"\r", b"\n", b"--b\r\n", b"--b--", b"=", b"\r\n\r\n", b"\0", b"=\r\n"];
                drop(message.splice(at..at, bytes[random.below(bytes.len())].iter().copied()));
            }
            _ => {
                if let Some(byte) = message.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
        }
    }
}

#[test]
fn every_message_comes_back_whatever_is_cut() {
    let mut parts = 0;
    let messages = messages();
    for message in &messages {
        for least in [1, 64, 1_000, 64 << 10] {
            parts += round_trip(message, least);
        }
    }
    assert!(parts > 50, "{parts} parts");
    println!("{} messages, {parts} parts", messages.len());
}

#[test]
fn every_damaged_message_comes_back() {
    let rounds: u64 =
        std::env::var("PRICKLE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4_000);
    let messages: Vec<_> = messages().into_iter().filter(|message| message.len() < 300_000).collect();
    let mut random = Random(0x5eed_0000_0000_0001);
    let mut parts = 0;
    for _ in 0..rounds {
        let mut message = messages[random.below(messages.len())].clone();
        let other = messages[random.below(messages.len())].clone();
        damage(&mut message, &other, &mut random);
        parts += round_trip(&message, 1 + random.below(300));
    }
    assert!(parts > 1_000, "{parts} parts");
    println!("{rounds} damaged messages, {parts} parts");
}
