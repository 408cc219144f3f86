//! A cluster's CA, nodes of it, and a handler whose methods do what a test needs.

use bytes::Bytes;
use rpc::pki::{Authority, DEFAULT_VALIDITY, KeyAndCertificate, NodeNames, NodeTls};
use rpc::{
    Endpoint, Handler, Identity, LoadCallback, Options, Peer, PeerAddress, PeerIdentity, Pool, Request,
    Response,
};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const ECHO: u16 = 1;
/// Waits for the milliseconds that the head says, then answers.
pub const SLEEP: u16 = 2;
pub const PANIC: u16 = 3;
/// Answers with a body of as many bytes as the head says.
pub const BODY: u16 = 4;
/// Answers with trace id, `one_way`, milliseconds left, and who asks.
pub const ABOUT: u16 = 5;

pub const LONG: Duration = Duration::from_secs(30);

pub static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::generate("test", DEFAULT_VALIDITY).unwrap());

pub fn node_id(name: &str) -> u64 {
    name.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte))
}

pub fn certificate(authority: &Authority, name: &str) -> KeyAndCertificate {
    authority.issue_node(name, &NodeNames::default(), DEFAULT_VALIDITY).unwrap()
}

pub fn identity(name: &str) -> Identity {
    Identity { cluster: "test".into(), node_id: node_id(name), name: name.into(), incarnation: 1 }
}

pub fn node_tls(name: &str) -> NodeTls {
    NodeTls::from_pem(AUTHORITY.certificate_pem(), &certificate(&AUTHORITY, name)).unwrap()
}

pub fn endpoint(name: &str, options: Options) -> Endpoint {
    Endpoint::new(identity(name), node_tls(name), options).unwrap()
}

pub fn endpoint_with_load(name: &str, on_load: LoadCallback) -> Endpoint {
    Endpoint::with_load_callback(identity(name), node_tls(name), Options::default(), on_load).unwrap()
}

#[derive(Default)]
pub struct TestHandler {
    pub running: AtomicUsize,
    pub peak: AtomicUsize,
    pub handled: AtomicUsize,
    /// Futures dropped before they were ready.
    pub dropped: AtomicUsize,
}

struct Run<'a> {
    handler: &'a TestHandler,
    done: bool,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.handler.running.fetch_sub(1, SeqCst);
        let counter = if self.done { &self.handler.handled } else { &self.handler.dropped };
        counter.fetch_add(1, SeqCst);
    }
}

pub fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

pub fn head(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

impl Handler for TestHandler {
    async fn handle(&self, from: PeerIdentity, request: Request) -> Response {
        let running = self.running.fetch_add(1, SeqCst) + 1;
        self.peak.fetch_max(running, SeqCst);
        let mut run = Run { handler: self, done: false };
        let response = match request.method {
            ECHO => Response { status: 200, head: request.head, body: request.body },
            SLEEP => {
                tokio::time::sleep(Duration::from_millis(number(&request.head))).await;
                Response::default()
            }
            PANIC => panic!("as the test wants"),
            BODY => Response { body: vec![7; number(&request.head) as usize].into(), ..Response::default() },
            _ => {
                let left = request.deadline.saturating_duration_since(tokio::time::Instant::now());
                let text = format!(
                    "{}/{}/{}/{}/{}",
                    rpc::trace::current(),
                    request.one_way,
                    left.as_millis(),
                    from.name,
                    from.version
                );
                Response { head: text.into(), ..Response::default() }
            }
        };
        run.done = true;
        response
    }
}

pub struct Server {
    pub name: String,
    pub address: SocketAddr,
    pub handler: Arc<TestHandler>,
    pub endpoint: Endpoint,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start(name: &str) -> Self {
        Self::start_at(endpoint(name, Options::default()), "127.0.0.1:0").await
    }

    pub async fn start_with(name: &str, options: Options) -> Self {
        Self::start_at(endpoint(name, options), "127.0.0.1:0").await
    }

    pub async fn start_at(endpoint: Endpoint, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let handler = Arc::new(TestHandler::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let name = endpoint.identity().name.clone();
        let shutdown = async { drop(stopped.await) };
        let task = tokio::spawn(rpc::serve(listener, endpoint.clone(), handler.clone(), shutdown));
        Self { name, address, handler, endpoint, stop: Some(stop), task }
    }

    pub fn address(&self) -> PeerAddress {
        let node_id = self.endpoint.identity().node_id;
        PeerAddress { node_id, name: self.name.clone(), address: self.address.to_string() }
    }

    /// Says goodbye, and returns the task that ends when all is done.
    pub fn stop(mut self) -> JoinHandle<()> {
        self.stop.take().unwrap().send(()).unwrap();
        self.task
    }

    /// Closes all sockets without a word, as a killed process does.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub fn pool(name: &str) -> Pool {
    Pool::new(endpoint(name, Options::default()))
}

/// A server, and a client's peer for it.
pub async fn pair() -> (Server, Pool, Peer) {
    let server = Server::start("b").await;
    let pool = pool("a");
    let peer = pool.peer(server.address());
    (server, pool, peer)
}

/// Waits until something is true, for a bounded time.
pub async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    for _ in 0..400 {
        if is_true() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not so: {what}");
}

pub fn pattern(size: usize) -> Bytes {
    (0..size).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect::<Vec<_>>().into()
}
