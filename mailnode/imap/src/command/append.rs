//! APPEND (RFC 9051 6.3.12), also of several messages (RFC 3502).

use super::folders;
use crate::backend::{Account, AppendMessage, Error};
use crate::logged_in::LoggedIn;
use crate::reply::{Reply, Stop};
use crate::syntax::command::MailboxName;
use crate::syntax::sequence::numbers_text;

pub(crate) async fn run<A: Account>(
    user: &LoggedIn<A>,
    name: MailboxName,
    messages: Vec<AppendMessage>,
) -> Result<Reply, Stop> {
    // RFC 3502 6.3.11: this is how a client breaks off.
    if messages.iter().any(|message| message.body.is_empty()) {
        return Err(Reply::no("CANNOT", "A message cannot be empty").into());
    }
    let folder = folders::find(&user.account, name).await?.ok_or_else(Reply::try_create)?;
    let appended = match user.account.append(folder.id, messages).await {
        Err(Error::NotFound) => return Err(Reply::try_create().into()),
        appended => appended?,
    };
    let uids = numbers_text(&appended.uids);
    Ok(Reply::ok("APPEND completed").code(format!("APPENDUID {} {uids}", appended.uid_validity)))
}
