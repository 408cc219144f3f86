//! Connections: TCP, or TLS on it, blocking, with time-outs everywhere and bounded lines.

use crate::error::BenchError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(5);
/// A server that is silent for longer is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest line of an answer.
const LINE: u64 = 16 * 1024;

#[derive(Clone)]
pub(crate) enum Security {
    Plain,
    Tls(Arc<ClientConfig>),
}

impl Security {
    /// TLS with servers whose certificates this CA has signed.
    pub(crate) fn tls(ca: &Path) -> Result<Self, BenchError> {
        let wrong = |error: &dyn std::fmt::Display| {
            BenchError::Option(format!("--imap-ca {}: {error}", ca.display()))
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| wrong(&error))? {
            roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"no certificate in it"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::Tls(Arc::new(config)))
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

pub(crate) struct Connection {
    reader: BufReader<Stream>,
    pub server: String,
    line: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(server: &str, security: &Security) -> Result<Self, BenchError> {
        let failed = |error| BenchError::network(server, error);
        let none = || io::Error::new(io::ErrorKind::NotFound, "no such host");
        let address = server.to_socket_addrs().map_err(failed)?.next().ok_or_else(none).map_err(failed)?;
        let stream = TcpStream::connect_timeout(&address, CONNECT).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(SILENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(SILENCE)).map_err(failed)?;
        let stream = match security {
            Security::Plain => Stream::Plain(stream),
            Security::Tls(config) => {
                let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                    .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
                let tls = ClientConnection::new(Arc::clone(config), name)
                    .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
                Stream::Tls(Box::new(StreamOwned::new(tls, stream)))
            }
        };
        Ok(Self {
            reader: BufReader::with_capacity(16 * 1024, stream),
            server: server.to_owned(),
            line: Vec::new(),
        })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), BenchError> {
        let stream = self.reader.get_mut();
        let sent = stream.write_all(bytes).and_then(|()| stream.flush());
        sent.map_err(|error| BenchError::network(&self.server, error))
    }

    /// The next line, without its end.
    pub(crate) fn line(&mut self) -> Result<&[u8], BenchError> {
        self.line.clear();
        let read = (&mut self.reader).take(LINE).read_until(b'\n', &mut self.line);
        read.map_err(|error| BenchError::network(&self.server, error))?;
        if self.line.pop() != Some(b'\n') {
            let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "closed, or a line without end");
            return Err(BenchError::network(&self.server, closed));
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        Ok(&self.line)
    }

    /// Exactly so many bytes, into the emptied buffer; those beyond `limit` are read and dropped.
    pub(crate) fn bytes(&mut self, count: u64, limit: u64, out: &mut Vec<u8>) -> Result<(), BenchError> {
        out.clear();
        let kept = (&mut self.reader).take(count.min(limit)).read_to_end(out);
        let dropped = io::copy(&mut (&mut self.reader).take(count.saturating_sub(limit)), &mut io::sink());
        let read = kept.and_then(|kept| dropped.map(|dropped| kept as u64 + dropped));
        match read.map_err(|error| BenchError::network(&self.server, error))? {
            read if read == count => Ok(()),
            _ => Err(BenchError::network(&self.server, io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answered_with(bytes: Vec<u8>) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The client may be gone before all is sent.
            let _ = stream.write_all(&bytes);
        });
        Connection::open(&server, &Security::Plain).unwrap()
    }

    #[test]
    fn lines_and_counted_bytes_are_told_apart() {
        let mut connection = answered_with(b"* 1 {6}\r\na\r\nb\r\n)\r\n".to_vec());
        assert_eq!(connection.line().unwrap(), b"* 1 {6}");
        let mut out = Vec::new();
        connection.bytes(6, 4, &mut out).unwrap();
        assert_eq!(out, b"a\r\nb");
        assert_eq!(connection.line().unwrap(), b")");
        assert!(matches!(connection.line(), Err(BenchError::Network { .. })));
    }

    #[test]
    fn a_line_without_end_costs_bounded_memory() {
        let mut connection = answered_with(vec![b'x'; 1 << 20]);
        assert!(connection.line().is_err());
        assert!(connection.line.len() <= usize::try_from(LINE).unwrap());
    }
}
