//! What happened, as text for people and as a hash that two runs of a seed must share.

use std::collections::VecDeque;
use std::fmt::Display;
use std::time::Duration;

/// Lines kept for the report of a violation.
const KEPT: usize = 40;

/// What is printed while a history runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Print {
    #[default]
    Nothing,
    /// What a reader wants to see.
    Told,
    /// Every message, too, by its hash: where two runs of a seed part is where their determinism ends.
    Everything,
}

pub struct Trace {
    hash: blake3::Hasher,
    print: Print,
    last: VecDeque<String>,
    pub events: u64,
}

impl Trace {
    pub fn new(print: Print) -> Self {
        Self { hash: blake3::Hasher::new(), print, last: VecDeque::new(), events: 0 }
    }

    /// Something that a reader wants to see.
    pub fn tell(&mut self, now: Duration, what: impl Display) {
        let line = format!("{:>10.3}  {what}", now.as_secs_f64());
        self.hash(line.as_bytes());
        if self.print >= Print::Told {
            println!("{line}");
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Something that only the hash has to see.
    pub fn note(&mut self, bytes: &[u8]) {
        if self.print == Print::Everything {
            println!("note {} bytes {}", bytes.len(), &blake3::hash(bytes).to_hex()[..12]);
        }
        self.hash(bytes);
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.events += 1;
        self.hash.update(&(bytes.len() as u64).to_le_bytes());
        self.hash.update(bytes);
    }

    pub fn digest(&self) -> String {
        self.hash.finalize().to_hex().chars().take(16).collect()
    }

    pub fn last(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }
}
