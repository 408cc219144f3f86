//! STORE (RFC 9051 6.4.6) with UNCHANGEDSINCE (RFC 7162 3.1.3).

use crate::backend::{Account, StoreChange};
use crate::flags::Flags;
use crate::logged_in::{self, LoggedIn};
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::syntax::command::Store;
use crate::syntax::sequence::numbers_text;

pub(crate) async fn run<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    store: Store,
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    // RFC 7162 3.1.3: using it turns CONDSTORE on.
    user.enabled.condstore |= store.unchanged_since.is_some();
    let enabled = user.enabled;
    let (account, mailbox) = user.writable()?;
    let positions = mailbox.resolve(&store.set, store.uid).map_err(|_| Reply::bad("No such message"))?;
    let all = positions.iter().filter_map(|position| mailbox.messages().get(*position));
    let uids: Vec<u32> = all.map(|message| message.uid).filter(|uid| !mailbox.is_vanished(*uid)).collect();
    if uids.is_empty() {
        return Ok(outcome(!store.uid && !positions.is_empty(), None));
    }
    let stored = account.store(mailbox.folder, &uids, store.change.clone(), store.unchanged_since).await?;
    let missing = stored.changes.len() + stored.modified.len() < positions.len();

    let mut told = Vec::with_capacity(stored.changes.len());
    for (uid, flags, modseq) in stored.changes {
        if let Some((number, before)) = mailbox.stored(uid, flags, modseq) {
            told.push((number, before));
        }
    }
    if mailbox.take_new_keywords() {
        logged_in::flags(mailbox, out);
    }
    for (number, before) in told {
        let Some(message) = mailbox.message(number).cloned() else { continue };
        // A silent client knows the outcome of its own change, but not that of another's (RFC 9051 6.4.6).
        if !store.silent || expected(before, &store.change).as_ref() != Some(&message.flags) {
            logged_in::fetch_flags(number, &message, store.uid, enabled, out);
            mailbox.told(message.uid);
        } else if enabled.condstore {
            logged_in::fetch_modseq(number, &message, store.uid, enabled, out);
        }
        out.flush_if_full().await?;
    }
    let modified: Vec<u32> = match store.uid {
        true => stored.modified,
        false => stored.modified.iter().filter_map(|uid| mailbox.sequence(*uid)).collect(),
    };
    Ok(outcome(missing && !store.uid, (!modified.is_empty()).then_some(modified)))
}

fn outcome(missing: bool, modified: Option<Vec<u32>>) -> Reply {
    match (modified, missing) {
        (Some(modified), _) => Reply::ok("STORE completed, but not for all")
            .code(format!("MODIFIED {}", numbers_text(&modified))),
        (None, true) => Reply::expunge_issued(),
        (None, false) => Reply::ok("STORE completed"),
    }
}

/// What the client believes the flags are now.
fn expected(before: Flags, change: &StoreChange) -> Option<Flags> {
    let mut flags = before;
    match change {
        StoreChange::Add(added) => flags.union(added).ok()?,
        StoreChange::Remove(removed) => flags.subtract(removed),
        StoreChange::Replace(all) => flags = all.clone(),
    }
    Some(flags)
}
