//! POP3 on a socket: runs the `pop3` crate's session and answers its questions. The maildrop is INBOX.

use super::access::Mail;
use super::listener::{SessionContext, Stream};
use super::socket::Socket;
use crate::node::Node;
use crate::wire::{Failure, Message};
use cluster::{EntryId, FolderId};
use pop3::{Body, Config, Listed, Login, LoginFailure, Maildrop, Next, Session};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use tokio::time::timeout;

/// Messages that are expunged with one request, so that it stays well inside its deadline.
const BATCH: usize = 1_000;
/// Looks for marked messages that got another UID.
const ROUNDS: usize = 3;

/// A logged-in user's INBOX as it was at login.
pub struct Inbox {
    pub mail: Mail,
    pub uid_validity: u32,
    pub messages: Vec<Message>,
}

/// Serves one connection until either side ends it.
///
/// # Errors
/// If the connection breaks, or TLS cannot be agreed on.
pub async fn session(mut context: SessionContext, stream: Stream) -> io::Result<()> {
    let node = context.node.clone();
    let mut session = Session::new(Config {
        host_name: node.settings.host_name.clone(),
        tls: stream.is_tls(),
        clear_text_login: node.settings.clear_text_login,
    });
    let mut socket = Socket::new(stream);
    let mut inbox: Option<Inbox> = None;
    loop {
        match session.proceed() {
            Next::Read => {
                push(&node, &mut session, &mut socket);
                socket.flush().await?;
                let idle = context.idle();
                tokio::select! {
                    read = timeout(idle, socket.read(session.buffer())) => match read {
                        Ok(read) => {
                            if read? == 0 {
                                return Ok(());
                            }
                        }
                        Err(_) => session.timed_out(),
                    },
                    () = context.stopped() => session.stopping(),
                }
            }
            Next::Write => {
                push(&node, &mut session, &mut socket);
                socket.flush().await?;
            }
            Next::LogIn(login) => match log_in(&node, &login).await {
                Ok(opened) => {
                    session.logged_in(Ok(opened.listed()));
                    inbox = Some(opened);
                }
                Err(failure) => session.logged_in(Err(failure)),
            },
            Next::Body(index) => session.body(body(inbox.as_ref(), index).await),
            Next::Expunge(indexes) => session.expunged(match &inbox {
                Some(inbox) => inbox.expunge(&indexes).await,
                None => false,
            }),
            Next::StartTls => {
                push(&node, &mut session, &mut socket);
                socket.flush().await?;
                socket = socket.upgrade(&context.tls).await?;
                session.tls_started();
            }
            Next::Close => {
                push(&node, &mut session, &mut socket);
                return socket.close().await;
            }
        }
    }
}

/// Queues the replies that wait, and counts their commands.
fn push(node: &Node, session: &mut Session, socket: &mut Socket) {
    for (command, ok) in session.outcomes() {
        let outcome = if ok { "ok" } else { "error" };
        node.metrics.commands.with_label_values(&["pop3", command, outcome]).inc();
    }
    for piece in session.output() {
        socket.push(piece);
    }
}

impl Inbox {
    fn listed(&self) -> Maildrop {
        let listed = |message: &Message| Listed { uid: message.uid, size: message.blob.size };
        Maildrop { uid_validity: self.uid_validity, messages: self.messages.iter().map(listed).collect() }
    }

    /// Whether all of them are gone. Those that another session expunged before count as gone.
    pub async fn expunge(&self, indexes: &[usize]) -> bool {
        let marked: Vec<&Message> = indexes.iter().filter_map(|&index| self.messages.get(index)).collect();
        let entries: BTreeSet<EntryId> = marked.iter().map(|message| message.entry).collect();
        let mut uids: Vec<u32> = marked.iter().map(|message| message.uid).collect();
        for _ in 0..ROUNDS {
            let mut gone = 0;
            for batch in uids.chunks(BATCH) {
                match self.mail.expunge(FolderId::INBOX, batch).await {
                    Ok(expunged) => gone += expunged.len(),
                    Err(failure) => {
                        tracing::info!(%failure, "messages could not be expunged");
                        return false;
                    }
                }
            }
            if gone == uids.len() {
                return true;
            }
            // The others are gone, or got another UID since the log-in (DESIGN 4), or cannot be seen now.
            let Ok(opened) = self.mail.open(FolderId::INBOX).await else { return false };
            if !opened.complete {
                return false;
            }
            let left = opened.messages.iter().filter(|message| entries.contains(&message.entry));
            uids = left.map(|message| message.uid).collect();
            if uids.is_empty() {
                return true;
            }
        }
        false
    }
}

async fn log_in(node: &Arc<Node>, login: &Login) -> Result<Inbox, LoginFailure> {
    let opened = async {
        let mail = Mail::log_in_to_read(node, "pop3", &login.name, &login.password).await?;
        let opened = mail.open(FolderId::INBOX).await?;
        Ok(Inbox { mail, uid_validity: opened.uid_validity, messages: opened.messages })
    };
    opened.await.map_err(|failure: Failure| match failure {
        Failure::BadCredentials => LoginFailure::Refused,
        failure => {
            tracing::info!(%failure, "no login now");
            LoginFailure::Temporary
        }
    })
}

async fn body(inbox: Option<&Inbox>, index: usize) -> Body {
    let Some((inbox, message)) = inbox.and_then(|inbox| Some((inbox, inbox.messages.get(index)?))) else {
        return Body::Gone;
    };
    match inbox.mail.body(message).await {
        Ok(bytes) => Body::Here(bytes),
        Err(Failure::NotFound) => Body::Gone,
        Err(Failure::Locked) => Body::Locked,
        Err(failure) => {
            tracing::info!(%failure, "a body cannot be read now");
            Body::Temporary
        }
    }
}
