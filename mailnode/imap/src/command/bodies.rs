//! Bodies, a few at a time: they come from other nodes, so several are asked for at once, but never more than fit in bounded
//! memory.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::backend::{Account, Error, Message};

/// The most bodies that are read at one time.
const AT_ONCE: usize = 16;
/// The most bytes of bodies that are read at one time, unless a single one is larger.
const BYTES_AT_ONCE: u64 = 4 * 1024 * 1024;

/// How many of the first `messages` to read together: at least one, unless there are none.
pub(crate) fn window<H>(messages: impl Iterator<Item = Arc<Message<H>>>) -> usize {
    let mut bytes = 0u64;
    let fits = messages.take(AT_ONCE).take_while(|message| {
        let first = bytes == 0;
        bytes = bytes.saturating_add(message.size.max(1));
        first || bytes <= BYTES_AT_ONCE
    });
    fits.count()
}

/// Reads the bodies of all `messages` at once; see [`window`].
pub(crate) async fn read<A: Account>(
    account: &A,
    messages: &[Arc<Message<A::Handle>>],
) -> Vec<Result<Bytes, Error>> {
    let mut questions = Vec::with_capacity(messages.len());
    for message in messages {
        questions.push(account.body(message));
    }
    join_all(questions).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Flags;

    #[test]
    fn a_window_is_bounded_by_count_and_by_bytes() {
        let of = |sizes: &[u64]| {
            let message = |size: &u64| {
                Arc::new(Message {
                    uid: 1,
                    flags: Flags::new(),
                    modseq: 1,
                    size: *size,
                    internal_date: 0,
                    handle: (),
                })
            };
            window(sizes.iter().map(message))
        };
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[10; 100]), AT_ONCE);
        assert_eq!(of(&[BYTES_AT_ONCE * 20, 1]), 1);
        assert_eq!(of(&[BYTES_AT_ONCE - 1, 1, 1]), 2);
    }
}
