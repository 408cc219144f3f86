//! The answering role on a connection: requests that arrive, their handlers, and what goes back.
//!
//! A request has a place from its first frame until its answer is written; a peer that asks for more than was
//! agreed is not read from until there is room. Its handler runs as a task of its own, which is stopped when the
//! peer cancels, the deadline passes or the connection ends, and whatever way it ends the peer is told once.

use super::liveness::{self, Heard};
use super::outbox::{Outbox, Permits};
use super::reader::FrameReader;
use super::{Ended, writer};
use crate::endpoint::{Endpoint, SMALL_MESSAGE};
use crate::metrics::{GaugeGuard, Metrics, add};
use crate::protocol::assembly::Assembly;
use crate::protocol::frame::{Header, Kind, Malformed, Outcome, RequestStart};
use crate::protocol::hello::Limits;
use crate::protocol::outgoing::{Outgoing, Start};
use crate::server::Handler;
use crate::{PeerIdentity, Request, Response, trace};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

/// No deadline is further away than this, whatever the peer says.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const FAREWELL: Duration = Duration::from_secs(1);

pub(crate) struct Answerer<H> {
    endpoint: Endpoint,
    peer: PeerIdentity,
    limits: Limits,
    handler: Arc<H>,
    shared: Arc<Shared>,
    /// Requests that are here in any form. Twice what the peer may have in flight, because an answer can be on
    /// its way out for a call that the peer has cancelled and replaced.
    places: Arc<Semaphore>,
    /// Credit that the peer has for long requests.
    request_window: Arc<Semaphore>,
    incoming: HashMap<u64, Incoming>,
    handlers: JoinSet<()>,
}

/// What the connection's task and the handlers' tasks share.
struct Shared {
    outbox: Outbox,
    running_slots: Arc<Semaphore>,
    response_window: Arc<Semaphore>,
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    running: HashMap<u64, Running>,
    /// Credit of long responses that the peer has not confirmed.
    sending: HashMap<u64, OwnedSemaphorePermit>,
}

struct Running {
    abort: AbortHandle,
    permits: Permits,
}

/// A long request of which some frames came.
struct Incoming {
    start: RequestStart,
    deadline: Instant,
    message: Assembly,
    permits: Permits,
}

impl<H: Handler> Answerer<H> {
    pub(crate) fn new(endpoint: Endpoint, peer: PeerIdentity, limits: Limits, handler: Arc<H>) -> Self {
        let window = limits.window as usize;
        let shared = Shared {
            outbox: Outbox::new(&limits),
            running_slots: Arc::new(Semaphore::new(endpoint.options().max_handlers as usize)),
            response_window: Arc::new(Semaphore::new(window)),
            calls: Mutex::default(),
        };
        Self {
            endpoint,
            peer,
            limits,
            handler,
            shared: Arc::new(shared),
            places: Arc::new(Semaphore::new(limits.max_calls as usize * 2)),
            request_window: Arc::new(Semaphore::new(window)),
            incoming: HashMap::new(),
            handlers: JoinSet::new(),
        }
    }

    /// Serves the peer until the connection ends. When `stopping` turns true it says goodbye, and the peer closes
    /// the connection once its calls are done.
    pub(crate) async fn run<S>(mut self, stream: S, mut stopping: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let endpoint = self.endpoint.clone();
        let (metrics, options) = (endpoint.metrics(), endpoint.options());
        let _gauge = GaugeGuard::new(metrics.clone(), |metrics| &metrics.connections);
        let heard = Arc::new(Heard::new());
        let (read, mut write) = tokio::io::split(stream);
        let mut reader = FrameReader::new(read, heard.clone(), metrics.clone());
        let (shared, peer) = (self.shared.clone(), self.peer.name.clone());
        let goodbye = async {
            if stopping.wait_for(|stopping| *stopping).await.is_ok() {
                shared.outbox.goodbye();
            }
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            ended = self.read(&mut reader) => ended,
            error = writer::run(&mut write, &shared.outbox, &endpoint.inner) => Ended::Network(error),
            () = liveness::watch(&heard, &shared.outbox, options) => Ended::Silent,
            () = goodbye => Ended::Retired,
        };
        ended.count(metrics);
        match &ended {
            Ended::Malformed(_) => tracing::warn!(%peer, reason = %ended, "connection closed"),
            Ended::RefusedByPeer(_) => {
                add(&metrics.refused_incoming, 1);
                tracing::warn!(%peer, reason = %ended, "connection closed");
            }
            _ => tracing::debug!(%peer, reason = %ended, "connection ended"),
        }
        shared.close();
        // Stops the handlers that still run.
        drop(self);
        let _ = timeout(FAREWELL, write.shutdown()).await;
    }

