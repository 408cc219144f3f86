//! CREATE, DELETE, RENAME, SUBSCRIBE and UNSUBSCRIBE (RFC 9051 6.3.4 to 6.3.8), and folders by name.

use crate::backend::{Account, Error, Folder};
use crate::logged_in::LoggedIn;
use crate::mailbox::Mailbox;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::syntax::command::{MailboxName, known_special_use};

/// The most levels a new name may have.
const MAX_LEVELS: usize = 32;

/// The folder called `name`, if there is one.
pub(crate) async fn find<A: Account>(account: &A, name: MailboxName) -> Result<Option<Folder>, Error> {
    let MailboxName::Valid(name) = name else { return Ok(None) };
    Ok(account.folders().await?.into_iter().find(|folder| folder.name == name))
}

/// A name that a folder may be given. A client may end it with the delimiter (RFC 9051 6.3.4), which means nothing here.
fn new_name(name: MailboxName) -> Result<String, Reply> {
    let MailboxName::Valid(name) = name else {
        return Err(Reply::no("CANNOT", "Not a valid mailbox name"));
    };
    let name = name.strip_suffix('/').unwrap_or(&name);
    if name.split('/').any(str::is_empty) {
        return Err(Reply::no("CANNOT", "A level of a mailbox name cannot be empty"));
    }
    if name.split('/').count() > MAX_LEVELS {
        return Err(Reply::no("CANNOT", "The mailbox name has too many levels"));
    }
    // They could never be listed alone.
    if name.contains(['*', '%']) {
        return Err(Reply::no("CANNOT", "A mailbox name cannot have * or %"));
    }
    Ok(name.to_owned())
}

pub(crate) async fn create<A: Account>(
    user: &LoggedIn<A>,
    name: MailboxName,
    special_use: Option<Vec<String>>,
) -> Result<Reply, Stop> {
    let name = new_name(name)?;
    if name == "INBOX" {
        return Err(Error::AlreadyExists.into());
    }
    let special_use = match special_use {
        // RFC 6154 3: a use that we do not have, or several at once.
        Some(names) if !names.is_empty() => Some(
            known_special_use(&names)
                .ok_or_else(|| Reply::no("USEATTR", "No such special use, or more than one"))?,
        ),
        _ => None,
    };
    user.account.create_folder(&name, special_use).await?;
    Ok(Reply::ok("CREATE completed"))
}

pub(crate) async fn delete<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    name: MailboxName,
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    let MailboxName::Valid(name) = name else { return Err(Reply::no_mailbox().into()) };
    if name == "INBOX" {
        return Err(Reply::no("CANNOT", "INBOX cannot be deleted").into());
    }
    user.account.delete_folder(&name).await?;
    // The client's own doing, so it does not have to be thrown out.
    if user.selected.as_ref().is_some_and(|mailbox| mailbox.name == name) {
        user.selected = None;
        out.line(format_args!("* OK [CLOSED] The selected mailbox is deleted"));
    }
    Ok(Reply::ok("DELETE completed"))
}

pub(crate) async fn rename<A: Account>(
    user: &mut LoggedIn<A>,
    from: MailboxName,
    to: MailboxName,
) -> Result<Reply, Stop> {
    let MailboxName::Valid(from) = from else { return Err(Reply::no_mailbox().into()) };
    let to = new_name(to)?;
    if to == "INBOX" || to == from {
        return Err(Error::AlreadyExists.into());
    }
    if from == "INBOX" {
        return rename_inbox(user, &to).await;
    }
    let below = |name: &str| name.strip_prefix(from.as_str()).is_some_and(|rest| rest.starts_with('/'));
    if below(&to) {
        return Err(Reply::no("CANNOT", "A mailbox cannot be moved below itself").into());
    }
    user.account.rename_folder(&from, &to).await?;
    if let Some(mailbox) = &mut user.selected {
        if mailbox.name == from {
            mailbox.name = to;
        } else if below(&mailbox.name) {
            let rest = mailbox.name.get(from.len()..).unwrap_or_default();
            mailbox.name = format!("{to}{rest}");
        }
    }
    Ok(Reply::ok("RENAME completed"))
}

/// Renaming INBOX moves its messages and leaves it empty (RFC 9051 6.3.6). If it fails half-way, both folders are there and
/// each message is in one of them.
async fn rename_inbox<A: Account>(user: &mut LoggedIn<A>, to: &str) -> Result<Reply, Stop> {
    user.account.create_folder(to, None).await?;
    let moved = move_all(&user.account, to).await;
    // INBOX was opened, so what the client has selected must be opened again to be watched.
    let mut reopened = None;
    if let Some(mailbox) = &user.selected {
        reopened = Some(user.account.open(mailbox.folder).await);
    }
    moved?;
    match (reopened, &mut user.selected) {
        (Some(Ok(snapshot)), Some(mailbox)) => replace(mailbox, snapshot),
        (Some(Err(error)), _) => tracing::debug!(%error, "cannot open the selected folder again now"),
        _ => {}
    }
    Ok(Reply::ok("RENAME completed"))
}

fn replace<H>(mailbox: &mut Mailbox<H>, snapshot: crate::backend::Snapshot<H>) {
    // Another UIDVALIDITY is found again, and handled, by the sync after the command.
    let _ = mailbox.apply(crate::backend::Changes::Fresh(snapshot));
}

async fn move_all<A: Account>(account: &A, to: &str) -> Result<(), Error> {
    let folders = account.folders().await?;
    let id = |name: &str| folders.iter().find(|folder| folder.name == name).map(|folder| folder.id);
    let (inbox, target) = (id("INBOX").ok_or(Error::NotFound)?, id(to).ok_or(Error::NotFound)?);
    let uids: Vec<u32> = account.open(inbox).await?.messages.iter().map(|message| message.uid).collect();
    if !uids.is_empty() {
        account.move_messages(inbox, &uids, target).await?;
    }
    Ok(())
}

pub(crate) async fn subscribe<A: Account>(
    user: &LoggedIn<A>,
    name: MailboxName,
    subscribed: bool,
) -> Result<Reply, Stop> {
    let result = match &name {
        MailboxName::Valid(name) => user.account.subscribe(name, subscribed).await,
        MailboxName::Invalid => Err(Error::NotFound),
    };
    match (result, subscribed) {
        (Ok(()), true) => Ok(Reply::ok("SUBSCRIBE completed")),
        // A subscription ends with its folder, so this is what the client wanted.
        (Ok(()) | Err(Error::NotFound), false) => Ok(Reply::ok("UNSUBSCRIBE completed")),
        (Err(error), _) => Err(error.into()),
    }
}
