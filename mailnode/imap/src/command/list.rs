//! LIST (RFC 9051 6.3.9, RFC 5258, RFC 5819, RFC 6154) and LSUB (RFC 3501 6.3.9).

use bytes::BufMut;

use super::status;
use super::tree::Tree;
use crate::backend::{Account, Folder};
use crate::logged_in::LoggedIn;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::syntax::command::{List, MailboxName, StatusItem};
use crate::syntax::{pattern, writer};

pub(crate) async fn run<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    list: List,
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    let utf8 = user.enabled.rev2;
    // RFC 9051 6.3.9: an empty pattern asks for the delimiter.
    if !list.extended && list.patterns.iter().all(String::is_empty) {
        if !list.patterns.is_empty() {
            out.line(format_args!("* LIST (\\Noselect) \"/\" \"\""));
        }
        return Ok(Reply::ok("LIST completed"));
    }
    let patterns: Vec<String> =
        list.patterns.iter().map(|pattern| format!("{}{pattern}", list.reference)).collect();
    let matches = |name: &str| patterns.iter().any(|pattern| pattern::matches(pattern, name));
    let selected = |folder: &Folder| {
        (!list.select_subscribed || folder.subscribed)
            && (!list.select_special_use || folder.special_use.is_some())
    };
    let selective = list.select_subscribed || list.select_special_use;
    let tree = Tree::new(user.account.folders().await?);
    let mut with_status: Vec<Folder> = Vec::new();
    for (name, folder) in tree.iter().filter(|(name, _)| matches(name)) {
        let chosen = match folder {
            Some(folder) => selected(folder),
            None => !selective,
        };
        // RFC 5258 3.5: a level that is not chosen itself but has chosen ones below that the pattern does not show.
        let child_info = list.recursive_match
            && tree.below(name).any(|below| selected(below) && (chosen || !matches(&below.name)));
        if !chosen && !child_info {
            continue;
        }
        let subscribed = list.return_subscribed || list.select_subscribed;
        begin(&attributes(&tree, name, folder, subscribed), name, utf8, out);
        out.line(format_args!("{}", if child_info { " (\"CHILDINFO\" (\"SUBSCRIBED\"))" } else { "" }));
        if let (Some(folder), Some(_)) = (folder, &list.return_status) {
            with_status.push(folder.clone());
        }
        out.flush_if_full().await?;
    }
    if let Some(items) = &list.return_status {
        user.enabled.condstore |= items.contains(&StatusItem::HighestModSeq);
        statuses(user, &with_status, items, out).await?;
    }
    Ok(Reply::ok("LIST completed"))
}

/// The untagged response, but for what may follow the name.
pub(crate) fn begin<O: Output>(attributes: &[&str], name: &str, utf8: bool, out: &mut Responses<'_, O>) {
    out.text().put_slice(b"* LIST ");
    writer::list(out.text(), attributes.iter().copied());
    out.text().put_slice(b" \"/\" ");
    writer::mailbox(out.text(), name, utf8);
}

fn attributes(tree: &Tree, name: &str, folder: Option<&Folder>, subscribed: bool) -> Vec<&'static str> {
    let mut attributes = Vec::new();
    if folder.is_none() {
        // The second says all (RFC 5258 3), the first is for clients that do not know it.
        attributes.extend(["\\Noselect", "\\NonExistent"]);
    }
    attributes.push(if tree.has_children(name) { "\\HasChildren" } else { "\\HasNoChildren" });
    if let Some(folder) = folder {
        if subscribed && folder.subscribed {
            attributes.push("\\Subscribed");
        }
        attributes.extend(folder.special_use.map(|special_use| special_use.name()));
    }
    attributes
}

/// A STATUS for each folder; what cannot be told now, or is gone, is left out (RFC 5819 2).
async fn statuses<A: Account, O: Output>(
    user: &LoggedIn<A>,
    folders: &[Folder],
    items: &[StatusItem],
    out: &mut Responses<'_, O>,
) -> Result<(), Stop> {
    for some in folders.chunks(status::AT_ONCE) {
        let ids: Vec<u32> = some.iter().map(|folder| folder.id).collect();
        for (folder, status) in some.iter().zip(status::ask(&user.account, &ids).await) {
            if let Ok(status) = status {
                status::write(&folder.name, &status, items, user, out);
            }
        }
        out.flush_if_full().await?;
    }
    Ok(())
}

pub(crate) async fn lsub<A: Account, O: Output>(
    user: &LoggedIn<A>,
    reference: MailboxName,
    pattern: MailboxName,
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    let (MailboxName::Valid(reference), MailboxName::Valid(pattern)) = (reference, pattern) else {
        return Ok(Reply::ok("LSUB completed"));
    };
    let pattern = format!("{reference}{pattern}");
    let tree = Tree::new(user.account.folders().await?);
    for (name, folder) in tree.iter().filter(|(name, _)| pattern::matches(&pattern, name)) {
        let attributes: &[u8] = if folder.is_some_and(|folder| folder.subscribed) {
            b"()"
        } else if tree.below(name).any(|below| below.subscribed && !pattern::matches(&pattern, &below.name)) {
            // RFC 3501 6.3.9: `%` shows the level above a subscribed folder.
            b"(\\Noselect)"
        } else {
            continue;
        };
        out.text().put_slice(b"* LSUB ");
        out.text().put_slice(attributes);
        out.text().put_slice(b" \"/\" ");
        writer::mailbox(out.text(), name, user.enabled.rev2);
        out.line(format_args!(""));
        out.flush_if_full().await?;
    }
    Ok(Reply::ok("LSUB completed"))
}
