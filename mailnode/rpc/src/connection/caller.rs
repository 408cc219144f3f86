//! The calling role on a connection: calls in flight, and what comes back for them.
//!
//! A call holds a slot, and credit for a long request, from before it is queued until it has ended: answered,
//! finished without an answer, cancelled (until the cancel is written), or the connection lost. So neither side
//! ever has more of either than was agreed, whatever the order in which things happen.

use super::liveness::{self, Heard};
use super::outbox::{Outbox, Permits};
use super::reader::FrameReader;
use super::{Ended, writer};
use crate::endpoint::{Endpoint, SMALL_MESSAGE};
use crate::error::Error;
use crate::metrics::GaugeGuard;
use crate::protocol::assembly::Assembly;
use crate::protocol::frame::{Finished, Header, Kind, Malformed, Outcome, ResponseStart};
use crate::protocol::hello::{Agreement, Limits};
use crate::protocol::outgoing::{Outgoing, Start};
use crate::{PeerAddress, Response};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// For the last bytes of a connection that is closed on purpose.
const FAREWELL: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) method: u16,
    pub(crate) head: Bytes,
    pub(crate) body: Bytes,
    pub(crate) trace_id: u64,
    pub(crate) one_way: bool,
}

/// Why a call did not begin.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// This connection takes no calls any more; another one may.
    Gone,
    Failed(Error),
}

pub(crate) struct Caller {
    endpoint: Endpoint,
    peer: Arc<PeerAddress>,
    limits: Limits,
    outbox: Outbox,
    slots: Arc<Semaphore>,
    window: Arc<Semaphore>,
    /// Credit that the peer has for long responses.
    response_window: Arc<Semaphore>,
    calls: Mutex<Calls>,
    /// Wakes the connection's task to see whether it may end.
    idle: Notify,
}

#[derive(Default)]
struct Calls {
    last: u64,
    waiting: HashMap<u64, Waiting>,
    /// No new calls; the connection ends after the last of those in flight.
    retired: bool,
    closed: bool,
}

struct Waiting {
    /// None for a one-way request.
    answer: Option<oneshot::Sender<Result<Response, Error>>>,
    permits: Permits,
    partial: Option<Partial>,
}

/// A long response of which some frames came.
struct Partial {
    status: u16,
    message: Assembly,
    /// The peer's credit for it.
    _credit: OwnedSemaphorePermit,
}

