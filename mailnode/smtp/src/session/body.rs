//! The message: DATA (RFC 5321 4.1.1.4) and BDAT (RFC 3030), gathered once in memory behind its trace lines.

use super::{Delivery, Message, Mode, Next, Question, Reply, Session, State, Transaction};
use crate::submission::missing_fields;
use crate::trace::{MOST_RECEIVED, Trace, received_lines};
use std::fmt::Write;

/// Room that is made for a message because its size was announced; more only as it comes.
const LARGEST_RESERVE: u64 = 256 * 1024;
const SMALLEST_RESERVE: u64 = 4 * 1024;
/// Content beyond the limit is read and dropped up to so many times the limit.
const PATIENCE: u64 = 2;

impl<R> Session<R> {
    pub(super) fn data(&mut self) {
        if let Some(reply) = self.no_message_now() {
            return self.fault("DATA", reply);
        }
        if self.transaction.as_ref().is_some_and(|transaction| transaction.chunked) {
            // RFC 3030 2: DATA and BDAT are not mixed.
            self.transaction = None;
            return self.fault("DATA", Reply(503, "5.5.1", "The message came by BDAT; end it there"));
        }
        self.begin_body();
        self.state = State::Data(crate::data::Unstuffer::default());
        // Counted when the message is over.
        self.write(Reply(354, "", "Go ahead, end with a dot on a line of its own"));
    }

    fn no_message_now(&self) -> Option<Reply> {
        match &self.transaction {
            None => Some(Reply(503, "5.5.1", "Give sender and recipients first")),
            // RFC 5321 3.3, RFC 2033 4.2.
            Some(transaction) if transaction.recipients.is_empty() => {
                let code = if self.config.mode == Mode::Lmtp { 503 } else { 554 };
                Some(Reply(code, "5.5.1", "No valid recipients"))
            }
            Some(_) => None,
        }
    }

    /// Trace lines first, so that the content is appended to them and never moved.
    fn begin_body(&mut self) {
        let with = self.protocol();
        let Some(transaction) = &mut self.transaction else { return };
        let trace = Trace {
            sender: transaction.sender.as_ref(),
            client: self.client.as_ref().map_or("unknown", |client| &client.name),
            peer: self.config.peer,
            host_name: &self.config.host_name,
            with: &with,
            id: &transaction.id,
            recipient: match transaction.recipients.as_slice() {
                [only] => Some(&only.address),
                _ => None,
            },
            unix_seconds: self.now,
        };
        let lines = trace.lines();
        let room = transaction.declared_size.clamp(SMALLEST_RESERVE, LARGEST_RESERVE) as usize;
        transaction.body = Vec::with_capacity(lines.len() + room);
        transaction.body.extend_from_slice(lines.as_bytes());
        transaction.head = lines.len();
    }

    /// RFC 3848; with SMTPUTF8, RFC 6531 4.3.
    fn protocol(&self) -> String {
        let utf8 = self.transaction.as_ref().is_some_and(|transaction| transaction.utf8);
        let extended = self.client.as_ref().is_some_and(|client| client.extended);
        let base = match (self.config.mode, utf8, extended) {
            (Mode::Lmtp, true, _) => "UTF8LMTP",
            (Mode::Lmtp, false, _) => "LMTP",
            (_, true, _) => "UTF8SMTP",
            (_, false, true) => "ESMTP",
            (_, false, false) => return "SMTP".to_owned(),
        };
        let (tls, auth) = (if self.tls { "S" } else { "" }, if self.user.is_some() { "A" } else { "" });
        format!("{base}{tls}{auth}")
    }

    pub(super) fn read_data(&mut self) -> Option<Next<R>> {
        let (State::Data(unstuffer), Some(transaction)) = (&mut self.state, &mut self.transaction) else {
            self.state = State::Command;
            return None;
        };
        let (used, over) = unstuffer.feed(self.input.bytes(), &mut transaction.body);
        self.input.consume(used);
        transaction.enforce(self.config.limits.message_bytes);
        if over {
            self.state = State::Command;
            return self.end_of_message("DATA");
        }
        if self.is_flood() {
            return None;
        }
        Some(Next::Read)
    }

    pub(super) fn bdat(&mut self, size: u64, last: bool) {
        if let Some(reply) = self.no_message_now() {
            // Not counted as an error: a client that pipelines chunks cannot know yet that the first was refused.
            self.reply("BDAT", reply);
            self.state = State::Skip { remaining: size };
            self.give_up_if_endless(size);
            return;
        }
        if self.transaction.as_ref().is_some_and(|transaction| !transaction.chunked) {
            self.begin_body();
        }
        let limit = self.config.limits.message_bytes;
        let Some(transaction) = &mut self.transaction else { return };
        transaction.chunked = true;
        let content = (transaction.body.len() - transaction.head) as u64;
        if size > limit.saturating_sub(content) {
            // RFC 3030 2: a chunk that fails ends the transaction; the rest of it is read and dropped.
            self.refuse_message("BDAT", last, TOO_BIG);
            self.state = State::Skip { remaining: size };
            self.give_up_if_endless(size);
            return;
        }
        self.state = State::Chunk { remaining: size, last };
    }

    fn give_up_if_endless(&mut self, size: u64) {
        if size > self.config.limits.message_bytes.saturating_mul(PATIENCE) {
            self.farewell("4.7.0", "Chunk much too big");
        }
    }

