//! The mail: bodies of log-normal size, made before the clock runs. Header and body carry what the reader needs
//! to tell that a message came back whole.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Mean size of a message in bytes (Porcupine's own mail trace, 'Porcupine', section 6).
const MEAN: f64 = 4700.0;
const SIGMA: f64 = 1.0;
/// Sizes are cut here: the tail beyond is one message in 20 million.
const LARGEST: usize = 1024 * 1024;
/// About the length of the header that `write` makes.
const HEADER: usize = 330;
const LINE: usize = 72;
const FIELD: &str = "X-Bench-Checksum: ";

pub(crate) struct Messages {
    bodies: Vec<Body>,
    /// Of this run: no two runs send the same message.
    nonce: u128,
}

struct Body {
    text: Vec<u8>,
    checksum: u32,
}

impl Messages {
    pub(crate) fn generate(seed: u64, count: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let bodies = (0..count.max(1))
            .map(|_| {
                let text = text(&mut random);
                Body { checksum: crc32c::crc32c(&text), text }
            })
            .collect();
        let nonce = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        Self { bodies, nonce }
    }

    /// Appends the message of this number as it follows DATA, without the final dot. No line begins with a dot,
    /// so there is nothing to stuff (RFC 5321 4.5.2).
    pub(crate) fn write(&self, number: u64, recipient: &str, out: &mut Vec<u8>) {
        let index = usize::try_from(number % self.bodies.len().max(1) as u64).unwrap_or(0);
        let Some(body) = self.bodies.get(index) else { return };
        // Writing to a vector does not fail.
        let _ = write!(
            out,
            "From: Bench <sender@bench.invalid>\r\nTo: <{recipient}>\r\nSubject: Message {number} of a benchmark\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{:x}.{number}@bench.invalid>\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n{FIELD}{:08x}\r\n\r\n",
            self.nonce, body.checksum
        );
        out.extend_from_slice(&body.text);
    }

    pub(crate) fn mean_bytes(&self) -> f64 {
        let total: usize = self.bodies.iter().map(|body| body.text.len() + HEADER).sum();
        total as f64 / self.bodies.len().max(1) as f64
    }
}

/// A message that came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Whole,
    Damaged,
    /// Not from a benchmark.
    Foreign,
}

/// Checks a message as the server gives it, with whatever it put in front.
pub(crate) fn check(message: &[u8]) -> Verdict {
    let Some(end) = find(message, b"\r\n\r\n") else { return Verdict::Foreign };
    let (header, body) = message.split_at(end + 4);
    let Some(at) = find(header, FIELD.as_bytes()) else { return Verdict::Foreign };
    let digits = header.get(at + FIELD.len()..at + FIELD.len() + 8).unwrap_or_default();
    let checksum = std::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok());
    if checksum == Some(crc32c::crc32c(body)) { Verdict::Whole } else { Verdict::Damaged }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Lines of letters that no compression or deduplication makes smaller than they are.
fn text(random: &mut StdRng) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789  ";
    let length = size(random).saturating_sub(HEADER);
    let mut out = Vec::with_capacity(length + LINE + 2);
    loop {
        let line = length.saturating_sub(out.len() + 2).min(LINE);
        for _ in 0..line {
            out.push(LETTERS[usize::from(random.random::<u8>() & 63)]);
        }
        out.extend_from_slice(b"\r\n");
        if out.len() >= length {
            return out;
        }
    }
}

/// Log-normal by Box and Muller.
fn size(random: &mut StdRng) -> usize {
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    let normal = radius * (std::f64::consts::TAU * random.random::<f64>()).cos();
    let mu = MEAN.ln() - SIGMA * SIGMA / 2.0;
    ((mu + SIGMA * normal).exp() as usize).min(LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_log_normal_with_the_mean_of_the_trace() {
        let mut random = StdRng::seed_from_u64(7);
        let mut sizes: Vec<usize> = (0..200_000).map(|_| size(&mut random)).collect();
        let mean = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
        assert!((mean - MEAN).abs() < 100.0, "{mean}");
        sizes.sort_unstable();
        // Median of a log-normal: the mean divided by exp(sigma^2 / 2).
        let median = sizes[sizes.len() / 2] as f64;
        assert!((median - MEAN / 0.5_f64.exp()).abs() < 60.0, "{median}");
    }

    #[test]
    fn messages_have_short_lines_without_dots_in_front_and_the_promised_mean() {
        let messages = Messages::generate(3, 500);
        let mut total = 0;
        for number in 0..500 {
            let mut out = Vec::new();
            messages.write(number, "user1@example.org", &mut out);
            assert!(out.ends_with(b"\r\n"));
            for line in out.split(|&byte| byte == b'\n') {
                assert!(line.len() < 100 && line.first() != Some(&b'.'));
            }
            total += out.len();
        }
        let mean = f64::from(u32::try_from(total).unwrap()) / 500.0;
        assert!((mean - messages.mean_bytes()).abs() < 60.0, "{mean} {}", messages.mean_bytes());
    }

    #[test]
    fn two_messages_or_two_runs_never_send_the_same_bytes() {
        let (one, two) = (Messages::generate(1, 1), Messages::generate(1, 1));
        let written = |messages: &Messages, number| {
            let mut out = Vec::new();
            messages.write(number, "user1@example.org", &mut out);
            out
        };
        assert_ne!(written(&one, 0), written(&one, 1));
        assert_ne!(written(&one, 0), written(&two, 0));
    }

    #[test]
    fn a_message_is_whole_behind_trace_fields_and_one_changed_byte_is_seen() {
        let mut out = b"Return-Path: <a@b>\r\nReceived: from x\r\n".to_vec();
        Messages::generate(1, 1).write(0, "user1@example.org", &mut out);
        assert_eq!(check(&out), Verdict::Whole);
        let last = out.len() - 3;
        out[last] ^= 1;
        assert_eq!(check(&out), Verdict::Damaged);
        assert_eq!(check(b"Subject: other\r\n\r\nmail\r\n"), Verdict::Foreign);
        assert_eq!(check(b""), Verdict::Foreign);
    }
}
