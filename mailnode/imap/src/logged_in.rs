//! What a session has after login: the account, the selected mailbox, what the client enabled; and how changes that other
//! sessions made are shown.
//!
//! Invariant: everything the client is told about message numbers goes through [`Mailbox::untagged`], with `expunge` only where
//! RFC 9051 7.5.1 allows EXPUNGE.

use std::io;

use bytes::BufMut;

use crate::backend::{Account, Error, Message};
use crate::command::notify::Watch;
use crate::flags::SystemFlag;
use crate::mailbox::{Mailbox, Untagged};
use crate::output::Output;
use crate::reply::Reply;
use crate::responses::Responses;
use crate::syntax::command::SelectedGroup;
use crate::syntax::sequence::numbers_text;
use crate::syntax::writer;

/// What the client switched on (RFC 9051 6.3.1).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Enabled {
    pub rev2: bool,
    pub condstore: bool,
    pub qresync: bool,
}

pub(crate) struct LoggedIn<A: Account> {
    pub account: A,
    pub enabled: Enabled,
    pub selected: Option<Mailbox<A::Handle>>,
    pub max_message: u32,
    /// NOTIFY SET.
    pub notify: Option<Watch>,
}

/// The selected folder is no longer what the client selected: deleted, or with another UIDVALIDITY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl<A: Account> LoggedIn<A> {
    pub fn new(account: A, max_message: u32) -> LoggedIn<A> {
        LoggedIn { account, enabled: Enabled::default(), selected: None, max_message, notify: None }
    }

    /// The account and the selected mailbox.
    pub fn selected(&mut self) -> Result<(&A, &mut Mailbox<A::Handle>), Reply> {
        match &mut self.selected {
            Some(mailbox) => Ok((&self.account, mailbox)),
            None => Err(Reply::bad("No mailbox is selected")),
        }
    }

    /// As [`LoggedIn::selected`], for commands that change messages.
    pub fn writable(&mut self) -> Result<(&A, &mut Mailbox<A::Handle>), Reply> {
        match self.selected()? {
            (_, mailbox) if mailbox.read_only => {
                Err(Reply::no("CANNOT", "The mailbox is open for reading only"))
            }
            selected => Ok(selected),
        }
    }

    /// What NOTIFY asked for of the selected mailbox.
    pub fn selected_group(&self) -> Option<&SelectedGroup> {
        self.notify.as_ref()?.wanted.selected.as_ref()
    }

    /// Learns what happened in the selected folder. A backend that cannot tell now is asked again after the next command.
    pub async fn sync(&mut self) -> Result<(), Gone> {
        match self.sync_now().await {
            Ok(synced) => synced,
            Err(error) => {
                tracing::debug!(%error, "cannot sync the selected folder now");
                Ok(())
            }
        }
    }

    /// As [`LoggedIn::sync`], for commands that must not go on without.
    pub async fn sync_now(&mut self) -> Result<Result<(), Gone>, Error> {
        let Some(mailbox) = &mut self.selected else { return Ok(Ok(())) };
        match self.account.sync(mailbox.folder, mailbox.token, || mailbox.shown()).await {
            Ok(changes) => Ok(mailbox.apply(changes).map_err(|_| Gone)),
            Err(Error::NotFound) => Ok(Err(Gone)),
            Err(error) => Err(error),
        }
    }

    /// Tells the client what [`LoggedIn::sync`] learned. `uid`: a UID command is in progress, whose FETCH responses have
    /// UIDs (RFC 9051 6.4.9).
    pub async fn report<O: Output>(
        &mut self,
        expunge: bool,
        uid: bool,
        out: &mut Responses<'_, O>,
    ) -> io::Result<()> {
        let enabled = self.enabled;
        let flags_wanted = self.selected_group().is_none_or(|group| group.events.flags);
        let Some(mailbox) = &mut self.selected else { return Ok(()) };
        for untagged in mailbox.untagged(expunge, enabled.qresync) {
            match untagged {
                Untagged::Expunge(number) => out.line(format_args!("* {number} EXPUNGE")),
                // RFC 7162 3.2.10.
                Untagged::Vanished(uids) => out.line(format_args!("* VANISHED {}", numbers_text(&uids))),
                Untagged::Exists(count) => out.line(format_args!("* {count} EXISTS")),
                Untagged::Flags => flags(mailbox, out),
                // RFC 5465 5.1: a client that asked for other events does not want these.
                Untagged::Fetch(_) if !flags_wanted => {}
                Untagged::Fetch(number) => {
                    if let Some(message) = mailbox.message(number) {
                        fetch_flags(number, message, uid, enabled, out);
                    }
                }
            }
            out.flush_if_full().await?;
        }
        Ok(())
    }
}

/// FLAGS and PERMANENTFLAGS (RFC 9051 7.1, 7.3.5): all keywords in use, and new ones may be made.
pub(crate) fn flags<H, O: Output>(mailbox: &Mailbox<H>, out: &mut Responses<'_, O>) {
    let names: Vec<&str> = SystemFlag::ALL.iter().map(|flag| flag.name()).chain(mailbox.keywords()).collect();
    let text = out.text();
    text.put_slice(b"* FLAGS ");
    writer::list(text, names.iter().copied());
    text.put_slice(b"\r\n* OK [PERMANENTFLAGS ");
    if mailbox.read_only {
        text.put_slice(b"()] Read-only\r\n");
    } else {
        writer::list(text, names.into_iter().chain(["\\*"]));
        text.put_slice(b"] Kept\r\n");
    }
}

/// FETCH with the flags of a message. With CONDSTORE it has MODSEQ (RFC 7162 3.1), with QRESYNC and in IMAP4rev2 the UID
/// (RFC 7162 3.2.4, RFC 9051 7.5.2).
pub(crate) fn fetch_flags<H, O: Output>(
    number: u32,
    message: &Message<H>,
    uid: bool,
    enabled: Enabled,
    out: &mut Responses<'_, O>,
) {
    fetch_start(number, message, uid, enabled, out);
    out.text().put_slice(b"FLAGS ");
    writer::list(out.text(), message.flags.names());
    fetch_end(message, enabled, out);
}

/// FETCH with MODSEQ but not the flags: the answer to a silent STORE with CONDSTORE (RFC 7162 3.1.3).
pub(crate) fn fetch_modseq<H, O: Output>(
    number: u32,
    message: &Message<H>,
    uid: bool,
    enabled: Enabled,
    out: &mut Responses<'_, O>,
) {
    fetch_start(number, message, uid, enabled, out);
    out.line(format_args!("MODSEQ ({}))", message.modseq));
}

fn fetch_start<H, O: Output>(
    number: u32,
    message: &Message<H>,
    uid: bool,
    enabled: Enabled,
    out: &mut Responses<'_, O>,
) {
    let text = out.text();
    text.put_slice(b"* ");
    writer::number(text, number.into());
    text.put_slice(b" FETCH (");
    if uid || enabled.qresync || enabled.rev2 {
        text.put_slice(b"UID ");
        writer::number(text, message.uid.into());
        text.put_u8(b' ');
    }
}

fn fetch_end<H, O: Output>(message: &Message<H>, enabled: Enabled, out: &mut Responses<'_, O>) {
    match enabled.condstore {
        true => out.line(format_args!(" MODSEQ ({}))", message.modseq)),
        false => out.line(format_args!(")")),
    }
}
