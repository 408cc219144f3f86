//! Builds responses over an [`Output`] with bounded memory: small pieces are gathered, bodies are passed on as they are.

use std::fmt;
use std::io;

use bytes::{BufMut, Bytes, BytesMut};

use crate::output::{FLUSH_AT, Output};

/// Chunks up to this size are copied between the others, because a chunk costs more than that.
const COPY_AT_MOST: usize = 1024;

pub(crate) struct Responses<'a, O> {
    output: &'a mut O,
    text: BytesMut,
    /// Bytes pushed since the last flush.
    pushed: usize,
}

impl<'a, O: Output> Responses<'a, O> {
    pub fn new(output: &'a mut O) -> Responses<'a, O> {
        Responses { output, text: BytesMut::new(), pushed: 0 }
    }

    /// Where text is written to.
    pub fn text(&mut self) -> &mut BytesMut {
        &mut self.text
    }

    /// One whole line.
    pub fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to memory cannot fail.
        let _ = fmt::Write::write_fmt(&mut self.text, line);
        self.text.put_slice(b"\r\n");
    }

    /// Bytes of a message, without a copy if they are many.
    pub fn bytes(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY_AT_MOST {
            self.text.put_slice(&bytes);
        } else {
            self.push();
            self.pushed += bytes.len();
            self.output.push(bytes);
        }
    }

    /// Hands what was gathered to the output.
    pub fn push(&mut self) {
        if !self.text.is_empty() {
            self.pushed += self.text.len();
            self.output.push(self.text.split().freeze());
        }
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        self.push();
        self.pushed = 0;
        // Also if nothing is new: what a pause held back was pushed by an earlier call.
        self.output.flush().await
    }

    /// To be called between responses: waits for the client once enough is queued.
    pub async fn flush_if_full(&mut self) -> io::Result<()> {
        if self.pushed + self.text.len() >= FLUSH_AT { self.flush().await } else { Ok(()) }
    }
}
