//! Replies of servers (RFC 5321 4.2), out of whatever bytes come: a line and a reply have a greatest length, so that
//! a hostile server costs little memory.

use bytes::BytesMut;

/// RFC 5321 4.5.3.1.5 says 512; some servers say more.
const LINE: usize = 4_096;
const LINES: usize = 200;
/// Of the text that is kept.
const TEXT: usize = 1_000;

/// One reply, its lines put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// All lines, printable, cut off.
    pub text: String,
    /// Each line's text; those of EHLO are keywords.
    pub lines: Vec<String>,
}

impl Reply {
    pub const fn is_positive(&self) -> bool {
        matches!(self.code, 200..300)
    }
}

/// What comes is no SMTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("a line that is no reply")]
    Malformed,
    #[error("a reply without end")]
    TooLong,
}

#[derive(Debug, Default)]
pub struct Replies {
    buffer: BytesMut,
    /// The lines of a reply that goes on.
    partial: Vec<(u16, String)>,
}

impl Replies {
    /// Where to read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    pub fn clear(&mut self) {
        self.buffer.clear();
        self.partial.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.partial.is_empty()
    }

    /// The next reply, if all of it is there.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub fn next(&mut self) -> Result<Option<Reply>, ReplyError> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.buffer) else {
                return if self.buffer.len() > LINE { Err(ReplyError::TooLong) } else { Ok(None) };
            };
            if end > LINE || self.partial.len() >= LINES {
                return Err(ReplyError::TooLong);
            }
            let line = self.buffer.split_to(end + 1);
            let (code, last, text) = parse(&line)?;
            if self.partial.first().is_some_and(|(first, _)| *first != code) {
                // RFC 5321 4.2.1: all lines of a reply have one code.
                return Err(ReplyError::Malformed);
            }
            self.partial.push((code, text));
            if last {
                let lines: Vec<String> =
                    std::mem::take(&mut self.partial).into_iter().map(|(_, text)| text).collect();
                return Ok(Some(Reply { code, text: joined(&lines), lines }));
            }
        }
    }
}

/// Code, whether it is the last line, text.
fn parse(line: &[u8]) -> Result<(u16, bool, String), ReplyError> {
    let line = line.trim_ascii_end();
    let (code, rest) = line.split_at_checked(3).ok_or(ReplyError::Malformed)?;
    let code = std::str::from_utf8(code).ok().filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
    let code = code.and_then(|code| code.parse().ok()).filter(|code| (200..600).contains(code));
    let code = code.ok_or(ReplyError::Malformed)?;
    let (last, text) = match rest.split_first() {
        None => (true, &[][..]),
        Some((b' ', text)) => (true, text),
        Some((b'-', text)) => (false, text),
        Some(_) => return Err(ReplyError::Malformed),
    };
    Ok((code, last, printable(text)))
}

/// Nothing of it can end a line in a header, a log or a terminal.
fn printable(text: &[u8]) -> String {
    text.iter().map(|&byte| if (b' '..=b'~').contains(&byte) { byte as char } else { '?' }).collect()
}

/// One text of several lines. Each line may begin with the same status (RFC 2034 4), which is said once.
fn joined(lines: &[String]) -> String {
    let mut text = String::new();
    let status = lines.first().and_then(|line| {
        let word = line.split(' ').next()?;
        crate::problem::Status::parse(word).map(|_| word)
    });
    for (index, line) in lines.iter().enumerate() {
        let rest = match status {
            Some(status) if index > 0 => line.strip_prefix(status).unwrap_or(line).trim_start(),
            _ => line,
        };
        if index > 0 && !rest.is_empty() {
            text.push(' ');
        }
        text.push_str(rest);
    }
    // Printable, so ASCII: every position is a character's.
    text.truncate(TEXT);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Reply>, ReplyError> {
        let mut replies = Replies::default();
        replies.buffer().extend_from_slice(bytes);
        let mut read = Vec::new();
        while let Some(reply) = replies.next()? {
            read.push(reply);
        }
        Ok(read)
    }

    #[test]
    fn lines_become_replies() {
        let read = read(b"220 a ready\r\n250-a\r\n250-SIZE 1\r\n250 PIPELINING\n550-5.1.1 no\r\n550 5.1.1 user\r\n354\r\n25");
        let read = read.unwrap();
        assert_eq!(read.iter().map(|reply| reply.code).collect::<Vec<_>>(), [220, 250, 550, 354]);
        assert_eq!(read[1].lines, ["a", "SIZE 1", "PIPELINING"]);
        assert_eq!(read[2].text, "5.1.1 no user");
        assert_eq!(read[3].text, "");
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in [
            &b"hello\r\n"[..],
            b"\r\n",
            b"25\r\n",
            b"199 x\r\n",
            b"600 x\r\n",
            b"250x\r\n",
            b"250-a\r\n251 b\r\n",
            b"\xff\xff\xff a\r\n",
        ] {
            assert_eq!(read(bytes), Err(ReplyError::Malformed), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn endless_lines_and_replies_are_given_up() {
        assert_eq!(read(&[b'2'; LINE + 1]), Err(ReplyError::TooLong));
        assert_eq!(
            read(&[b"250 ".to_vec(), vec![b'x'; LINE], b"\r\n".to_vec()].concat()),
            Err(ReplyError::TooLong)
        );
        assert_eq!(read(&b"250-x\r\n".repeat(LINES + 1)), Err(ReplyError::TooLong));
    }

    #[test]
    fn what_a_server_says_cannot_break_a_line() {
        let read = read(b"550 a\rb\x1b[0m\xc3\xa4\x00\r\n").unwrap();
        assert_eq!(read[0].text, "a?b?[0m????"[..10].to_owned());
    }
}
