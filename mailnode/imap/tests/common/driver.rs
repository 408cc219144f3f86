//! Drives a session over a stream exactly as the crate's documentation says a node does.

use std::io;

use bytes::Bytes;
use imap::backend::Backend;
use imap::{Next, Output, Session};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Writes what was pushed, and remembers how much ever waited.
pub struct Socket<W> {
    pub writer: W,
    pub queue: Vec<Bytes>,
    pub most_waiting: usize,
}

impl<W: AsyncWrite + Unpin + Send> Output for Socket<W> {
    fn push(&mut self, bytes: Bytes) {
        self.queue.push(bytes);
        self.most_waiting = self.most_waiting.max(self.queue.iter().map(Bytes::len).sum());
    }

    async fn flush(&mut self) -> io::Result<()> {
        for bytes in self.queue.drain(..) {
            self.writer.write_all(&bytes).await?;
        }
        self.writer.flush().await
    }
}

/// Runs the session to its end; returns the most bytes that ever waited to be written.
pub async fn drive<B: Backend>(
    mut session: Session<B>,
    mut reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin + Send,
) -> io::Result<usize> {
    let mut output = Socket { writer, queue: Vec::new(), most_waiting: 0 };
    session.greet(&mut output).await?;
    loop {
        match session.process(&mut output).await? {
            Next::Read => {}
            Next::Pause(time) => {
                tokio::time::sleep(time).await;
                continue;
            }
            Next::StartTls => unreachable!("these sessions are under TLS from their start"),
            Next::Close => break,
        }
        let patience = session.patience();
        let (input, changed) = session.wait();
        tokio::select! {
            read = tokio::time::timeout(patience, reader.read_buf(input)) => match read {
                Err(_) => {
                    session.timed_out(&mut output).await?;
                    break;
                }
                Ok(read) => {
                    if read? == 0 {
                        break;
                    }
                }
            },
            () = changed => {
                if session.notify(&mut output).await? == Next::Close {
                    break;
                }
            }
        }
    }
    output.flush().await?;
    Ok(output.most_waiting)
}
