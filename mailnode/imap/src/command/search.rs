//! SEARCH (RFC 9051 6.4.4, ESEARCH RFC 4731, SEARCHRES RFC 5182, MODSEQ RFC 7162 3.1.5).

use std::fmt::Write;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::bodies;
use crate::backend::{Account, Error, Message};
use crate::logged_in::LoggedIn;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::search::{Body, Query};
use crate::syntax::command::{ReturnOptions, Search, SearchKey};
use crate::syntax::sequence::numbers_text;
use crate::syntax::writer;

/// After this many messages other sessions get their turn.
const MESSAGES_WITHOUT_PAUSE: u32 = 256;

/// A message that was found.
#[derive(Clone, Copy, Debug)]
struct Found {
    number: u32,
    uid: u32,
    modseq: u64,
}

pub(crate) async fn run<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    tag: &str,
    search: Search,
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    let (account, mailbox) = user.selected()?;
    let save = search.options.is_some_and(|options| options.save);
    if search.unknown_charset {
        if save {
            mailbox.saved.clear();
        }
        return Err(Reply::no("BADCHARSET (US-ASCII UTF-8)", "Unknown charset").into());
    }
    let query = Query::new(&search.key, mailbox);
    let mut numbered: Vec<(u32, Arc<Message<A::Handle>>)> = Vec::new();
    let mut found: Vec<Found> = Vec::new();
    for (number, message) in (1u32..).zip(mailbox.messages()) {
        if number % MESSAGES_WITHOUT_PAUSE == 0 {
            yield_now().await;
        }
        if mailbox.is_vanished(message.uid) {
            continue;
        }
        match query.matches(number, message, None) {
            Some(true) => found.push(Found { number, uid: message.uid, modseq: message.modseq }),
            Some(false) => {}
            None => numbered.push((number, message.clone())),
        }
    }
    match read_undecided(account, &query, numbered, &mut found).await {
        Ok(()) => {}
        Err(error) => {
            // RFC 5182 2.1: a search that fails saves nothing.
            if save {
                mailbox.saved.clear();
            }
            // Part of a result would look like all of it.
            return Err(error.into());
        }
    }
    found.sort_unstable_by_key(|found| found.number);
    if save {
        mailbox.saved = saved(&found, search.options.unwrap_or_default());
    }
    // RFC 7162 3.1.5: the key turns CONDSTORE on and makes the answer tell the highest MODSEQ.
    let modseq = asks_modseq(&search.key);
    user.enabled.condstore |= modseq;
    answer(tag, &search, &found, modseq, user.enabled.rev2, out);
    Ok(Reply::ok("SEARCH completed"))
}

/// Decides what could not be decided without the body.
async fn read_undecided<A: Account>(
    account: &A,
    query: &Query,
    undecided: Vec<(u32, Arc<Message<A::Handle>>)>,
    found: &mut Vec<Found>,
) -> Result<(), Error> {
    let mut rest = undecided.as_slice();
    while !rest.is_empty() {
        let size = bodies::window(rest.iter().map(|(_, message)| message.clone()));
        let (now, later) = rest.split_at(size.clamp(1, rest.len()));
        rest = later;
        let messages: Vec<Arc<Message<A::Handle>>> = now.iter().map(|(_, message)| message.clone()).collect();
        for ((number, message), body) in now.iter().zip(bodies::read(account, &messages).await) {
            let mut body = match body {
                Ok(body) => Body::new(body),
                // Gone; the client will be told.
                Err(Error::NotFound) => continue,
                Err(error) => return Err(error),
            };
            if query.matches(*number, message, Some(&mut body)) == Some(true) {
                found.push(Found { number: *number, uid: message.uid, modseq: message.modseq });
            }
            yield_now().await;
        }
    }
    Ok(())
}

/// Lets the executor run something else.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What `$` means from here on (RFC 5182 2.4): with MIN or MAX and neither ALL nor COUNT only those.
fn saved(found: &[Found], options: ReturnOptions) -> Vec<u32> {
    if (options.min || options.max) && !options.all && !options.count {
        let min = found.first().filter(|_| options.min);
        let max = found.last().filter(|_| options.max);
        let mut uids: Vec<u32> = min.into_iter().chain(max).map(|found| found.uid).collect();
        uids.dedup();
        uids
    } else {
        found.iter().map(|found| found.uid).collect()
    }
}

fn asks_modseq(key: &SearchKey) -> bool {
    match key {
        SearchKey::ModSeq(_) => true,
        SearchKey::And(keys) => keys.iter().any(asks_modseq),
        SearchKey::Or(one, other) => asks_modseq(one) || asks_modseq(other),
        SearchKey::Not(key) => asks_modseq(key),
        _ => false,
    }
}

fn answer<O: Output>(
    tag: &str,
    search: &Search,
    found: &[Found],
    modseq: bool,
    rev2: bool,
    out: &mut Responses<'_, O>,
) {
    let number = |found: &Found| if search.uid { found.uid } else { found.number };
    let mut line = String::new();
    // Writing to memory cannot fail.
    let options = match search.options {
        None if !rev2 => {
            for found in found {
                let _ = write!(line, " {}", number(found));
            }
            if let (true, Some(highest)) = (modseq, highest(found)) {
                let _ = write!(line, " (MODSEQ {highest})");
            }
            out.line(format_args!("* SEARCH{line}"));
            return;
        }
        // RFC 9051 6.4.4: in IMAP4rev2 a plain SEARCH is one with RETURN (ALL).
        None => ReturnOptions { all: true, ..ReturnOptions::default() },
        Some(options) => options,
    };
    if !(options.min || options.max || options.all || options.count) {
        // RETURN (SAVE) alone has no answer (RFC 5182 2.1).
        return;
    }
    if search.uid {
        line.push_str(" UID");
    }
    if let (true, Some(first)) = (options.min, found.first()) {
        let _ = write!(line, " MIN {}", number(first));
    }
    if let (true, Some(last)) = (options.max, found.last()) {
        let _ = write!(line, " MAX {}", number(last));
    }
    if options.all && !found.is_empty() {
        let numbers: Vec<u32> = found.iter().map(number).collect();
        let _ = write!(line, " ALL {}", numbers_text(&numbers));
    }
    if options.count {
        let _ = write!(line, " COUNT {}", found.len());
    }
    // RFC 7162 3.1.10: of the messages that are named, if those are MIN and MAX only.
    let highest = match (options.all || options.count, found) {
        (false, [first, .., last]) => {
            let named = [options.min.then_some(first.modseq), options.max.then_some(last.modseq)];
            named.into_iter().flatten().max()
        }
        _ => highest(found),
    };
    if let (true, Some(highest)) = (modseq, highest) {
        let _ = write!(line, " MODSEQ {highest}");
    }
    out.text().extend_from_slice(b"* ESEARCH (TAG ");
    writer::string(out.text(), tag.as_bytes(), false);
    out.line(format_args!("){line}"));
}

fn highest(found: &[Found]) -> Option<u64> {
    found.iter().map(|found| found.modseq).max()
}
