//! NOTIFY (RFC 5465): what happens in other mailboxes is told at once, and in the selected one without IDLE.
//!
//! Fed by the account's topic, as IDLE is: when the user's manager says that something changed, the watch compares
//! the folders with what the client was told last. So an event that is lost or comes twice does no harm, and after a failover nothing is missed.

use std::collections::BTreeMap;
use std::io;

use bytes::BufMut;

use super::{fetch, list, status};
use crate::backend::{Account, Error, Folder, Status};
use crate::logged_in::LoggedIn;
use crate::mailbox::Mailbox;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::syntax::command::{Events, Fetch, Filter, Notify, StatusItem};
use crate::syntax::sequence::SequenceSet;
use crate::syntax::writer;

/// How many folders a session may watch: each costs a question for each event.
const MAX_WATCHED: usize = 1_000;
/// RFC 5465 5: the events that BADEVENT names.
const KNOWN_EVENTS: &str = "BADEVENT (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange)";

/// What a client asked for, and what it was told last.
pub(crate) struct Watch {
    pub wanted: Notify,
    told: BTreeMap<u32, Told>,
    /// [`Account::events`] when we looked last.
    heard: u64,
}

struct Told {
    folder: Folder,
    status: Option<Status>,
}

pub(crate) async fn run<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    wanted: Option<Notify>,
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    let done = Reply::ok("NOTIFY completed");
    let Some(wanted) = wanted else {
        user.notify = None;
        return Ok(done);
    };
    let selected = wanted.selected.iter().map(|group| group.events);
    if wanted.others.iter().map(|group| group.events).chain(selected).any(|events| events.unknown) {
        return Err(Reply::no(KNOWN_EVENTS, "These events are not known here").into());
    }
    let heard = user.account.events().await;
    let mut watch = Watch { wanted, told: BTreeMap::new(), heard };
    let folders = user.account.folders().await?;
    if folders.iter().filter(|folder| watch.events(folder).messages).count() > MAX_WATCHED {
        return Err(Reply::no("NOTIFICATIONOVERFLOW", "Too many mailboxes to watch").into());
    }
    let statuses = watch.statuses(user, &folders).await?;
    for folder in folders {
        let status = statuses.get(&folder.id).copied();
        if let (true, Some(status)) = (watch.wanted.status, &status) {
            write_status(&folder, status, user, out);
        }
        watch.told.insert(folder.id, Told { folder, status });
        out.flush_if_full().await?;
    }
    user.notify = Some(watch);
    Ok(done)
}

/// Tells what happened outside of the selected mailbox since the last time. What cannot be told now is told next time.
pub(crate) async fn tell<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    out: &mut Responses<'_, O>,
) -> io::Result<()> {
    let Some(mut watch) = user.notify.take() else { return Ok(()) };
    watch.heard = user.account.events().await;
    let looked = match user.account.folders().await {
        Ok(folders) => watch.statuses(user, &folders).await.map(|statuses| (folders, statuses)),
        Err(error) => Err(error),
    };
    match looked {
        Ok((folders, statuses)) => watch.compare(folders, &statuses, user, out).await?,
        Err(error) => tracing::debug!(%error, "cannot look at the folders now"),
    }
    user.notify = Some(watch);
    Ok(())
}

/// What the client wants of messages that it has just been told of: those above the UID `known` (RFC 5465 5.2). What cannot be
/// read now is left out; the client has the UIDs to ask for it.
pub(crate) async fn fetch_new<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    known: u32,
    out: &mut Responses<'_, O>,
) -> io::Result<()> {
    let attributes = user.selected_group().map(|group| group.attributes.clone()).unwrap_or_default();
    let last = user.selected.as_ref().map_or(0, Mailbox::highest_announced);
    if attributes.is_empty() || last <= known {
        return Ok(());
    }
    let set = SequenceSet::Ranges(vec![(known + 1, last)]);
    let new = Fetch { uid: true, set, attributes, changed_since: None, vanished: false };
    match fetch::run(user, new, out).await {
        Err(Stop::Io(error)) => Err(error),
        Ok(_) | Err(Stop::Reply(_)) => Ok(()),
    }
}

/// Resolves when the account may have changed: also if a command of this session has heard of it, but did not look here.
pub(crate) async fn changed<A: Account>(user: &LoggedIn<A>) {
    match &user.notify {
        Some(watch) if watch.heard != user.account.events().await => {}
        _ => user.account.changed().await,
    }
}

