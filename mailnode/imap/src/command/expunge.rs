//! EXPUNGE, UID EXPUNGE and CLOSE (RFC 9051 6.4.1, 6.4.3, 6.4.9).

use crate::backend::Account;
use crate::flags::SystemFlag;
use crate::logged_in::LoggedIn;
use crate::mailbox::Mailbox;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::syntax::sequence::{Ranges, SequenceSet};

pub(crate) async fn run<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    uids: Option<SequenceSet>,
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    user.writable()?;
    // What others marked or unmarked counts. Nothing is lost if the folder is gone: the sync after the command finds that.
    if user.sync_now().await?.is_err() {
        return Err(Reply::no_mailbox().into());
    }
    let (account, mailbox) = user.writable()?;
    let only =
        uids.map(|set| mailbox.ranges(&set, true).unwrap_or_else(|| Ranges::of_numbers(&mailbox.saved)));
    let deleted = deleted(mailbox, only.as_ref());
    let mut any = false;
    if !deleted.is_empty() {
        let gone = account.expunge(mailbox.folder, &deleted).await?;
        any = !gone.is_empty();
        mailbox.vanish(&gone);
    }
    // RFC 7162 3.2.7: with QRESYNC the client gets the MODSEQ of this state, so all of it must have been told first.
    let qresync = user.enabled.qresync;
    if any && qresync && user.sync().await.is_ok() {
        user.report(true, false, out).await?;
        let (_, mailbox) = user.selected()?;
        return Ok(Reply::ok("EXPUNGE completed").code(format!("HIGHESTMODSEQ {}", mailbox.highest_modseq)));
    }
    Ok(Reply::ok("EXPUNGE completed"))
}

/// CLOSE expunges without a word.
pub(crate) async fn close<A: Account>(user: &mut LoggedIn<A>) -> Result<Reply, Stop> {
    let (_, mailbox) = user.selected()?;
    if !mailbox.read_only && user.sync().await.is_ok() {
        let (account, mailbox) = user.selected()?;
        let deleted = deleted(mailbox, None);
        if !deleted.is_empty() {
            account.expunge(mailbox.folder, &deleted).await?;
        }
    }
    user.selected = None;
    Ok(Reply::ok("CLOSE completed"))
}

fn deleted<H>(mailbox: &Mailbox<H>, only: Option<&Ranges>) -> Vec<u32> {
    let chosen = mailbox.messages().iter().filter(|message| {
        message.flags.contains(SystemFlag::Deleted)
            && !mailbox.is_vanished(message.uid)
            && only.is_none_or(|only| only.contains(message.uid))
    });
    chosen.map(|message| message.uid).collect()
}
