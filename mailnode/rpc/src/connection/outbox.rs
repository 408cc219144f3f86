//! What waits to be written on one connection.
//!
//! Two queues: short frames go first, in order; longer messages take turns, one frame each, and get at least one
//! frame into every batch, so that neither kind starves the other.
//!
//! Bounded by what its items hold: an item's [`Permits`] are given back only when it has left the queue, so that
//! peers that keep to the protocol never have more items here than calls may be in flight; pings, pongs and the
//! goodbye are one each. A peer that does not, and runs the queue over its limit, loses the connection.

use crate::SMALL_MESSAGE;
use crate::protocol::frame::{Finished, Header, Kind, Outcome};
use crate::protocol::hello::Limits;
use crate::protocol::outgoing::{Batch, Outgoing};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// A batch is closed when it has this many bytes; the last frame may exceed it.
const BATCH: usize = 128 * 1024;
/// Of which short frames may take this many before a longer message gets its turn.
const BATCH_OF_SHORT: usize = 64 * 1024;

/// A place among the calls in flight, and credit for a long message. Dropped = given back.
#[derive(Debug, Default)]
pub(super) struct Permits {
    pub(super) _slot: Option<OwnedSemaphorePermit>,
    pub(super) bulk: Option<OwnedSemaphorePermit>,
}

/// The connection has ended; what was to be sent never left.
#[derive(Debug)]
pub(super) struct Closed;

#[derive(Debug)]
pub(super) struct Outbox {
    queues: Mutex<Queues>,
    filled: Notify,
    most: usize,
}

#[derive(Debug, Default)]
struct Queues {
    short: VecDeque<(Short, Permits)>,
    long: VecDeque<(Outgoing, Permits)>,
    ping: bool,
    pong: Option<[u8; 8]>,
    goodbye: bool,
    closed: bool,
}

#[derive(Debug)]
enum Short {
    Message(Outgoing),
    Finished { call: u64, outcome: Outcome },
    Cancel { call: u64 },
    Received { call: u64 },
}

impl Outbox {
    pub(super) fn new(limits: &Limits) -> Self {
        // A call has at most a request, a cancel and an answer here; a long response its receipt.
        let most = limits.max_calls as usize * 4 + limits.window as usize / SMALL_MESSAGE;
        Self { queues: Mutex::default(), filled: Notify::new(), most }
    }

    /// Queues a message. The permits are given back when its last byte has left the queue.
    pub(super) fn message(&self, message: Outgoing, permits: Permits) -> Result<(), Closed> {
        self.push(|queues| {
            if message.left() <= SMALL_MESSAGE {
                queues.short.push_back((Short::Message(message), permits));
            } else {
                queues.long.push_back((message, permits));
            }
        })
    }

    pub(super) fn finished(&self, call: u64, outcome: Outcome, permits: Permits) {
        let _ = self.push(|queues| queues.short.push_back((Short::Finished { call, outcome }, permits)));
    }

    /// A long response has arrived. At most one for every response that the peer had credit for.
    pub(super) fn received(&self, call: u64) {
        let _ = self.push(|queues| queues.short.push_back((Short::Received { call }, Permits::default())));
    }

    /// Takes back a request; the peer hears of it only if it has seen some of it.
    pub(super) fn cancel_request(&self, call: u64, permits: Permits) {
        let unsent = self.remove(call);
        if unsent.is_none_or(|(message, _)| message.is_started()) {
            let _ = self.push(|queues| queues.short.push_back((Short::Cancel { call }, permits)));
        }
    }

    /// Takes back what of a long response is not sent yet; the peer has cancelled the call.
    pub(super) fn cancel_response(&self, call: u64) {
        let mut queues = self.lock();
        let found = take(&mut queues.long, |(message, _)| message.call == call);
        drop(queues);
        drop(found);
    }

    pub(super) fn ping(&self) {
        let _ = self.push(|queues| queues.ping = true);
    }

    pub(super) fn pong(&self, number: [u8; 8]) {
        let _ = self.push(|queues| queues.pong = Some(number));
    }

    pub(super) fn goodbye(&self) {
        let _ = self.push(|queues| queues.goodbye = true);
    }