impl Watch {
    /// RFC 5465 6: the first group that names the folder counts.
    fn events(&self, folder: &Folder) -> Events {
        let group = self.wanted.others.iter().find(|group| names(&group.filter, folder));
        group.map(|group| group.events).unwrap_or_default()
    }

    /// Of the folders whose messages are watched, except the selected one.
    async fn statuses<A: Account>(
        &self,
        user: &LoggedIn<A>,
        folders: &[Folder],
    ) -> Result<BTreeMap<u32, Status>, Error> {
        let selected = user.selected.as_ref().map(|mailbox| mailbox.folder);
        let watched: Vec<u32> = folders
            .iter()
            .filter(|folder| Some(folder.id) != selected && self.events(folder).messages)
            .map(|folder| folder.id)
            .take(MAX_WATCHED)
            .collect();
        let mut statuses = BTreeMap::new();
        for some in watched.chunks(status::AT_ONCE) {
            for (&folder, status) in some.iter().zip(status::ask(&user.account, some).await) {
                match status {
                    Ok(status) => {
                        statuses.insert(folder, status);
                    }
                    Err(Error::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(statuses)
    }

    async fn compare<A: Account, O: Output>(
        &mut self,
        folders: Vec<Folder>,
        statuses: &BTreeMap<u32, Status>,
        user: &LoggedIn<A>,
        out: &mut Responses<'_, O>,
    ) -> io::Result<()> {
        let utf8 = user.enabled.rev2;
        let mut before = std::mem::take(&mut self.told);
        for folder in folders {
            let events = self.events(&folder);
            let told = before.remove(&folder.id);
            let known = told.as_ref().map(|told| &told.folder);
            // RFC 5465 5.4, 5.5.
            let named = events.names && known.is_none_or(|known| known.name != folder.name);
            let subscribed = |known: &Folder| known.subscribed != folder.subscribed;
            if named || (events.subscriptions && known.is_some_and(subscribed)) {
                let attributes: &[&str] = if folder.subscribed { &["\\Subscribed"] } else { &[] };
                let old = known.map(|known| known.name.as_str()).filter(|&old| named && old != folder.name);
                write_list(&folder.name, attributes, old, utf8, out);
            }
            let last = told.and_then(|told| told.status);
            let status = statuses.get(&folder.id).copied();
            if let Some(status) = &status
                && last.is_none_or(|last| is_news(&last, status, events))
            {
                write_status(&folder, status, user, out);
            }
            self.told.insert(folder.id, Told { folder, status: status.or(last) });
            out.flush_if_full().await?;
        }
        for gone in before.into_values().filter(|told| self.events(&told.folder).names) {
            write_list(&gone.folder.name, &["\\NonExistent"], None, utf8, out);
        }
        Ok(())
    }
}

fn names(filter: &Filter, folder: &Folder) -> bool {
    let below = |root: &String| {
        folder.name.strip_prefix(root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match filter {
        // Deliveries go to the one.
        Filter::Inboxes => folder.name == "INBOX",
        Filter::Personal => true,
        Filter::Subscribed => folder.subscribed,
        Filter::Subtree(roots) => roots.iter().any(below),
        Filter::Mailboxes(names) => names.contains(&folder.name),
    }
}

fn is_news(before: &Status, now: &Status, events: Events) -> bool {
    let messages = |status: &Status| (status.messages, status.uid_next, status.uid_validity);
    messages(before) != messages(now) || (events.flags && before.newest_message != now.newest_message)
}

/// RFC 5465 5.1 to 5.3: enough to see what happened.
fn write_status<A: Account, O: Output>(
    folder: &Folder,
    status: &Status,
    user: &LoggedIn<A>,
    out: &mut Responses<'_, O>,
) {
    let mut items =
        vec![StatusItem::Messages, StatusItem::UidNext, StatusItem::UidValidity, StatusItem::Unseen];
    if user.enabled.condstore {
        items.push(StatusItem::HighestModSeq);
    }
    status::write(&folder.name, status, &items, user, out);
}

fn write_list<O: Output>(
    name: &str,
    attributes: &[&str],
    old: Option<&str>,
    utf8: bool,
    out: &mut Responses<'_, O>,
) {
    list::begin(attributes, name, utf8, out);
    if let Some(old) = old {
        out.text().put_slice(b" (\"OLDNAME\" (");
        writer::mailbox(out.text(), old, utf8);
        out.text().put_slice(b"))");
    }
    out.line(format_args!(""));
}
