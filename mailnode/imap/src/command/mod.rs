//! The commands of a client that has logged in, one module each.

mod append;
mod bodies;
mod copy;
mod enable;
mod expunge;
pub(crate) mod fetch;
mod fetch_item;
mod folders;
mod list;
pub(crate) mod notify;
mod search;
mod select;
mod status;
mod store;
mod tree;

use crate::backend::Account;
use crate::logged_in::LoggedIn;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::syntax::command::Body;

/// Runs a command. What needs no login is the session's.
pub(crate) async fn run<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    tag: &str,
    body: Body,
    out: &mut Responses<'_, O>,
) -> Result<Reply, Stop> {
    match body {
        Body::Enable(capabilities) => Ok(enable::run(user, &capabilities, out)),
        Body::Select { mailbox, examine, condstore, qresync } => {
            select::run(user, mailbox, select::Options { examine, condstore, qresync }, out).await
        }
        Body::Create { mailbox, special_use } => folders::create(user, mailbox, special_use).await,
        Body::Delete(mailbox) => folders::delete(user, mailbox, out).await,
        Body::Rename { from, to } => folders::rename(user, from, to).await,
        Body::Subscribe { mailbox, subscribed } => folders::subscribe(user, mailbox, subscribed).await,
        Body::List(list) => list::run(user, list, out).await,
        Body::Lsub { reference, pattern } => list::lsub(user, reference, pattern, out).await,
        Body::Notify(wanted) => Box::pin(notify::run(user, wanted, out)).await,
        Body::Namespace => {
            // RFC 2342 5: one personal namespace.
            out.line(format_args!("* NAMESPACE ((\"\" \"/\")) NIL NIL"));
            Ok(Reply::ok("NAMESPACE completed"))
        }
        Body::Status { mailbox, items } => status::run(user, mailbox, &items, out).await,
        Body::Append { mailbox, messages } => append::run(user, mailbox, messages).await,
        Body::Check => {
            user.selected()?;
            Ok(Reply::ok("CHECK completed"))
        }
        Body::Close => expunge::close(user).await,
        Body::Unselect => {
            user.selected()?;
            user.selected = None;
            Ok(Reply::ok("UNSELECT completed"))
        }
        Body::Expunge { uids } => expunge::run(user, uids, out).await,
        Body::Search(search) => search::run(user, tag, search, out).await,
        Body::Fetch(fetch) => fetch::run(user, fetch, out).await,
        Body::Store(store) => store::run(user, store, out).await,
        Body::Copy { uid, set, mailbox } => copy::copy(user, uid, &set, mailbox).await,
        Body::Move { uid, set, mailbox } => copy::move_messages(user, uid, &set, mailbox, out).await,
        Body::Capability
        | Body::Noop
        | Body::Logout
        | Body::Id
        | Body::StartTls
        | Body::Authenticate { .. }
        | Body::Login { .. }
        | Body::Idle => Err(Reply::bad("Not possible now").into()),
    }
}
