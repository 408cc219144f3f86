//! Listeners: accept, limit, wrap in TLS, run a session in a span of its own.

use super::{imap, pop3, smtp};
use crate::node::Node;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::Instrument;

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Smtp,
    Submission,
    Submissions,
    Lmtp,
    Imap,
    Imaps,
    Pop3,
    Pop3s,
}

impl Protocol {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Submission => "submission",
            Self::Submissions => "submissions",
            Self::Lmtp => "lmtp",
            Self::Imap => "imap",
            Self::Imaps => "imaps",
            Self::Pop3 => "pop3",
            Self::Pop3s => "pop3s",
        }
    }

    const fn implicit_tls(self) -> bool {
        matches!(self, Self::Submissions | Self::Imaps | Self::Pop3s)
    }

    /// What a client is told when there are too many connections.
    const fn busy(self) -> &'static [u8] {
        match self {
            Self::Smtp | Self::Submission | Self::Submissions | Self::Lmtp => {
                b"421 4.3.2 Too many connections, try again later\r\n"
            }
            Self::Imap | Self::Imaps => b"* BYE [UNAVAILABLE] Too many connections, try again later\r\n",
            Self::Pop3 | Self::Pop3s => b"-ERR [SYS/TEMP] Too many connections, try again later\r\n",
        }
    }
}

/// A client's connection, before or after STARTTLS.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Acknowledges the next bytes at once: a client that writes one command in two packets waits for it.
    pub fn acknowledge_at_once(&self) {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        // Only a matter of speed.
        let _ = stream.set_quickack(true);
    }

    /// TLS from here on. Nothing that was read before counts (RFC 3207 4.2): the caller drops its buffers.
    ///
    /// # Errors
    /// If the client's handshake fails or takes longer than 30 seconds.
    pub async fn upgrade(self, tls: &TlsAcceptor) -> io::Result<Self> {
        match self {
            Self::Plain(stream) => {
                let handshake = tokio::time::timeout(Duration::from_secs(30), tls.accept(stream));
                Ok(Self::Tls(Box::new(handshake.await??)))
            }
            tls => Ok(tls),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// What every session needs.
#[derive(Clone)]
pub struct SessionContext {
    pub node: Arc<Node>,
    pub tls: TlsAcceptor,
    pub protocol: Protocol,
    pub peer: SocketAddr,
    /// Joins this node's log lines with those of the nodes it asks: the trace id of the session's calls.
    pub session: u64,
    /// Turns true when the node stops or drains: sessions say goodbye.
    pub stopping: watch::Receiver<bool>,
}

impl SessionContext {
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.node.settings.limits.idle_seconds)
    }

    /// Resolves when the node stops.
    pub async fn stopped(&mut self) {
        // An error means that whoever could stop us is gone: that is a stop, too.
        let _ = self.stopping.wait_for(|stopping| *stopping).await;
    }
}

/// What turns true to end listeners and sessions.
pub struct Stop {
    /// The node stops.
    pub accepting: watch::Receiver<bool>,
    /// The node stops or drains; may turn false again.
    pub sessions: watch::Receiver<bool>,
}

/// Accepts until the node stops. `slots` bounds the connections of all listeners together.
pub async fn serve(
    node: Arc<Node>,
    listener: TcpListener,
    protocol: Protocol,
    tls: TlsAcceptor,
    slots: Arc<Semaphore>,
    stop: Stop,
) {
    let Stop { accepting: mut stopping, sessions } = stop;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: give sessions time to end.
                tracing::warn!(%error, listener = protocol.name(), "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            node.metrics.connections_refused.with_label_values(&[protocol.name()]).inc();
            tokio::spawn(refuse(stream, protocol));
            continue;
        };
        let session = rand::random::<u64>();
        let context = SessionContext {
            node: node.clone(),
            tls: tls.clone(),
            protocol,
            peer,
            session,
            stopping: sessions.clone(),
        };
        let span =
            tracing::info_span!("session", protocol = protocol.name(), id = format!("{session:016x}"), %peer);
        tokio::spawn(
            async move {
                let _slot = slot;
                let gauge = context.node.metrics.connections.with_label_values(&[protocol.name()]);
                gauge.inc();
                if let Err(error) = rpc::trace::scope(session, session_of(context, stream)).await {
                    tracing::debug!(%error, "connection ended");
                }
                gauge.dec();
            }
            .instrument(span),
        );
    }
}

async fn refuse(mut stream: TcpStream, protocol: Protocol) {
    if !protocol.implicit_tls() {
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.write_all(protocol.busy())).await;
    }
}

async fn session_of(context: SessionContext, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = Stream::Plain(stream);
    if context.protocol.implicit_tls() {
        stream = stream.upgrade(&context.tls).await?;
    }
    match context.protocol {
        Protocol::Imap | Protocol::Imaps => imap::session(context, stream).await,
        Protocol::Pop3 | Protocol::Pop3s => pop3::session(context, stream).await,
        Protocol::Smtp | Protocol::Submission | Protocol::Submissions | Protocol::Lmtp => {
            smtp::session(context, stream).await
        }
    }
}
