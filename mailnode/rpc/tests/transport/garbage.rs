//! Peers that prove who they are and then send garbage. The bytes are written here by hand, so that these tests
//! also hold the format fast.

use super::support::*;
use bytes::Bytes;
use rpc::{Error, Options, PeerAddress, Pool};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

const HELLO: u8 = 1;
const REQUEST: u8 = 3;
const RESPONSE: u8 = 4;
const DATA: u8 = 5;
const FINISHED: u8 = 6;
const CANCEL: u8 = 7;
const RECEIVED: u8 = 8;
const PING: u8 = 9;
const GOODBYE: u8 = 11;

fn chain_and_key(name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let made = certificate(&AUTHORITY, name);
    let chain = CertificateDer::pem_slice_iter(made.certificate_pem.as_bytes()).map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_slice(made.key_pem.as_bytes()).unwrap())
}

fn roots() -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(AUTHORITY.certificate_pem().as_bytes()).unwrap()).unwrap();
    roots
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn hello(name: &str) -> Vec<u8> {
    let mut bytes = b"PRKL\x00\x01\x04test".to_vec();
    bytes.push(name.len() as u8);
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&node_id(name).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1]);
    for limit in [4_u32 << 20, 64 << 20, 1024, 96 << 20] {
        bytes.extend_from_slice(&limit.to_be_bytes());
    }
    bytes
}

fn frame(kind: u8, call: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes().to_vec();
    bytes.push(kind);
    bytes.extend_from_slice(&call.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn request(call: u64, head: u32, body: u32, data: usize) -> Vec<u8> {
    let mut payload = vec![0, 0, ECHO as u8];
    for number in [10_000_000_u64, 0, 0] {
        payload.extend_from_slice(&number.to_be_bytes());
    }
    payload.extend_from_slice(&head.to_be_bytes());
    payload.extend_from_slice(&body.to_be_bytes());
    payload.resize(payload.len() + data, 7);
    frame(REQUEST, call, &payload)
}

fn response(call: u64, head: u32, body: u32, data: usize) -> Vec<u8> {
    let mut payload = vec![0; 10];
    payload.extend_from_slice(&head.to_be_bytes());
    payload.extend_from_slice(&body.to_be_bytes());
    payload.resize(payload.len() + data, 7);
    frame(RESPONSE, call, &payload)
}

static CLIENT: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let (chain, key) = chain_and_key("a");
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots())
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"prickle-rpc".to_vec()];
    Arc::new(config)
});

/// Connected as node "a", TLS done, nothing said.
async fn raw(address: SocketAddr) -> TlsStream<TcpStream> {
    let name = ServerName::try_from("b.node.prickle.internal").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(CLIENT.clone()).connect(name, stream).await.unwrap()
}

/// The same with hellos exchanged.
async fn raw_peer(address: SocketAddr) -> TlsStream<TcpStream> {
    let mut stream = raw(address).await;
    stream.write_all(&frame(HELLO, 0, &hello("a"))).await.unwrap();
    let (kind, _) = read_frame(&mut stream).await.unwrap();
    assert_eq!(kind, HELLO);
    stream
}

async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 13];
    stream.read_exact(&mut header).await?;
    let mut payload = vec![0; u32::from_be_bytes(header[..4].try_into().unwrap()) as usize];
    stream.read_exact(&mut payload).await?;
    Ok((header[4], payload))
}