    pub(super) fn read_chunk(&mut self) -> Option<Next<R>> {
        let (State::Chunk { remaining, last }, Some(transaction)) = (&mut self.state, &mut self.transaction)
        else {
            self.state = State::Command;
            return None;
        };
        let here = self.input.bytes();
        let part = here.get(..usize::try_from(*remaining).unwrap_or(usize::MAX)).unwrap_or(here);
        transaction.body.extend_from_slice(part);
        *remaining -= part.len() as u64;
        let (used, missing, last) = (part.len(), *remaining, *last);
        self.input.consume(used);
        if missing > 0 {
            return Some(Next::Read);
        }
        self.state = State::Command;
        if last {
            return self.end_of_message("BDAT");
        }
        self.success("BDAT", Reply(250, "2.0.0", "Chunk received"));
        None
    }

    pub(super) fn skip_chunk(&mut self) -> Option<Next<R>> {
        let State::Skip { remaining } = &mut self.state else { return None };
        let skipped = (*remaining).min(self.input.bytes().len() as u64);
        *remaining -= skipped;
        let missing = *remaining;
        self.input.consume(skipped as usize);
        if missing > 0 {
            return Some(Next::Read);
        }
        self.state = State::Command;
        None
    }

    /// Ends a client that goes on sending far beyond the limit.
    fn is_flood(&mut self) -> bool {
        let limit = self.config.limits.message_bytes;
        let dropped = self.transaction.as_ref().map_or(0, |transaction| transaction.dropped);
        let flood = dropped > limit.saturating_mul(PATIENCE).max(1024 * 1024);
        if flood {
            self.refuse_message("DATA", true, TOO_BIG);
            self.farewell("4.7.0", "Message much too big");
        }
        flood
    }

    fn end_of_message(&mut self, command: &'static str) -> Option<Next<R>> {
        let transaction = self.transaction.as_ref()?;
        if transaction.dropped > 0 {
            self.refuse_message(command, true, TOO_BIG);
            return None;
        }
        let content = transaction.body.get(transaction.head..).unwrap_or_default();
        if received_lines(content) > MOST_RECEIVED {
            self.refuse_message(command, true, Reply(554, "5.4.6", "Mail loop: too many Received lines"));
            return None;
        }
        let transaction = self.transaction.as_mut()?;
        if self.config.mode == Mode::Submission {
            let content = transaction.body.get(transaction.head..).unwrap_or_default();
            let missing = missing_fields(content, &transaction.id, &self.config.host_name, self.now);
            transaction.body.splice(transaction.head..transaction.head, missing.into_bytes());
        }
        let recipients = std::mem::take(&mut transaction.recipients);
        self.state = State::Asked(Question::Delivery { command, recipients: recipients.len() });
        Some(Next::Deliver(Message {
            id: transaction.id.clone(),
            sender: transaction.sender.clone(),
            recipients,
            utf8: transaction.utf8,
            return_path: memchr::memchr(b'\n', &transaction.body).map_or(0, |end| end + 1),
            body: std::mem::take(&mut transaction.body),
            all_or_none: self.config.mode != Mode::Lmtp,
        }))
    }

    /// Refuses the whole message: one reply, in LMTP at the end of the message one a recipient (RFC 2033 4.2,
    /// 4.3).
    fn refuse_message(&mut self, command: &'static str, at_end: bool, reply: Reply) {
        let recipients = self.transaction.take().map_or(0, |transaction| transaction.recipients.len());
        let many = self.config.mode == Mode::Lmtp && at_end;
        for _ in 0..if many { recipients } else { 1 } {
            self.reply(command, reply);
        }
    }

    /// The answers to [`Next::Deliver`], one a recipient in its order. What is missing counts as failed.
    pub fn delivered(&mut self, deliveries: &[Delivery]) {
        let State::Asked(Question::Delivery { command, recipients }) = self.state else { return };
        self.state = State::Command;
        let Some(transaction) = self.transaction.take() else { return };
        if self.config.mode == Mode::Lmtp {
            for index in 0..recipients {
                let delivery = deliveries.get(index).copied().unwrap_or(Delivery::Failed);
                self.say_delivered(command, delivery, &transaction.id);
            }
        } else {
            let stored = deliveries.iter().filter(|one| **one == Delivery::Stored).count();
            let all = if stored == recipients { Delivery::Stored } else { Delivery::Failed };
            self.say_delivered(command, all, &transaction.id);
        }
    }

    fn say_delivered(&mut self, command: &'static str, delivery: Delivery, id: &str) {
        match delivery {
            Delivery::Stored => {
                self.errors = 0;
                self.outcomes.push((command, super::Outcome::Ok));
                let _ = write!(self.output, "250 2.0.0 Stored as {id}\r\n");
            }
            Delivery::Failed => {
                self.reply(command, Reply(451, "4.3.0", "The message could not be stored, try again later"));
            }
        }
    }
}

const TOO_BIG: Reply = Reply(552, "5.3.4", "Message is too big");

impl<R> Transaction<R> {
    /// Drops content beyond the limit, so that only the count of it is kept.
    fn enforce(&mut self, limit: u64) {
        let content = (self.body.len() - self.head) as u64;
        if self.dropped > 0 || content > limit {
            self.dropped += content;
            self.body.truncate(self.head);
            self.body.shrink_to_fit();
        }
    }
}
