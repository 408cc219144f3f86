//! SELECT and EXAMINE (RFC 9051 6.3.2, 6.3.3) with CONDSTORE and QRESYNC (RFC 7162 3.1.8, 3.2.5).
//!
//! `\Recent` does not exist here: a client of RFC 3501 is told `0 RECENT`.

use bytes::BufMut;

use super::folders;
use crate::backend::{Account, Error};
use crate::flags::SystemFlag;
use crate::logged_in::{self, LoggedIn};
use crate::mailbox::Mailbox;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::syntax::command::{MailboxName, Resync};
use crate::syntax::sequence::{Ranges, ranges_text};
use crate::syntax::writer;

pub(crate) struct Options {
    pub examine: bool,
    pub condstore: bool,
    pub qresync: Option<Resync>,
}

pub(crate) async fn run<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    name: MailboxName,
    options: Options,
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    if options.qresync.is_some() && !user.enabled.qresync {
        return Err(Reply::bad("ENABLE QRESYNC first").into());
    }
    user.enabled.condstore |= options.condstore;
    // RFC 9051 6.3.2: what was selected is closed first, even if this fails.
    if user.selected.take().is_some() {
        out.line(format_args!("* OK [CLOSED] The previous mailbox is closed"));
    }
    let folder = folders::find(&user.account, name).await?.ok_or_else(Reply::no_mailbox)?;
    let snapshot = match user.account.open(folder.id).await {
        Err(Error::NotFound) => return Err(Reply::no_mailbox().into()),
        opened => opened?,
    };
    let mailbox = Mailbox::new(folder.id, folder.name, options.examine, snapshot);
    describe(&mailbox, user.enabled.rev2, out);
    if let Some(known) = options.qresync {
        resync(&mailbox, known, user, out).await?;
    }
    user.selected = Some(mailbox);
    Ok(match options.examine {
        true => Reply::ok("EXAMINE completed").code("READ-ONLY"),
        false => Reply::ok("SELECT completed").code("READ-WRITE"),
    })
}

fn describe<H, O: Output>(mailbox: &Mailbox<H>, rev2: bool, out: &mut Responses<'_, O>) {
    logged_in::flags(mailbox, out);
    out.line(format_args!("* {} EXISTS", mailbox.messages().len()));
    if rev2 {
        out.text().put_slice(b"* LIST () \"/\" ");
        writer::mailbox(out.text(), &mailbox.name, true);
        out.line(format_args!(""));
    } else {
        out.line(format_args!("* 0 RECENT"));
        let unseen =
            |message: &std::sync::Arc<crate::backend::Message<H>>| !message.flags.contains(SystemFlag::Seen);
        if let Some(position) = mailbox.messages().iter().position(unseen) {
            out.line(format_args!("* OK [UNSEEN {}] First unseen", position + 1));
        }
    }
    out.line(format_args!("* OK [UIDVALIDITY {}] UIDs are valid", mailbox.uid_validity));
    out.line(format_args!("* OK [UIDNEXT {}] Predicted next UID", mailbox.uid_next));
    out.line(format_args!("* OK [HIGHESTMODSEQ {}] Highest", mailbox.highest_modseq));
}

/// What changed since the client was here last (RFC 7162 3.2.5.1).
async fn resync<A: Account, O: Output>(
    mailbox: &Mailbox<A::Handle>,
    known: Resync,
    user: &LoggedIn<A>,
    out: &mut Responses<'_, O>,
) -> Result<(), Stop> {
    if known.uid_validity != mailbox.uid_validity {
        return Ok(());
    }
    let last = mailbox.uid_next.saturating_sub(1);
    let uids = match known.known_uids.and_then(|set| set.resolve(last)) {
        Some(ranges) => ranges,
        None => Ranges::new(std::iter::once((1, last.max(1)))),
    };
    let told = user.account.certainly_told(mailbox.folder, known.modseq).await?;
    vanished_earlier(mailbox, &uids, out);
    for (number, message) in (1u32..).zip(mailbox.messages()) {
        if message.modseq > told && uids.contains(message.uid) {
            logged_in::fetch_flags(number, message, true, user.enabled, out);
            out.flush_if_full().await?;
        }
    }
    Ok(())
}

/// VANISHED (EARLIER). The history of expunges is not kept, so every UID of the set that is not there is named: more than the
/// client may have known, which RFC 7162 3.2.6 allows.
pub(crate) fn vanished_earlier<H, O: Output>(
    mailbox: &Mailbox<H>,
    uids: &Ranges,
    out: &mut Responses<'_, O>,
) {
    let last = mailbox.uid_next.saturating_sub(1);
    let messages = mailbox.messages();
    let mut gone = Vec::new();
    for (first, end) in uids.iter() {
        let (mut next, end) = (first.max(1), end.min(last));
        let start = messages.partition_point(|message| message.uid < next);
        for message in messages.iter().skip(start).take_while(|message| message.uid <= end) {
            if next < message.uid {
                gone.push((next, message.uid - 1));
            }
            next = message.uid.saturating_add(1);
        }
        if next <= end {
            gone.push((next, end));
        }
    }
    if !gone.is_empty() {
        out.line(format_args!("* VANISHED (EARLIER) {}", ranges_text(&Ranges::new(gone.into_iter()))));
    }
}
