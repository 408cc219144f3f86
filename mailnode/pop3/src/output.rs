//! Replies that wait to be written: text, and pieces of messages as they are.

use bytes::{Bytes, BytesMut};

/// Pieces smaller than this are copied together: a system call or a TLS record for each would cost more.
const SMALL: usize = 4 * 1024;
/// Text that may wait.
const TEXT: usize = 64 * 1024;
/// Pieces that may wait.
const PIECES: usize = 32;

#[derive(Debug, Default)]
pub struct Output {
    text: BytesMut,
    pieces: Vec<Bytes>,
}

impl Output {
    /// Where to write text to.
    pub fn text(&mut self) -> &mut BytesMut {
        &mut self.text
    }

    pub fn piece(&mut self, piece: Bytes) {
        if piece.len() < SMALL {
            self.text.extend_from_slice(&piece);
        } else {
            self.seal();
            self.pieces.push(piece);
        }
    }

    pub fn is_full(&self) -> bool {
        self.text.len() >= TEXT || self.pieces.len() >= PIECES
    }

    pub fn take(&mut self) -> Vec<Bytes> {
        self.seal();
        std::mem::take(&mut self.pieces)
    }

    fn seal(&mut self) {
        if !self.text.is_empty() {
            self.pieces.push(self.text.split().freeze());
        }
    }
}