/// True if the peer closes the connection, whatever it says before.
async fn is_closed<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> bool {
    let mut rest = Vec::new();
    timeout(LONG, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_written_by_hand_are_understood_and_answered() {
    let server = Server::start("b").await;
    let mut stream = raw_peer(server.address).await;
    // Half of a long one, then a short one.
    let bytes = [request(9, 0, 20_000, 10_000), request(10, 2, 3, 5)].concat();
    stream.write_all(&bytes).await.unwrap();
    let (kind, payload) = read_frame(&mut stream).await.unwrap();
    assert_eq!((kind, payload.len()), (RESPONSE, 18 + 5));
    stream.write_all(&frame(DATA, 9, &[7; 10_000])).await.unwrap();
    let (kind, payload) = read_frame(&mut stream).await.unwrap();
    assert_eq!((kind, payload.len()), (RESPONSE, 18 + 20_000));
    assert!(payload[18..].iter().all(|byte| *byte == 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_breach_of_the_protocol_closes_the_connection_and_is_counted() {
    let server = Server::start("b").await;
    let breaches = [
        ("unknown kind", frame(99, 1, &[])),
        ("empty data", frame(DATA, 1, &[])),
        ("data without request", frame(DATA, 1, &[1])),
        ("frame above the limit", frame(DATA, 1, &[0; 65_537])),
        ("request too short", frame(REQUEST, 1, &[0; 34])),
        ("unknown flag", frame(REQUEST, 1, &[2; 35])),
        ("head above the limit", request(1, (4 << 20) + 1, 0, 0)),
        ("body above the limit", request(1, 0, (64 << 20) + 1, 0)),
        ("length that overflows", request(1, u32::MAX, u32::MAX, 0)),
        ("more data than claimed", request(1, 1, 1, 3)),
        ("small request in two frames", request(1, 1, 1, 1)),
        ("call number twice", [request(1, 0, 20_000, 1), request(1, 0, 20_000, 1)].concat()),
        ("window exceeded", [request(1, 0, 64 << 20, 1), request(2, 0, 64 << 20, 1)].concat()),
        ("call number zero", request(0, 0, 0, 0)),
        ("ping with a call", frame(PING, 1, &[0; 8])),
        ("second hello", frame(HELLO, 0, &hello("a"))),
        ("response from a caller", response(1, 0, 0, 0)),
        ("goodbye from a caller", frame(GOODBYE, 0, &[])),
        ("finished from a caller", frame(FINISHED, 1, &[0; 9])),
    ];
    for (count, (what, bytes)) in breaches.iter().enumerate() {
        let mut stream = raw_peer(server.address).await;
        // It may hang up before it has all.
        let _ = stream.write_all(bytes).await;
        assert!(is_closed(&mut stream).await, "{what}");
        let errors = server.endpoint.metrics().snapshot().protocol_errors;
        assert_eq!(errors, count as u64 + 1, "{what}");
    }
    pool("a").peer(server.address()).call(ECHO, head(1), Bytes::new(), LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_hello_is_refused_with_a_reason() {
    let server = Server::start("b").await;
    let mut version = hello("a");
    version[5] = 9;
    for (bytes, reason) in [
        (frame(HELLO, 0, b"nonsense"), "hello not understood"),
        (frame(HELLO, 0, &version), "transport version 9"),
        (frame(HELLO, 0, &hello("c")), "does not prove"),
        (request(1, 0, 0, 0), "out of place"),
    ] {
        let mut stream = raw(server.address).await;
        stream.write_all(&bytes).await.unwrap();
        let (kind, payload) = read_frame(&mut stream).await.unwrap();
        let text = String::from_utf8(payload).unwrap();
        assert!(kind == 2 && text.contains(reason), "{text}");
        assert!(is_closed(&mut stream).await);
    }
}

struct Seed(u64);

impl Seed {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Valid frames with some bytes changed, cut out or put in.
    fn spoil(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.next() % 4 {
            let at = (self.next() as usize) % bytes.len();
            match self.next() % 4 {
                0 => bytes[at] = self.next() as u8,
                1 => bytes[at] ^= 1 << (self.next() % 8),
                2 => drop(bytes.drain(at..(at + 1 + self.next() as usize % 20).min(bytes.len()))),
                _ => bytes.insert(at, self.next() as u8),
            }
            if bytes.is_empty() {
                bytes.push(self.next() as u8);
            }
        }
        bytes
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_survives_spoiled_frames() {
    let server = Server::start("b").await;
    let valid = [
        request(1, 5, 10, 15),
        request(2, 0, 100_000, 60_000),
        frame(PING, 0, &[0; 8]),
        request(3, 0, 0, 0),
        frame(DATA, 2, &[7; 40_000]),
        frame(CANCEL, 1, &[]),
        frame(RECEIVED, 2, &[]),
    ]
    .concat();
    for seed in 1..=50_u64 {
        let mut seed = Seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut stream = raw_peer(server.address).await;
        let spoiled = seed.spoil(valid.clone());
        // It may close while we write.
        let _ = stream.write_all(&spoiled).await;
        let _ = stream.shutdown().await;
        assert!(is_closed(&mut stream).await);
    }
    let metrics = server.endpoint.metrics();
    assert!(metrics.snapshot().protocol_errors > 20);
    eventually("nothing is left", || {
        let now = metrics.snapshot();
        (now.connections, now.requests_in_flight) == (0, 0)
    })
    .await;
    pool("a").peer(server.address()).call(ECHO, head(1), Bytes::new(), LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_survives_bytes_that_are_not_tls() {
    let server = Server::start("b").await;
    let mut seed = Seed(77);
    for _ in 0..20 {
        let bytes: Vec<u8> = (0..200).map(|_| seed.next() as u8).collect();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        assert!(is_closed(&mut stream).await);
    }
    assert_eq!(server.endpoint.metrics().snapshot().connections_accepted, 0);
    pool("a").peer(server.address()).call(ECHO, head(1), Bytes::new(), LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_survives_spoiled_answers_and_never_waits_beyond_its_deadline() {
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots()), provider()).build();
    let (chain, key) = chain_and_key("b");
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"prickle-rpc".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let valid = [
            frame(PING, 0, &[0; 8]),
            response(1, 0, 100_000, 60_000),
            response(2, 1, 2, 3),
            frame(DATA, 1, &[7; 40_000]),
            frame(FINISHED, 3, &[0; 9]),
            frame(GOODBYE, 0, &[]),
        ]
        .concat();
        for seed in 1_u64.. {
            let mut seed = Seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            read_frame(&mut stream).await.unwrap();
            stream.write_all(&frame(HELLO, 0, &hello("b"))).await.unwrap();
            for _ in 0..3 {
                let _ = read_frame(&mut stream).await;
            }
            let _ = stream.write_all(&seed.spoil(valid.clone())).await;
            let _ = stream.shutdown().await;
        }
    });
    let pool = Pool::new(endpoint("a", Options::default()));
    let peer = pool.peer(PeerAddress { node_id: node_id("b"), name: "b".into(), address });
    let mut answered = 0;
    for _ in 0..40 {
        let deadline = Duration::from_secs(2);
        let call = || timeout(Duration::from_secs(3), peer.call(ECHO, Bytes::new(), Bytes::new(), deadline));
        let (first, second, third) = tokio::join!(call(), call(), call());
        for outcome in [first, second, third] {
            match outcome.unwrap() {
                Ok(_) => answered += 1,
                Err(error) => assert!(!matches!(error, Error::TooLarge { .. }), "{error}"),
            }
        }
    }
    server.abort();
    assert!(answered > 0);
    assert!(pool.endpoint().metrics().snapshot().protocol_errors > 3);
    assert_eq!(pool.endpoint().metrics().snapshot().calls_in_flight, 0);
}
