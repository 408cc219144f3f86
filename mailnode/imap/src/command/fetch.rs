//! FETCH (RFC 9051 6.4.5) with CHANGEDSINCE and VANISHED (RFC 7162 3.1.4, 3.2.6).
//!
//! Messages are answered one after another, and a window of bodies is all that is in memory (see [`super::bodies`]). A message
//! whose body cannot be read is left out, the others are answered, and the command ends with NO: nothing is ever made up.

use std::sync::Arc;

use super::bodies;
use super::fetch_item::{self, Style};
use super::select;
use crate::backend::{Account, Error, Message, StoreChange};
use crate::flags::{Flags, SystemFlag};
use crate::logged_in::{self, LoggedIn};
use crate::message::section::Parsed;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::syntax::command::{Attribute, Fetch};

pub(crate) async fn run<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    fetch: Fetch,
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    // RFC 7162 3.2.6: VANISHED is for UID FETCH with CHANGEDSINCE.
    if fetch.vanished && (!user.enabled.qresync || !fetch.uid || fetch.changed_since.is_none()) {
        return Err(Reply::bad("VANISHED needs QRESYNC, UID FETCH and CHANGEDSINCE").into());
    }
    // RFC 7162 3.1: asking for MODSEQ turns CONDSTORE on.
    user.enabled.condstore |= fetch.changed_since.is_some() || fetch.attributes.contains(&Attribute::ModSeq);
    let enabled = user.enabled;
    let (account, mailbox) = user.selected()?;
    let told = match fetch.changed_since {
        Some(modseq) => Some(account.certainly_told(mailbox.folder, modseq).await?),
        None => None,
    };
    let mut positions = mailbox.resolve(&fetch.set, fetch.uid).map_err(|_| Reply::bad("No such message"))?;
    if let Some(modseq) = told {
        positions.retain(|position| {
            mailbox.messages().get(*position).is_some_and(|message| message.modseq > modseq)
        });
        if let (true, Some(ranges)) = (fetch.vanished, fetch.set.resolve(mailbox.uid_next.saturating_sub(1)))
        {
            select::vanished_earlier(mailbox, &ranges, out);
        }
    }
    let style = Style::new(&fetch, enabled);
    if fetch.attributes.iter().any(fetch_item::needs_body) {
        return with_bodies(user, &fetch, style, &positions, out).await;
    }
    for position in positions {
        let number = position as u32 + 1;
        let Some(message) = mailbox.message(number) else { continue };
        let uid = message.uid;
        fetch_item::write(number, message, None, &fetch.attributes, style, out).await?;
        if style.flags {
            mailbox.told(uid);
        }
        out.flush_if_full().await?;
    }
    Ok(Reply::ok("FETCH completed"))
}

/// Why messages were left out; the worst is told.
#[derive(Default)]
struct Failures {
    unavailable: Option<String>,
    locked: Option<Error>,
    unknown_encoding: bool,
    gone: Vec<u32>,
}

async fn with_bodies<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    fetch: &Fetch,
    style: Style,
    positions: &[usize],
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    let mut failures = Failures::default();
    let mut rest = positions;
    while !rest.is_empty() {
        let (account, mailbox) = user.selected()?;
        let at = |position: &usize| mailbox.messages().get(*position).cloned();
        let (now, later) = rest.split_at(bodies::window(rest.iter().filter_map(at)).clamp(1, rest.len()));
        rest = later;
        let messages: Vec<Arc<Message<A::Handle>>> = now.iter().filter_map(at).collect();
        let read = bodies::read(account, &messages).await;
        let mut answers = Vec::with_capacity(messages.len());
        for (message, body) in messages.into_iter().zip(read) {
            match body {
                Ok(body) => {
                    let mut parsed = Parsed::new(body);
                    if fetch.attributes.iter().any(|item| fetch_item::has_unknown_encoding(item, &mut parsed))
                    {
                        failures.unknown_encoding = true;
                    } else {
                        answers.push((message.uid, parsed));
                    }
                }
                Err(Error::NotFound) => failures.gone.push(message.uid),
                Err(error @ Error::Locked(_)) => failures.locked = Some(error),
                Err(error) => {
                    tracing::info!(uid = message.uid, %error, "body cannot be read now");
                    failures.unavailable = Some(error.to_string());
                }
            }
        }
        let seen = match fetch.attributes.iter().any(fetch_item::sets_seen) {
            true => set_seen(user, answers.iter().map(|(uid, _)| *uid), out).await?,
            false => Vec::new(),
        };
        let (_, mailbox) = user.selected()?;
        for (uid, mut parsed) in answers {
            // The message as it is after \Seen was set.
            let Some(number) = mailbox.sequence(uid) else { continue };
            let Some(message) = mailbox.message(number) else { continue };
            let style = Style { flags: style.flags || seen.contains(&uid), ..style };
            fetch_item::write(number, message, Some(&mut parsed), &fetch.attributes, style, out).await?;
            if style.flags {
                mailbox.told(uid);
            }
            out.flush_if_full().await?;
        }
    }
    reply(user, fetch, failures).await
}

/// Sets `\Seen` (RFC 9051 6.4.5, BODY[...]) on messages that are about to be shown, and returns the UIDs for which that changed
/// something. The client gets its messages even if that cannot be done now.
async fn set_seen<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    shown: impl Iterator<Item = u32>,
    out: &mut Responses<'_, O>,
) -> Result<Vec<u32>, Stop> {
    let (account, mailbox) = user.selected()?;
    let unseen = |uid: &u32| {
        let message = mailbox.sequence(*uid).and_then(|number| mailbox.message(number));
        message.is_some_and(|message| !message.flags.contains(SystemFlag::Seen))
    };
    let uids: Vec<u32> = shown.filter(unseen).collect();
    if mailbox.read_only || uids.is_empty() {
        return Ok(Vec::new());
    }
    let change = StoreChange::Add(Flags::new().with(SystemFlag::Seen));
    let mut seen = Vec::with_capacity(uids.len());
    match account.store(mailbox.folder, &uids, change, None).await {
        Ok(stored) => {
            for (uid, flags, modseq) in stored.changes {
                if mailbox.stored(uid, flags, modseq).is_some() {
                    seen.push(uid);
                }
            }
        }
        Err(error) => tracing::info!(%error, "cannot set \\Seen now"),
    }
    if mailbox.take_new_keywords() {
        logged_in::flags(mailbox, out);
    }
    Ok(seen)
}

async fn reply<A: Account>(user: &mut LoggedIn<A>, fetch: &Fetch, failures: Failures) -> Result<Reply, Stop> {
    if let Some(text) = failures.unavailable {
        return Err(Reply::no("UNAVAILABLE", text).into());
    }
    if let Some(error) = failures.locked {
        return Err(error.into());
    }
    if failures.unknown_encoding {
        return Err(Reply::no("UNKNOWN-CTE", "Unknown content transfer encoding").into());
    }
    if failures.gone.is_empty() {
        return Ok(Reply::ok("FETCH completed"));
    }
    // Without a body, but still in the folder: that is for the backend to mend.
    if user.sync().await.is_ok() {
        let (_, mailbox) = user.selected()?;
        let present = |uid: &u32| mailbox.sequence(*uid).is_some() && !mailbox.is_vanished(*uid);
        if failures.gone.iter().any(present) {
            return Err(Reply::no("UNAVAILABLE", "Some of the messages cannot be read now").into());
        }
    }
    // A UID that is gone is silently left out (RFC 9051 6.4.9), a sequence number is not.
    if fetch.uid { Ok(Reply::ok("FETCH completed")) } else { Err(Reply::expunge_issued().into()) }
}
