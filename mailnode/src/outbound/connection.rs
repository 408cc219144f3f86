//! A dialogue with a server on a socket: runs the session of `outbound::client`.

use bytes::{Bytes, BytesMut};
use outbound::client::{Config, Next, Session};
use outbound::{Outcome, Problem, Transaction};
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A host that does not answer within this is taken for dead.
const CONNECT: Duration = Duration::from_secs(30);
const HANDSHAKE: Duration = Duration::from_secs(60);
/// RFC 5321 4.5.3.2.5: a server that takes no data for so long is gone.
const WRITE: Duration = Duration::from_secs(180);
/// One message, however slowly a server answers.
const TRANSACTION: Duration = Duration::from_secs(3_600);
/// Room that a read finds.
const READ: usize = 4_096;

enum Wire {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// In the middle of a change, or after it failed.
    Gone,
}

pub struct Connection {
    wire: Wire,
    session: Session,
}

/// Why there is no connection.
pub enum NotOpened {
    /// The handshake failed: without TLS it may work.
    Handshake(Problem),
    Other(Problem),
}

impl Connection {
    /// Connects and goes on until messages can be sent. `name` is that of the host, for TLS.
    ///
    /// # Errors
    /// If this host cannot be used now.
    pub async fn open(
        address: SocketAddr,
        name: &str,
        tls: &TlsConnector,
        config: Config,
    ) -> Result<Self, NotOpened> {
        let connecting = timeout(CONNECT, TcpStream::connect(address)).await;
        let stream = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| {
            NotOpened::Other(Problem::temporary(4, 1, format!("no connection to {address}: {error}")))
        })?;
        // Commands are small, and each waits for its answer.
        let _ = stream.set_nodelay(true);
        let mut connection = Self { wire: Wire::Clear(stream), session: Session::new(config) };
        let opening = async {
            loop {
                match connection.session.proceed() {
                    Next::StartTls => connection.start_tls(name, tls).await?,
                    Next::Ready | Next::Done(_) => return Ok(()),
                    Next::Closed(problem) => return Err(NotOpened::Other(problem.unwrap_or_else(closed))),
                    step => connection.step(step).await,
                }
            }
        };
        timeout(TRANSACTION, opening).await.unwrap_or_else(|_| Err(NotOpened::Other(slow())))?;
        Ok(connection)
    }

    /// Sends one message. With the outcomes, why the connection cannot be used any more, if so.
    pub async fn send(&mut self, transaction: Transaction) -> (Vec<Outcome>, Option<Problem>) {
        let count = transaction.recipients.len();
        self.session.begin(transaction);
        let mut outcomes = None;
        let talking = async {
            loop {
                match self.session.proceed() {
                    Next::Done(done) => outcomes = Some(done),
                    Next::Ready => return None,
                    Next::Closed(problem) => return Some(problem.unwrap_or_else(closed)),
                    Next::StartTls => return Some(closed()),
                    step => self.step(step).await,
                }
            }
        };
        let ended = timeout(TRANSACTION, talking).await.unwrap_or_else(|_| Some(slow()));
        let unknown = || vec![Outcome::Failed(ended.clone().unwrap_or_else(closed)); count];
        (outcomes.unwrap_or_else(unknown), ended)
    }

    /// Says goodbye; nobody minds if it is not heard.
    pub async fn close(mut self) {
        self.session.quit();
        let goodbye = async {
            loop {
                match self.session.proceed() {
                    Next::Closed(_) | Next::Ready | Next::StartTls => return,
                    step => self.step(step).await,
                }
            }
        };
        let _ = timeout(Duration::from_secs(5), goodbye).await;
        if let Wire::Tls(stream) = &mut self.wire {
            let _ = timeout(Duration::from_secs(1), stream.shutdown()).await;
        }
    }

    /// Writes, and reads if that is what the session wants. An error is told to the session.
    async fn step(&mut self, step: Next) {
        let output = self.session.output();
        let outcome = match self.wire.write(output).await {
            Ok(()) => match step {
                Next::Read(within) => self.wire.read(self.session.buffer(), within).await,
                _ => Ok(()),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.session.broken(&format!("the connection broke: {error}"));
        }
    }

    async fn start_tls(&mut self, name: &str, tls: &TlsConnector) -> Result<(), NotOpened> {
        let failed = |error: &dyn std::fmt::Display| {
            NotOpened::Handshake(Problem::temporary(7, 5, format!("TLS could not be agreed on: {error}")))
        };
        let name = ServerName::try_from(name.to_owned()).map_err(|error| failed(&error))?;
        let Wire::Clear(stream) = std::mem::replace(&mut self.wire, Wire::Gone) else {
            return Err(failed(&"it began twice"));
        };
        let stream = timeout(HANDSHAKE, tls.connect(name, stream))
            .await
            .map_err(|_| failed(&"no answer"))?
            .map_err(|error| failed(&error))?;
        self.wire = Wire::Tls(Box::new(stream));
        self.session.tls_started();
        Ok(())
    }
}

impl Wire {
    async fn write(&mut self, output: Bytes) -> io::Result<()> {
        if output.is_empty() {
            return Ok(());
        }
        let writing = async {
            match self {
                Self::Clear(stream) => stream.write_all(&output).await,
                Self::Tls(stream) => {
                    stream.write_all(&output).await?;
                    stream.flush().await
                }
                Self::Gone => Err(io::ErrorKind::NotConnected.into()),
            }
        };
        timeout(WRITE, writing).await?
    }

    async fn read(&mut self, buffer: &mut BytesMut, within: Duration) -> io::Result<()> {
        buffer.reserve(READ);
        let reading = async {
            match self {
                Self::Clear(stream) => stream.read_buf(buffer).await,
                Self::Tls(stream) => stream.read_buf(buffer).await,
                Self::Gone => Err(io::ErrorKind::NotConnected.into()),
            }
        };
        match timeout(within, reading).await?? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn closed() -> Problem {
    Problem::temporary(4, 2, "the server ended the session")
}

fn slow() -> Problem {
    Problem::temporary(4, 2, "the server is too slow")
}
