//! What happened, as text for people and as a hash that two runs of a seed must share.

use std::collections::VecDeque;
use std::fmt::Display;
use std::time::Duration;

/// Lines kept for the report of a violation.
const KEPT: usize = 40;

pub struct Trace {
    hash: blake3::Hasher,
    print: bool,
    last: VecDeque<String>,
    pub events: u64,
}

impl Trace {
    pub fn new(print: bool) -> Self {
        Self { hash: blake3::Hasher::new(), print, last: VecDeque::new(), events: 0 }
    }

    /// Something that a reader wants to see.
    pub fn tell(&mut self, now: Duration, what: impl Display) {
        let line = format!("{:>10.3}  {what}", now.as_secs_f64());
        self.note(line.as_bytes());
        if self.print {
            println!("{line}");
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Something that only the hash has to see.
    pub fn note(&mut self, bytes: &[u8]) {
        self.events += 1;
        self.hash.update(&(bytes.len() as u64).to_le_bytes());
        self.hash.update(bytes);
    }

    pub fn hash(&self) -> String {
        self.hash.finalize().to_hex().chars().take(16).collect()
    }

    pub fn last(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }
}
