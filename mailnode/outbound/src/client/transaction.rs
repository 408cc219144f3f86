//! One mail transaction (RFC 5321 3.3): who has been sent, who has been answered.

use crate::problem::Problem;
use bytes::Bytes;

/// Recipients that are sent before their replies are read (RFC 2920): so few that neither side's buffers fill up.
pub const BATCH: usize = 100;

/// A message for some recipients at one server.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// None is the null path.
    pub sender: Option<String>,
    pub recipients: Vec<String>,
    /// All of whose lines end with CRLF.
    pub message: Bytes,
    /// The client asked for SMTPUTF8.
    pub utf8: bool,
}

/// What came of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server's last word.
    Delivered(String),
    Failed(Problem),
}

/// The transaction under way.
#[derive(Debug)]
pub struct Running {
    pub transaction: Transaction,
    /// Recipients that were sent.
    pub sent: usize,
    /// One a recipient; None while it is open.
    outcomes: Vec<Option<Outcome>>,
    accepted: Vec<bool>,
    pub sender_refused: bool,
}

impl Running {
    pub fn new(transaction: Transaction) -> Self {
        let count = transaction.recipients.len();
        Self {
            transaction,
            sent: 0,
            outcomes: vec![None; count],
            accepted: vec![false; count],
            sender_refused: false,
        }
    }

    pub fn accept(&mut self, index: usize) {
        if let Some(accepted) = self.accepted.get_mut(index) {
            *accepted = true;
        }
    }

    pub fn fail(&mut self, index: usize, problem: &Problem) {
        if let Some(outcome @ None) = self.outcomes.get_mut(index) {
            *outcome = Some(Outcome::Failed(problem.clone()));
        }
    }

    /// All that are open.
    pub fn fail_all(&mut self, problem: &Problem) {
        for outcome in self.outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
            *outcome = Some(Outcome::Failed(problem.clone()));
        }
    }

    /// The server took the message for all whom it had accepted.
    pub fn delivered(&mut self, text: &str) {
        for (outcome, accepted) in self.outcomes.iter_mut().zip(&self.accepted) {
            if outcome.is_none() && *accepted {
                *outcome = Some(Outcome::Delivered(text.to_owned()));
            }
        }
    }

    pub fn has_accepted(&self) -> bool {
        self.outcomes.iter().zip(&self.accepted).any(|(outcome, accepted)| outcome.is_none() && *accepted)
    }

    pub fn finish(self) -> Vec<Outcome> {
        let unanswered = || Outcome::Failed(Problem::temporary(5, 0, "the server gave no answer"));
        self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unanswered)).collect()
    }
}