impl Caller {
    /// Takes over an established connection; its task ends by itself.
    pub(crate) fn start<S>(
        endpoint: Endpoint,
        peer: Arc<PeerAddress>,
        stream: S,
        agreed: Agreement,
    ) -> Arc<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = agreed.limits;
        let caller = Arc::new(Self {
            endpoint,
            peer,
            limits,
            outbox: Outbox::new(&limits),
            slots: Arc::new(Semaphore::new(limits.max_calls as usize)),
            window: Arc::new(Semaphore::new(limits.window as usize)),
            response_window: Arc::new(Semaphore::new(limits.window as usize)),
            calls: Mutex::default(),
            idle: Notify::new(),
        });
        tokio::spawn(caller.clone().run(stream));
        caller
    }

    /// False if new calls must go over another connection.
    pub(crate) fn takes_calls(&self) -> bool {
        let calls = self.lock();
        !calls.retired && !calls.closed
    }

    /// No new calls from now on; the connection closes when those in flight have ended.
    pub(crate) fn retire(&self) {
        self.lock().retired = true;
        self.idle.notify_one();
    }

    /// Queues a request. The call ends when `InFlight` is dropped or has brought the answer.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        message: &Message,
        deadline: Instant,
    ) -> Result<InFlight, NotBegun> {
        let size = message.head.len() + message.body.len();
        if let Some((what, size, limit)) = self.limits.excess(message.head.len(), message.body.len()) {
            return Err(NotBegun::Failed(Error::TooLarge { what, size, limit }));
        }
        // Credit first: long requests that wait for it must not take the places of short ones.
        let bulk = match u32::try_from(size) {
            Ok(long) if size > SMALL_MESSAGE => Some(acquire(&self.window, long, deadline).await?),
            _ => None,
        };
        let permits = Permits { _slot: Some(acquire(&self.slots, 1, deadline).await?), bulk };
        let (sender, receiver) = oneshot::channel();
        let answer = (!message.one_way).then_some(sender);
        let mut calls = self.lock();
        if calls.retired || calls.closed {
            return Err(NotBegun::Gone);
        }
        calls.last += 1;
        let call = calls.last;
        calls.waiting.insert(call, Waiting { answer, permits, partial: None });
        let Message { method, trace_id, one_way, .. } = *message;
        let start = Start::Request { one_way, method, deadline, trace_id };
        let outgoing = Outgoing::new(call, start, message.head.clone(), message.body.clone());
        if self.outbox.message(outgoing, Permits::default()).is_err() {
            calls.waiting.remove(&call);
            return Err(NotBegun::Gone);
        }
        drop(calls);
        Ok(InFlight { caller: self.clone(), call, receiver, keep: message.one_way })
    }

    async fn run<S: AsyncRead + AsyncWrite + Unpin>(self: Arc<Self>, stream: S) {
        let metrics = self.endpoint.metrics().clone();
        let _gauge = GaugeGuard::new(metrics.clone(), |metrics| &metrics.connections);
        // Also if this task is dropped or panics.
        let mut ending = Ending { caller: self.clone(), reason: None };
        let heard = Arc::new(Heard::new());
        let (read, mut write) = tokio::io::split(stream);
        let mut reader = FrameReader::new(read, heard.clone(), metrics.clone());
        let endpoint = &self.endpoint.inner;
        let ended = tokio::select! {
            ended = self.read(&mut reader) => ended,
            error = writer::run(&mut write, &self.outbox, endpoint) => Ended::Network(error),
            () = liveness::watch(&heard, &self.outbox, &endpoint.options) => Ended::Silent,
            () = self.retired_and_idle() => Ended::Retired,
        };
        ended.count(&metrics);
        tracing::debug!(peer = %self.peer.name, reason = %ended, "connection ended");
        let on_purpose = matches!(ended, Ended::Retired);
        ending.reason = Some(ended.to_string().into());
        drop(ending);
        if on_purpose {
            let _ = timeout(FAREWELL, write.shutdown()).await;
        }
    }

    /// Resolves when no call will ever use this connection again.
    async fn retired_and_idle(&self) {
        loop {
            {
                let mut calls = self.lock();
                if calls.retired && calls.waiting.is_empty() {
                    calls.closed = true;
                    return;
                }
            }
            self.idle.notified().await;
        }
    }

    async fn read<R: AsyncRead + Unpin>(&self, reader: &mut FrameReader<R>) -> Ended {
        loop {
            let handled = match reader.header().await {
                Ok(header) => self.frame(reader, header).await,
                Err(ended) => return ended,
            };
            if let Err(ended) = handled {
                return ended;
            }
        }
    }

    async fn frame<R>(&self, reader: &mut FrameReader<R>, header: Header) -> Result<(), Ended>
    where
        R: AsyncRead + Unpin,
    {
        let Header { kind, call, length } = header;
        match kind {
            Kind::Response => {
                let start = ResponseStart::decode(reader.fixed().await?);
                self.report_load(start.load);
                self.response(reader, call, start, length - ResponseStart::LENGTH).await
            }
            Kind::Data => self.more(reader, call, length).await,
            Kind::Finished => {
                let finished = Finished::decode(reader.fixed().await?)?;
                self.report_load(finished.load);
                self.finished(call, finished.outcome)
            }
            Kind::Ping => {
                self.outbox.pong(reader.fixed().await?);
                Ok(())
            }
            Kind::Pong => reader.skip(length).await,
            Kind::Goodbye => {
                self.retire();
                Ok(())
            }
            Kind::Refusal => Err(Ended::RefusedByPeer(reader.reason(length).await?)),
            Kind::Hello | Kind::Request | Kind::Cancel | Kind::Received => Err(Malformed::Place(kind).into()),
        }
    }

    /// The first frame of a response.
    async fn response<R>(
        &self,
        reader: &mut FrameReader<R>,
        call: u64,
        start: ResponseStart,
        data: usize,
    ) -> Result<(), Ended>
    where
        R: AsyncRead + Unpin,
    {
        let (head, body) = (start.head as usize, start.body as usize);
        if self.limits.excess(head, body).is_some() {
            return Err(Malformed::MessageSize.into());
        }
        if !self.awaits_response(call)? {
            return reader.skip(data).await;
        }
        let mut message = Assembly::new(head, body);
        if head + body <= SMALL_MESSAGE {
            reader.data(&mut message, data).await?;
            if message.missing() > 0 {
                return Err(Malformed::FrameSize.into());
            }
            self.answer(call, start.status, message);
            return Ok(());
        }
        let credit = self.response_window.clone().try_acquire_many_owned(start.head + start.body);
        let credit = credit.map_err(|_| Malformed::Window)?;
        self.extend(reader, call, Partial { status: start.status, message, _credit: credit }, data).await
    }

    /// False if the response crossed our cancel.
    fn awaits_response(&self, call: u64) -> Result<bool, Malformed> {
        let calls = self.lock();
        match calls.waiting.get(&call) {
            Some(Waiting { partial: None, .. }) => Ok(true),
            None if call <= calls.last => Ok(false),
            Some(_) | None => Err(Malformed::Call(Kind::Response)),
        }
    }

    /// A further frame of a response.
    async fn more<R>(&self, reader: &mut FrameReader<R>, call: u64, data: usize) -> Result<(), Ended>
    where
        R: AsyncRead + Unpin,
    {
        let (partial, known) = {
            let mut calls = self.lock();
            let partial = calls.waiting.get_mut(&call).map(|waiting| waiting.partial.take());
            (partial, call <= calls.last)
        };
        match partial {
            Some(Some(partial)) => self.extend(reader, call, partial, data).await,
            None if known => reader.skip(data).await,
            Some(None) | None => Err(Malformed::Call(Kind::Data).into()),
        }
    }

    async fn extend<R>(
        &self,
        reader: &mut FrameReader<R>,
        call: u64,
        mut partial: Partial,
        data: usize,
    ) -> Result<(), Ended>
    where
        R: AsyncRead + Unpin,
    {
        reader.data(&mut partial.message, data).await?;
        if partial.message.missing() == 0 {
            let Partial { status, message, _credit: credit } = partial;
            // Ours is back before the peer's.
            drop(credit);
            self.outbox.received(call);
            self.answer(call, status, message);
        } else if let Some(waiting) = self.lock().waiting.get_mut(&call) {
            waiting.partial = Some(partial);
        }
        Ok(())
    }

    fn answer(&self, call: u64, status: u16, message: Assembly) {
        let (head, body) = message.finish();
        self.end(call, Ok(Response { status, head, body }));
    }

    fn finished(&self, call: u64, outcome: Outcome) -> Result<(), Ended> {
        if call > self.lock().last {
            return Err(Malformed::Call(Kind::Finished).into());
        }
        let error = match outcome {
            Outcome::Handled | Outcome::Failed => Error::HandlerFailed,
            Outcome::Expired => Error::DeadlineExceeded,
        };
        self.end(call, Err(error));
        Ok(())
    }

    fn end(&self, call: u64, result: Result<Response, Error>) {
        let waiting = self.remove(call);
        if let Some(Waiting { answer: Some(answer), .. }) = waiting {
            // Nobody may listen any more.
            let _ = answer.send(result);
        }
    }

    fn remove(&self, call: u64) -> Option<Waiting> {
        let mut calls = self.lock();
        let waiting = calls.waiting.remove(&call);
        if calls.retired && calls.waiting.is_empty() {
            self.idle.notify_one();
        }
        waiting
    }

    fn cancel(&self, call: u64) {
        if let Some(waiting) = self.remove(call) {
            self.outbox.cancel_request(call, waiting.permits);
        }
    }

    fn report_load(&self, load: u64) {
        if let Some(on_load) = &self.endpoint.inner.on_load {
            on_load(self.peer.node_id, load);
        }
    }

    fn close(&self, reason: &Arc<str>) {
        self.outbox.close();
        self.slots.close();
        self.window.close();
        let waiting = {
            let mut calls = self.lock();
            calls.closed = true;
            std::mem::take(&mut calls.waiting)
        };
        for waiting in waiting.into_values() {
            if let Some(answer) = waiting.answer {
                let peer = self.peer.name.as_str().into();
                let _ = answer.send(Err(Error::ConnectionLost { peer, reason: reason.clone() }));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn acquire(
    semaphore: &Arc<Semaphore>,
    permits: u32,
    deadline: Instant,
) -> Result<OwnedSemaphorePermit, NotBegun> {
    match timeout_at(deadline, semaphore.clone().acquire_many_owned(permits)).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_closed)) => Err(NotBegun::Gone),
        Err(_elapsed) => Err(NotBegun::Failed(Error::Overloaded)),
    }
}

/// Tells whoever waits that the connection has ended.
struct Ending {
    caller: Arc<Caller>,
    reason: Option<Arc<str>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let reason = self.reason.take().unwrap_or_else(|| "the connection's task was stopped".into());
        self.caller.close(&reason);
    }
}

/// A call that was queued. Dropped = cancelled, unless it was one-way.
pub(crate) struct InFlight {
    caller: Arc<Caller>,
    call: u64,
    receiver: oneshot::Receiver<Result<Response, Error>>,
    keep: bool,
}

impl InFlight {
    pub(crate) async fn answer(mut self, deadline: Instant) -> Result<Response, Error> {
        match timeout_at(deadline, &mut self.receiver).await {
            Ok(Ok(result)) => result,
            // The sender is always used; if not, it went with its connection.
            Ok(Err(_)) => Err(Error::ConnectionLost {
                peer: self.caller.peer.name.as_str().into(),
                reason: "the connection's task was stopped".into(),
            }),
            Err(_elapsed) => Err(Error::DeadlineExceeded),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.keep {
            // Does nothing if the call has ended.
            self.caller.cancel(self.call);
        }
    }
}