    async fn read<R: AsyncRead + Unpin>(&mut self, reader: &mut FrameReader<R>) -> Ended {
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

    async fn frame<R>(&mut self, reader: &mut FrameReader<R>, header: Header) -> Result<(), Ended>
    where
        R: AsyncRead + Unpin,
    {
        let Header { kind, call, length } = header;
        match kind {
            Kind::Request => {
                let start = RequestStart::decode(reader.fixed().await?)?;
                if let Some(on_load) = &self.endpoint.inner.on_load {
                    on_load(self.peer.node_id, start.load);
                }
                self.request(reader, call, start, length - RequestStart::LENGTH).await
            }
            Kind::Data => {
                let incoming = self.incoming.remove(&call).ok_or(Malformed::Call(kind))?;
                self.extend(reader, call, incoming, length).await
            }
            Kind::Cancel => {
                if self.incoming.remove(&call).is_some() || self.shared.cancel(call) {
                    add(&self.endpoint.metrics().requests_cancelled, 1);
                }
                Ok(())
            }
            Kind::Received => {
                // Gone already if it crossed a cancel.
                let credit = self.shared.lock().sending.remove(&call);
                drop(credit);
                Ok(())
            }
            Kind::Ping => {
                self.shared.outbox.pong(reader.fixed().await?);
                Ok(())
            }
            Kind::Pong => reader.skip(length).await,
            Kind::Refusal => Err(Ended::RefusedByPeer(reader.reason(length).await?)),
            Kind::Hello | Kind::Response | Kind::Finished | Kind::Goodbye => {
                Err(Malformed::Place(kind).into())
            }
        }
    }

    /// The first frame of a request.
    async fn request<R>(
        &mut self,
        reader: &mut FrameReader<R>,
        call: u64,
        start: RequestStart,
        data: usize,
    ) -> Result<(), Ended>
    where
        R: AsyncRead + Unpin,
    {
        let deadline = Instant::now() + start.remaining.min(LONGEST);
        let (head, body) = (start.head as usize, start.body as usize);
        if self.limits.excess(head, body).is_some() {
            return Err(Malformed::MessageSize.into());
        }
        if self.incoming.contains_key(&call) || self.shared.lock().running.contains_key(&call) {
            return Err(Malformed::Call(Kind::Request).into());
        }
        // Never closed; and if it were, the connection would be at its end.
        let place = self.places.clone().acquire_owned().await.map_err(|_| Ended::Retired)?;
        let bulk = if head + body <= SMALL_MESSAGE {
            None
        } else {
            let credit = self.request_window.clone().try_acquire_many_owned(start.head + start.body);
            Some(credit.map_err(|_| Malformed::Window)?)
        };
        let permits = Permits { _slot: Some(place), bulk };
        let incoming = Incoming { start, deadline, message: Assembly::new(head, body), permits };
        self.extend(reader, call, incoming, data).await
    }

    async fn extend<R>(
        &mut self,
        reader: &mut FrameReader<R>,
        call: u64,
        mut incoming: Incoming,
        data: usize,
    ) -> Result<(), Ended>
    where
        R: AsyncRead + Unpin,
    {
        reader.data(&mut incoming.message, data).await?;
        if incoming.message.missing() == 0 {
            self.spawn(call, incoming);
        } else if incoming.permits.bulk.is_some() {
            self.incoming.insert(call, incoming);
        } else {
            // A small message is one frame.
            return Err(Malformed::FrameSize.into());
        }
        Ok(())
    }

    fn spawn(&mut self, call: u64, incoming: Incoming) {
        let metrics = self.endpoint.metrics();
        add(&metrics.requests, 1);
        let Incoming { start, deadline, message, permits } = incoming;
        let (head, body) = message.finish();
        let request = Request {
            method: start.method,
            head,
            body,
            deadline,
            trace_id: start.trace_id,
            one_way: start.one_way,
        };
        let answer = Answer {
            call,
            one_way: start.one_way,
            outcome: Outcome::Failed,
            shared: self.shared.clone(),
            metrics: metrics.clone(),
        };
        let work =
            handle(self.handler.clone(), self.peer.clone(), request, self.limits, answer, metrics.clone());
        while self.handlers.try_join_next().is_some() {}
        // Locked until the task is known, as it may end before.
        let mut calls = self.shared.lock();
        let abort = self.handlers.spawn(work);
        calls.running.insert(call, Running { abort, permits });
    }
}

/// One request's task.
async fn handle<H: Handler>(
    handler: Arc<H>,
    peer: PeerIdentity,
    request: Request,
    limits: Limits,
    mut answer: Answer,
    metrics: Arc<Metrics>,
) {
    let _gauge = GaugeGuard::new(metrics, |metrics| &metrics.requests_in_flight);
    let (deadline, trace_id) = (request.deadline, request.trace_id);
    let slots = answer.shared.running_slots.clone();
    let handled = timeout_at(deadline, async {
        let slot = slots.acquire_owned().await;
        let response = trace::scope(trace_id, handler.handle(peer, request)).await;
        drop(slot);
        response
    });
    let Ok(response) = handled.await else {
        answer.outcome = Outcome::Expired;
        return;
    };
    if answer.one_way {
        answer.outcome = Outcome::Handled;
    } else if let Some((what, size, limit)) = limits.excess(response.head.len(), response.body.len()) {
        tracing::error!(what, size, limit, "a handler's answer is too large");
    } else {
        answer.respond(response, deadline).await;
    }
}

/// Tells the peer, when dropped, how its request ended, unless a response was sent or the peer has cancelled. That
/// covers a handler that panics.
struct Answer {
    call: u64,
    one_way: bool,
    outcome: Outcome,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
}

impl Answer {
    async fn respond(&mut self, response: Response, deadline: Instant) {
        let size = response.head.len() + response.body.len();
        let credit = match u32::try_from(size) {
            Ok(long) if size > SMALL_MESSAGE => {
                let window = self.shared.response_window.clone();
                match timeout_at(deadline, window.acquire_many_owned(long)).await {
                    Ok(Ok(credit)) => Some(credit),
                    Ok(Err(_closed)) => return,
                    Err(_elapsed) => {
                        self.outcome = Outcome::Expired;
                        return;
                    }
                }
            }
            _ => None,
        };
        let start = Start::Response { status: response.status };
        let message = Outgoing::new(self.call, start, response.head, response.body);
        // Queued under the lock, so that a cancel finds it either running or sending.
        let mut calls = self.shared.lock();
        let Some(Running { permits, .. }) = calls.running.remove(&self.call) else { return };
        if let Some(credit) = credit {
            calls.sending.insert(self.call, credit);
        }
        let _ = self.shared.outbox.message(message, permits);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let running = self.shared.lock().running.remove(&self.call);
        let Some(Running { permits, .. }) = running else { return };
        match self.outcome {
            Outcome::Handled => {}
            Outcome::Failed => add(&self.metrics.requests_failed, 1),
            Outcome::Expired => add(&self.metrics.requests_expired, 1),
        }
        self.shared.outbox.finished(self.call, self.outcome, permits);
    }
}

impl Shared {
    /// Stops the handler, or what is still to be sent of a long response. False if it had ended before.
    fn cancel(&self, call: u64) -> bool {
        let (running, sending) = {
            let mut calls = self.lock();
            (calls.running.remove(&call), calls.sending.remove(&call))
        };
        if let Some(running) = &running {
            running.abort.abort();
        }
        if sending.is_some() {
            self.outbox.cancel_response(call);
        }
        running.is_some()
    }

    fn close(&self) {
        self.outbox.close();
        self.response_window.close();
        let calls = std::mem::take(&mut *self.lock());
        drop(calls);
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
