//! From a TCP connection to an agreement: mutual TLS 1.3, then a hello each way, the caller's first.
//!
//! Who refuses says why in a Refusal frame, or in a TLS alert if it came to that, and leaves the peer a moment to
//! read it, because a reset would take it away (RFC 9293 section 3.10.4 discards what was not read).

use super::reader::printable;
use super::socket;
use crate::endpoint::EndpointInner;
use crate::metrics::add;
use crate::pki::{check_node_name, is_our_protocol, node_dns_name, proves_node};
use crate::pool::PeerAddress;
use crate::protocol::frame::{HEADER, Header, Kind, MAX_REASON, Malformed};
use crate::protocol::hello::{Agreement, Hello, HelloError, Refusal};
use rustls_pki_types::ServerName;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// How long and how many bytes a refused peer is listened to, so that it gets to read why.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 256 * 1024;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    Network(String),
    /// By one of the two sides.
    Refused(String),
    Malformed(Malformed),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => {
                Self::Refused(format!("the peer refuses our certificate or protocol: {alert:?}"))
            }
            Some(error) => Self::Refused(format!("TLS: {error}")),
            None => Self::Network(error.to_string()),
        }
    }
}

impl From<Malformed> for HandshakeError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network(reason) | Self::Refused(reason) => f.write_str(reason),
            Self::Malformed(error) => error.fmt(f),
        }
    }
}

/// As caller. The time limit is whoever calls this one's.
pub(crate) async fn connect(
    endpoint: &EndpointInner,
    wanted: &PeerAddress,
) -> Result<(client::TlsStream<TcpStream>, Agreement), HandshakeError> {
    let name = ServerName::try_from(node_dns_name(&wanted.name))
        .map_err(|_| HandshakeError::Refused(format!("{:?} is no node name", wanted.name)))?;
    let stream = TcpStream::connect(&wanted.address).await?;
    socket::tune(&stream);
    let mut stream = TlsConnector::from(endpoint.tls.client.clone()).connect(name, stream).await?;
    if !is_our_protocol(stream.get_ref().1.alpn_protocol()) {
        return Err(HandshakeError::Refused("the peer speaks another protocol".into()));
    }
    let ours = Hello::new(&endpoint.identity, &endpoint.options);
    send(&mut stream, Kind::Hello, &ours.encode()).await?;
    let judged = read_hello(&mut stream).await.and_then(|theirs| {
        let agreement = ours.agree(&theirs).map_err(refuse)?;
        let found = theirs.identity;
        if (found.node_id, &found.name) == (wanted.node_id, &wanted.name) {
            return Ok(agreement);
        }
        Err(refuse(Refusal::Other {
            wanted: wanted.name.clone(),
            wanted_id: wanted.node_id,
            found: found.name,
            found_id: found.node_id,
        }))
    });
    match judged {
        Ok(agreement) => Ok((stream, agreement)),
        Err(error) => Err(tell(stream, error).await),
    }
}

/// As server. The time limit is whoever calls this one's.
pub(crate) async fn accept(
    endpoint: &EndpointInner,
    stream: TcpStream,
) -> Result<(server::TlsStream<TcpStream>, Hello, Agreement), HandshakeError> {
    socket::tune(&stream);
    let accepted = TlsAcceptor::from(endpoint.tls.server.clone()).accept(stream).into_fallible().await;
    let mut stream = match accepted {
        Ok(stream) => stream,
        Err((error, stream)) => {
            linger(stream).await;
            return Err(error.into());
        }
    };
    let ours = Hello::new(&endpoint.identity, &endpoint.options);
    let judged = read_hello(&mut stream).await.and_then(|theirs| {
        let tls = stream.get_ref().1;
        let certificate = tls.peer_certificates().and_then(<[_]>::first);
        let name = &theirs.identity.name;
        let proved = check_node_name(name).is_ok() && certificate.is_some_and(|it| proves_node(it, name));
        if !proved || !is_our_protocol(tls.alpn_protocol()) {
            return Err(refuse(Refusal::Unproved(printable(name.as_bytes()))));
        }
        let agreement = ours.agree(&theirs).map_err(refuse)?;
        Ok((theirs, agreement))
    });
    match judged {
        Ok((theirs, agreement)) => {
            send(&mut stream, Kind::Hello, &ours.encode()).await?;
            Ok((stream, theirs, agreement))
        }
        Err(error) => Err(tell(stream, error).await),
    }
}

impl HandshakeError {
    pub(crate) fn count_incoming(&self, endpoint: &EndpointInner) {
        match self {
            Self::Refused(_) => add(&endpoint.metrics.refused_incoming, 1),
            Self::Malformed(_) => add(&endpoint.metrics.protocol_errors, 1),
            Self::Network(_) => {}
        }
    }
}

fn refuse(refusal: Refusal) -> HandshakeError {
    HandshakeError::Refused(refusal.to_string())
}

async fn read_hello<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Hello, HandshakeError> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await?;
    let header = Header::decode(header)?;
    // Checked before anything is allocated: a hello is small.
    if !matches!(header.kind, Kind::Hello | Kind::Refusal) {
        return Err(Malformed::Place(header.kind).into());
    }
    let mut payload = vec![0; header.length];
    stream.read_exact(&mut payload).await?;
    if header.kind == Kind::Refusal {
        return Err(HandshakeError::Refused(format!("the peer says: {}", printable(&payload))));
    }
    Hello::decode(&payload).map_err(|error| match error {
        HelloError::Malformed(error) => error.into(),
        HelloError::Refused(refusal) => refuse(refusal),
    })
}

/// Tells the peer why, unless the refusal was its own, and gives the error back.
async fn tell<S>(mut stream: S, error: HandshakeError) -> HandshakeError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let reason = match &error {
        HandshakeError::Refused(reason) => reason.clone(),
        HandshakeError::Malformed(malformed) => malformed.to_string(),
        HandshakeError::Network(_) => return error,
    };
    let end = (0..=MAX_REASON.min(reason.len())).rev().find(|&end| reason.is_char_boundary(end));
    let reason = reason.get(..end.unwrap_or_default()).unwrap_or_default();
    if send(&mut stream, Kind::Refusal, reason.as_bytes()).await.is_ok() {
        linger(stream).await;
    }
    error
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    Header { kind, call: 0, length: payload.len() }.encode(&mut frame);
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Closes our direction, and listens until the peer has closed its own.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let _ = tokio::time::timeout(LINGER, async {
        stream.shutdown().await?;
        let mut scratch = [0; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut scratch).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<_, io::Error>(())
    })
    .await;
}
