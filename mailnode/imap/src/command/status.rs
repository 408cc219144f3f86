//! STATUS (RFC 9051 6.3.11, RFC 7162 3.1.7, RFC 7889 4).

use std::fmt::Write;

use bytes::BufMut;
use futures_util::future::join_all;

use super::folders;
use crate::backend::{Account, Error, Status};
use crate::logged_in::LoggedIn;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::syntax::command::{MailboxName, StatusItem};
use crate::syntax::writer;

pub(crate) async fn run<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    name: MailboxName,
    items: &[StatusItem],
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    let folder = folders::find(&user.account, name).await?.ok_or_else(Reply::no_mailbox)?;
    let status = user.account.status(folder.id).await?;
    user.enabled.condstore |= items.contains(&StatusItem::HighestModSeq);
    write(&folder.name, &status, items, user, out);
    Ok(Reply::ok("STATUS completed"))
}

/// How many folders are asked for their status at one time.
pub(crate) const AT_ONCE: usize = 8;

/// Of at most [`AT_ONCE`] folders, in their order.
pub(crate) async fn ask<A: Account>(account: &A, folders: &[u32]) -> Vec<Result<Status, Error>> {
    let mut questions = Vec::with_capacity(folders.len());
    for &folder in folders {
        questions.push(account.status(folder));
    }
    join_all(questions).await
}

/// The untagged response.
pub(crate) fn write<A: Account, O: Output>(
    name: &str,
    status: &Status,
    items: &[StatusItem],
    user: &LoggedIn<A>,
    out: &mut Responses<'_, O>,
) {
    out.text().put_slice(b"* STATUS ");
    writer::mailbox(out.text(), name, user.enabled.rev2);
    let mut values = String::new();
    for item in items {
        let (item, value) = match item {
            StatusItem::Messages => ("MESSAGES", status.messages.into()),
            StatusItem::Recent => ("RECENT", 0),
            StatusItem::UidNext => ("UIDNEXT", status.uid_next.into()),
            StatusItem::UidValidity => ("UIDVALIDITY", status.uid_validity.into()),
            StatusItem::Unseen => ("UNSEEN", status.unseen.into()),
            StatusItem::Deleted => ("DELETED", status.deleted.into()),
            StatusItem::Size => ("SIZE", status.size),
            StatusItem::HighestModSeq => ("HIGHESTMODSEQ", status.highest_modseq),
            StatusItem::AppendLimit => ("APPENDLIMIT", user.max_message.into()),
        };
        // Writing to memory cannot fail.
        let _ = write!(values, "{}{item} {value}", if values.is_empty() { "" } else { " " });
    }
    out.line(format_args!(" ({values})"));
}
