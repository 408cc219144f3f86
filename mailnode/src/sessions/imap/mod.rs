//! An IMAP connection: the socket around the `imap` crate's session.

mod backend;

use super::listener::{SessionContext, Stream};
use super::socket::Socket;
use backend::ImapBackend;
use imap::{Config, Next, Session};
use std::io;
use std::sync::Arc;
use tokio::time::{sleep, timeout};

pub async fn session(mut context: SessionContext, stream: Stream) -> io::Result<()> {
    let limits = &context.node.settings.limits;
    let config = Config {
        max_message: u32::try_from(limits.message_bytes).unwrap_or(u32::MAX),
        start_tls: true,
        clear_text_login: context.node.settings.clear_text_login,
    };
    let backend = Arc::new(ImapBackend(context.node.clone()));
    let mut session = Session::new(backend, Arc::new(config), stream.is_tls());
    let mut socket = Socket::new(stream);
    session.greet(&mut socket).await?;
    loop {
        match session.process(&mut socket).await? {
            Next::Read => {}
            Next::Pause(time) => {
                sleep(time).await;
                continue;
            }
            Next::StartTls => {
                socket = socket.upgrade(&context.tls).await?;
                session.tls_started();
                continue;
            }
            Next::Close => return socket.close().await,
        }
        let patience = session.patience();
        let (input, changed) = session.wait();
        tokio::select! {
            read = timeout(patience, socket.read(input)) => match read {
                Err(_) => {
                    session.timed_out(&mut socket).await?;
                    return socket.close().await;
                }
                Ok(read) => {
                    if read? == 0 {
                        return Ok(());
                    }
                }
            },
            () = changed => {
                if session.notify(&mut socket).await? == Next::Close {
                    return socket.close().await;
                }
            }
            () = context.stopped() => {
                session.shut_down(&mut socket).await?;
                return socket.close().await;
            }
        }
    }
}
