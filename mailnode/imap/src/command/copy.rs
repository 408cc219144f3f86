//! COPY and MOVE (RFC 9051 6.4.7, 6.4.8; RFC 4315 for COPYUID).

use super::folders;
use crate::backend::{Account, Copied, Error};
use crate::logged_in::LoggedIn;
use crate::mailbox::Mailbox;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::syntax::command::MailboxName;
use crate::syntax::sequence::{SequenceSet, numbers_text};

pub(crate) async fn copy<A: Account>(
    user: &mut LoggedIn<A>,
    uid: bool,
    set: &SequenceSet,
    target: MailboxName,
) -> Result<Reply, Stop> {
    let (account, mailbox) = user.selected()?;
    let uids = uids(mailbox, uid, set)?;
    let target = folders::find(account, target).await?.ok_or_else(Reply::try_create)?;
    if uids.is_empty() {
        return Ok(Reply::ok("COPY completed, there was nothing to copy"));
    }
    let copied = with_target(account.copy(mailbox.folder, &uids, target.id).await)?;
    let reply = Reply::ok("COPY completed");
    Ok(match copy_uid(&copied) {
        Some(code) => reply.code(code),
        None => reply,
    })
}

pub(crate) async fn move_messages<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    uid: bool,
    set: &SequenceSet,
    target: MailboxName,
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    let (account, mailbox) = user.writable()?;
    let uids = uids(mailbox, uid, set)?;
    let target = folders::find(account, target).await?.ok_or_else(Reply::try_create)?;
    if !uids.is_empty() {
        let moved = with_target(account.move_messages(mailbox.folder, &uids, target.id).await)?;
        // RFC 6851 4.3: before the EXPUNGE responses, which the report after the command sends.
        if let Some(code) = copy_uid(&moved) {
            out.line(format_args!("* OK [{code}] Moved"));
        }
        mailbox.vanish(&moved.from);
    }
    Ok(Reply::ok("MOVE completed"))
}

/// The UIDs of the messages meant.
fn uids<H>(mailbox: &Mailbox<H>, uid: bool, set: &SequenceSet) -> Result<Vec<u32>, Reply> {
    let positions = mailbox.resolve(set, uid).map_err(|_| Reply::bad("No such message"))?;
    let all = positions.iter().filter_map(|position| mailbox.messages().get(*position));
    let uids: Vec<u32> = all.map(|message| message.uid).filter(|uid| !mailbox.is_vanished(*uid)).collect();
    // RFC 9051 6.4.7 wants all or none; a UID that is gone does not count (6.4.9).
    if !uid && uids.len() < positions.len() { Err(Reply::expunge_issued()) } else { Ok(uids) }
}

fn with_target(copied: Result<Copied, Error>) -> Result<Copied, Stop> {
    match copied {
        Err(Error::NotFound) => Err(Reply::try_create().into()),
        copied => Ok(copied?),
    }
}

fn copy_uid(copied: &Copied) -> Option<String> {
    let (from, to) = (numbers_text(&copied.from), numbers_text(&copied.to));
    (!from.is_empty()).then(|| format!("COPYUID {} {from} {to}", copied.uid_validity))
}
