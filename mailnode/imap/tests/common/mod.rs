//! What the tests share: the store, and a client's side of a session.
#![allow(dead_code)] // Each test file uses a part of it.

pub mod driver;
pub mod store;

use std::sync::Arc;
use std::time::Duration;

use imap::{Config, Next, Session};
use store::{MemoryBackend, Store};

/// A session without a socket.
pub struct Client {
    pub session: Session<MemoryBackend>,
    pub output: Vec<u8>,
    pub next: Next,
}

impl Client {
    pub fn new(store: &Arc<Store>, config: Config, tls: bool) -> Client {
        let backend = Arc::new(MemoryBackend(store.clone()));
        Client { session: Session::new(backend, Arc::new(config), tls), output: Vec::new(), next: Next::Read }
    }

    /// A client that has logged in, under TLS.
    pub async fn logged_in(store: &Arc<Store>) -> Client {
        Client::logged_in_with(store, Config::default()).await
    }

    pub async fn logged_in_with(store: &Arc<Store>, config: Config) -> Client {
        let mut client = Client::new(store, config, true);
        client.greet().await;
        assert!(client.send("l LOGIN joe secret\r\n").await.contains("l OK"));
        client
    }

    pub async fn greet(&mut self) -> String {
        self.session.greet(&mut self.output).await.unwrap();
        self.take()
    }

    /// Sends bytes as they are; returns everything the server says. Pauses are not waited for.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> String {
        self.feed(bytes.as_ref()).await;
        self.take()
    }

    pub async fn feed(&mut self, bytes: &[u8]) {
        self.session.wait().0.extend_from_slice(bytes);
        loop {
            self.next = self.session.process(&mut self.output).await.unwrap();
            match self.next {
                Next::Pause(time) => assert!(time <= Duration::from_secs(8)),
                Next::StartTls => self.session.tls_started(),
                Next::Read | Next::Close => return,
            }
        }
    }

    /// Waits up to a second for news, as an idling client's driver does.
    pub async fn wait_for_news(&mut self) -> String {
        let changed = self.session.wait().1;
        if tokio::time::timeout(Duration::from_secs(1), changed).await.is_ok() {
            self.next = self.session.notify(&mut self.output).await.unwrap();
        }
        self.take()
    }

    pub fn take(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.output)).into_owned()
    }
}