    /// Forgets everything, and takes nothing any more.
    pub(super) fn close(&self) {
        let forgotten = std::mem::replace(&mut *self.lock(), Queues { closed: true, ..Queues::default() });
        drop(forgotten);
        self.filled.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Resolves when there may be something to write.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes the next frames into the batch; false if there are none. `load` is this node's load report.
    pub(super) fn fill(&self, load: u64, batch: &mut Batch) -> bool {
        // Given back outside the lock, because that wakes others.
        let mut done = Vec::new();
        let mut queues = self.lock();
        queues.take_signals(batch);
        while batch.size() < BATCH_OF_SHORT
            && let Some((short, permits)) = queues.short.pop_front()
        {
            short.encode(load, batch);
            done.push(permits);
        }
        while let Some((mut message, permits)) = queues.long.pop_front() {
            if message.next_frame(load, batch) {
                done.push(permits);
            } else {
                queues.long.push_back((message, permits));
            }
            if batch.size() >= BATCH {
                break;
            }
        }
        drop(queues);
        batch.end_run();
        batch.length > 0
    }

    fn push(&self, change: impl FnOnce(&mut Queues)) -> Result<(), Closed> {
        let mut queues = self.lock();
        if queues.closed {
            return Err(Closed);
        }
        if queues.short.len() + queues.long.len() >= self.most {
            drop(queues);
            self.close();
            return Err(Closed);
        }
        change(&mut queues);
        drop(queues);
        self.filled.notify_one();
        Ok(())
    }

    fn remove(&self, call: u64) -> Option<(Outgoing, Permits)> {
        let mut queues = self.lock();
        if let Some(found) = take(&mut queues.long, |(message, _)| message.call == call) {
            return Some(found);
        }
        let is_it = |(short, _): &(Short, Permits)| matches!(short, Short::Message(it) if it.call == call);
        match take(&mut queues.short, is_it) {
            Some((Short::Message(message), permits)) => Some((message, permits)),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Newest first: what is taken back was mostly queued a moment ago.
fn take<T>(queue: &mut VecDeque<T>, is_it: impl Fn(&T) -> bool) -> Option<T> {
    let position = queue.iter().rposition(is_it)?;
    queue.remove(position)
}

impl Queues {
    fn take_signals(&mut self, batch: &mut Batch) {
        if std::mem::take(&mut self.goodbye) {
            batch.header(Header { kind: Kind::Goodbye, call: 0, length: 0 });
        }
        let ping = std::mem::take(&mut self.ping).then_some([0; 8]);
        for (kind, number) in [(Kind::Ping, ping), (Kind::Pong, self.pong.take())] {
            if let Some(number) = number {
                batch.header(Header { kind, call: 0, length: number.len() });
                batch.copied.extend_from_slice(&number);
            }
        }
    }
}

impl Short {
    fn encode(self, load: u64, batch: &mut Batch) {
        let (kind, call) = match self {
            Self::Message(mut message) => {
                // A short message is one frame.
                message.next_frame(load, batch);
                return;
            }
            Self::Finished { call, outcome } => {
                batch.header(Header { kind: Kind::Finished, call, length: Finished::LENGTH });
                Finished { outcome, load }.encode(&mut batch.copied);
                return;
            }
            Self::Cancel { call } => (Kind::Cancel, call),
            Self::Received { call } => (Kind::Received, call),
        };
        batch.header(Header { kind, call, length: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::HEADER;
    use crate::protocol::outgoing::Start;
    use bytes::Bytes;

    fn message(call: u64, size: usize) -> Outgoing {
        Outgoing::new(call, Start::Response { status: 0 }, Bytes::new(), Bytes::from(vec![0; size]))
    }

    fn outbox() -> Outbox {
        Outbox::new(&Limits { max_head: 1, max_body: 1, max_calls: 100, window: 1 })
    }

    /// (kind, call) of the frames of the next batch.
    fn next(outbox: &Outbox) -> Vec<(Kind, u64)> {
        let mut batch = Batch::default();
        outbox.fill(0, &mut batch);
        let bytes: Vec<u8> = batch.slices().flatten().copied().collect();
        let (mut rest, mut frames) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let header = Header::decode(rest[..HEADER].try_into().unwrap()).unwrap();
            frames.push((header.kind, header.call));
            rest = &rest[HEADER + header.length..];
        }
        frames
    }

    #[test]
    fn a_short_message_overtakes_a_long_one_that_is_under_way_and_long_ones_take_turns() {
        let outbox = outbox();
        outbox.message(message(1, 1 << 20), Permits::default()).unwrap();
        assert_eq!(next(&outbox), [(Kind::Response, 1), (Kind::Data, 1)]);
        outbox.message(message(2, 1 << 20), Permits::default()).unwrap();
        outbox.message(message(3, SMALL_MESSAGE), Permits::default()).unwrap();
        assert_eq!(next(&outbox), [(Kind::Response, 3), (Kind::Data, 1), (Kind::Response, 2)]);
        assert_eq!(next(&outbox), [(Kind::Data, 1), (Kind::Data, 2)]);
    }

    #[test]
    fn a_flood_of_short_messages_leaves_long_ones_a_frame_in_every_batch() {
        let outbox = outbox();
        for call in 2..100 {
            outbox.message(message(call, SMALL_MESSAGE), Permits::default()).unwrap();
        }
        outbox.message(message(1, 1 << 20), Permits::default()).unwrap();
        assert!(next(&outbox).contains(&(Kind::Response, 1)));
        assert!(next(&outbox).contains(&(Kind::Data, 1)));
    }

    #[test]
    fn a_request_that_never_left_is_taken_back_without_a_word() {
        let outbox = outbox();
        outbox.message(message(1, 10), Permits::default()).unwrap();
        outbox.message(message(2, 1 << 20), Permits::default()).unwrap();
        outbox.cancel_request(1, Permits::default());
        outbox.cancel_request(2, Permits::default());
        assert_eq!(next(&outbox), []);
    }

    #[test]
    fn a_request_that_left_in_part_is_cut_short_and_cancelled() {
        let outbox = outbox();
        outbox.message(message(1, 1 << 20), Permits::default()).unwrap();
        next(&outbox);
        outbox.cancel_request(1, Permits::default());
        outbox.cancel_request(7, Permits::default());
        assert_eq!(next(&outbox), [(Kind::Cancel, 1), (Kind::Cancel, 7)]);
    }

    #[test]
    fn a_queue_over_its_limit_closes() {
        let outbox = outbox();
        for call in 1..=400 {
            outbox.message(message(call, 1), Permits::default()).unwrap();
        }
        assert!(outbox.message(message(401, 1), Permits::default()).is_err());
        assert!(outbox.is_closed());
    }

    #[test]
    fn many_pongs_are_one_and_nothing_is_queued_once_closed() {
        let outbox = outbox();
        for _ in 0..1000 {
            outbox.pong([1; 8]);
        }
        assert_eq!(next(&outbox), [(Kind::Pong, 0)]);
        outbox.close();
        assert!(outbox.message(message(1, 1), Permits::default()).is_err());
        assert_eq!(next(&outbox), []);
    }
}
