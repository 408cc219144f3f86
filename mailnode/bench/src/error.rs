//! What can go wrong, said so that the person at the terminal knows what to change.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Change the option that the text names.
    #[error("{0}")]
    Option(String),
    /// The server cannot be reached, or the connection broke.
    #[error("{server}: {error}")]
    Network { server: String, error: io::Error },
    /// The server answered, but not as it must for the benchmark to go on.
    #[error("{server}: {what}")]
    Answer { server: String, what: String },
    /// The run ended, but its figures must not be used.
    #[error("not right: {0}")]
    Wrong(String),
}

impl BenchError {
    pub(crate) fn network(server: &str, error: io::Error) -> Self {
        Self::Network { server: server.to_owned(), error }
    }

    /// `answer` comes from the server: it is cut and made printable.
    pub(crate) fn answer(server: &str, what: &str, answer: &[u8]) -> Self {
        Self::Answer { server: server.to_owned(), what: format!("{what}: {}", printable(answer)) }
    }
}

/// At most 200 characters, without control characters.
pub(crate) fn printable(answer: &[u8]) -> String {
    let shown = answer.get(..200).unwrap_or(answer);
    String::from_utf8_lossy(shown).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_text_is_cut_and_cannot_move_the_cursor() {
        let text = printable(&[b"550 no\x1b[2J\r".as_slice(), &[b'x'; 500]].concat());
        assert!(text.starts_with("550 no [2J x"));
        assert_eq!(text.len(), 200);
    }
}
