//! One client's session: takes commands from the stream, runs them in order, and says what the driver must do next.
//!
//! What holds for every session:
//! - Commands run one after another in the order they came, so pipelining is safe (RFC 9051 5.5).
//! - After nearly every command the session syncs with the backend and reports what others did, before the tagged response.
//! - Passwords are taken under TLS only, unless the configuration says otherwise (RFC 9051 6.2.3).
//! - Nothing that came before STARTTLS is used after it (RFC 9051 6.2.1).
//! - Bad commands, failed logins and time without login are bounded (see [`crate::config`]).

use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::backend::{Backend, Outcome};
use crate::command;
use crate::config::{self, Config};
use crate::logged_in::{Gone, LoggedIn};
use crate::mailbox::Mailbox;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::syntax::command::{Body, Command};
use crate::syntax::decoder::{Decoder, Input, Piece, Refusal};
use crate::syntax::parse;

/// The name in metrics of what is no command.
const INVALID: &str = "INVALID";

/// What the driver does after [`Session::process`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read more, then call `process` again.
    Read,
    /// Wait this long (a failed login), then call `process` again; what was pushed is flushed then.
    Pause(Duration),
    /// Start TLS on the connection, then call [`Session::tls_started`].
    StartTls,
    /// Everything is said: close the connection.
    Close,
}

pub struct Session<B: Backend> {
    pub(crate) backend: Arc<B>,
    pub(crate) config: Arc<Config>,
    pub(crate) tls: bool,
    started: Instant,
    /// When the client was last heard of, or was last done with an answer.
    heard: Instant,
    /// What it had sent by then that is no complete command.
    incomplete: usize,
    heard_of: bool,
    pub(crate) decoder: Decoder,
    pub(crate) waiting: Waiting,
    pub(crate) user: Option<LoggedIn<B::Account>>,
    /// What `process` returns after the command that runs.
    pub(crate) next: Option<Next>,
    bad_commands: u32,
    pub(crate) failed_logins: u32,
    /// What the user has to be told about their account, once.
    pub(crate) alert: Option<String>,
}

/// What the client's next line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Command,
    /// The response of SASL PLAIN.
    Authenticate {
        tag: String,
    },
    /// DONE.
    Idle {
        tag: String,
    },
}

/// What the sync after a command does.
#[derive(Clone, Copy, Debug)]
struct After {
    sync: bool,
    expunge: bool,
    uid: bool,
}

impl After {
    fn command(body: &Body) -> After {
        let (expunge, uid) = match body {
            // RFC 9051 7.5.1: no EXPUNGE in these, because their successors may have numbers of the client's in flight.
            Body::Fetch(fetch) => (fetch.uid, fetch.uid),
            Body::Store(store) => (store.uid, store.uid),
            Body::Search(search) => (search.uid, search.uid),
            Body::Expunge { uids } => (true, uids.is_some()),
            Body::Copy { uid, .. } | Body::Move { uid, .. } => (true, *uid),
            _ => (true, false),
        };
        // SELECT has just told everything.
        After { sync: !matches!(body, Body::Select { .. } | Body::Logout), expunge, uid }
    }
}

impl<B: Backend> Session<B> {
    /// `tls`: the connection has been under TLS from its start.
    pub fn new(backend: Arc<B>, config: Arc<Config>, tls: bool) -> Session<B> {
        Session {
            decoder: Decoder::new(config.limits()),
            backend,
            config,
            tls,
            started: Instant::now(),
            heard: Instant::now(),
            incomplete: 0,
            heard_of: false,
            waiting: Waiting::Command,
            user: None,
            next: None,
            bad_commands: 0,
            failed_logins: 0,
            alert: None,
        }
    }

    /// Says hello, and flushes.
    pub async fn greet<O: Output>(&mut self, output: &mut O) -> io::Result<()> {
        let mut out = Responses::new(output);
        out.line(format_args!("* OK [CAPABILITY {}] Prickle is ready", self.capabilities()));
        out.flush().await
    }

    /// TLS is up. Drops what was read in clear text.
    pub fn tls_started(&mut self) {
        self.decoder.clear();
        self.tls = true;
    }

    /// How long the client may be silent now.
    pub fn patience(&self) -> Duration {
        match self.user {
            // Counted here, because the driver's timer starts anew whenever an idling client is notified.
            Some(_) => config::IDLE_TIME.saturating_sub(self.heard.elapsed()),
            // All the time until login counts, so that a client cannot stay by sending a byte now and then.
            None => config::LOGIN_TIME.saturating_sub(self.started.elapsed()),
        }
    }

    /// Where to read into, and a future that resolves when a client should be notified that idles or asked for it
    /// (RFC 5465); for other clients, never.
    pub fn wait(&mut self) -> (&mut BytesMut, impl Future<Output = ()> + Send) {
        let idling = matches!(self.waiting, Waiting::Idle { .. });
        let user = self.user.as_ref();
        let user = user.filter(|user| user.notify.is_some() || (idling && user.selected.is_some()));
        let changed = async move {
            match user {
                Some(user) => command::notify::changed(user).await,
                None => pending().await,
            }
        };
        (self.decoder.buffer(), changed)
    }

    /// Tells an idling or watching client what happened, and flushes. [`Next::Close`] if its mailbox is gone.
    pub async fn notify<O: Output>(&mut self, output: &mut O) -> io::Result<Next> {
        let mut out = Responses::new(output);
        let idling = matches!(self.waiting, Waiting::Idle { .. });
        let Some(user) = &self.user else { return Ok(self.next.unwrap_or(Next::Read)) };
        let (sync, expunge) = match (&user.notify, user.selected_group()) {
            (None, _) => (idling, true),
            (Some(_), Some(group)) => (group.events.messages, idling || !group.delayed),
            (Some(_), None) => (false, false),
        };
        if self.sync(After { sync, expunge, uid: false }, &mut out).await?.is_err() {
            self.mailbox_gone(&mut out);
        } else if let Some(user) = self.user.as_mut().filter(|user| user.notify.is_some()) {
            Box::pin(command::notify::tell(user, &mut out)).await?;
        }
        out.flush().await?;
        Ok(self.next.unwrap_or(Next::Read))
    }

    /// Says goodbye to a client that was silent for longer than [`Session::patience`], and flushes.
    pub async fn timed_out<O: Output>(&mut self, output: &mut O) -> io::Result<()> {
        self.goodbye(output, "Logged out because of inactivity").await
    }

    /// Says goodbye because the server stops, and flushes.
    pub async fn shut_down<O: Output>(&mut self, output: &mut O) -> io::Result<()> {
        self.goodbye(output, "The server is going down, please connect again").await
    }

    async fn goodbye<O: Output>(&mut self, output: &mut O, text: &str) -> io::Result<()> {
        let mut out = Responses::new(output);
        self.bye(text, &mut out);
        out.flush().await
    }

    /// Runs every complete command that was read, and flushes.
    pub async fn process<O: Output>(&mut self, output: &mut O) -> io::Result<Next> {
        let mut out = Responses::new(output);
        let next = self.run(&mut out).await?;
        match next {
            Next::Pause(_) => out.push(),
            _ => out.flush().await?,
        }
        let incomplete = self.decoder.buffered();
        if self.heard_of || incomplete != self.incomplete {
            (self.heard, self.heard_of, self.incomplete) = (Instant::now(), false, incomplete);
        }
        Ok(next)
    }

    async fn run<O: Output>(&mut self, out: &mut Responses<'_, O>) -> io::Result<Next> {
        loop {
            match self.next {
                Some(Next::Close) => return Ok(Next::Close),
                Some(next) => {
                    self.next = None;
                    return Ok(next);
                }
                None => {}
            }
            let Some(input) = self.decoder.next() else { return Ok(Next::Read) };
            self.heard_of = true;
            match input {
                Input::Command(pieces) => self.command(&pieces, out).await?,
                Input::Line(line) => self.line(line, out).await?,
                Input::Continue => out.line(format_args!("+ OK")),
                Input::Refused { tag, refusal } => self.refused(tag, refusal, out),
                Input::Flood => self.bye("Too much data", out),
            }
            out.flush_if_full().await?;
        }
    }

    async fn command<O: Output>(&mut self, pieces: &[Piece], out: &mut Responses<'_, O>) -> io::Result<()> {
        let utf8_names = self.user.as_ref().is_some_and(|user| user.enabled.rev2);
        let Command { tag, body } = match parse::parse(pieces, utf8_names) {
            Ok(command) => command,
            Err(error) => {
                let tag = error.tag.unwrap_or_else(|| "*".to_owned());
                self.backend.record(INVALID, Outcome::Bad, Duration::ZERO);
                self.reply(&tag, Reply::bad(error.reason.0), out);
                return Ok(());
            }
        };
        let (name, after, started) = (body.name(), After::command(&body), Instant::now());
        let result = self.execute(&tag, body, out).await;
        self.finish(&tag, name, after, started, result, out).await
    }

    /// Runs a command. `None`: its reply comes later.
    async fn execute<O: Output>(
        &mut self,
        tag: &str,
        body: Body,
        out: &mut Responses<'_, O>,
    ) -> Result<Option<Reply>, Stop> {
        let reply = match body {
            Body::Capability => {
                out.line(format_args!("* CAPABILITY {}", self.capabilities()));
                Reply::ok("CAPABILITY completed")
            }
            Body::Noop => Reply::ok("NOOP completed"),
            Body::Logout => {
                self.bye("Goodbye", out);
                Reply::ok("LOGOUT completed")
            }
            Body::Id => {
                out.line(format_args!("* ID (\"name\" \"Prickle\")"));
                Reply::ok("ID completed")
            }
            Body::StartTls => self.start_tls()?,
            Body::Login { name, password } => self.login(name, password).await?,
            Body::Authenticate { mechanism, initial } => {
                return self.authenticate(tag, &mechanism, initial, out).await;
            }
            body => {
                let Some(user) = &mut self.user else {
                    return Err(Reply::bad("Log in first").into());
                };
                if let Body::Idle = body {
                    self.waiting = Waiting::Idle { tag: tag.to_owned() };
                    self.decoder.set_line_mode(true);
                    out.line(format_args!("+ idling"));
                    return Ok(None);
                }
                command::run(user, tag, body, out).await?
            }
        };
        Ok(Some(reply))
    }

    async fn finish<O: Output>(
        &mut self,
        tag: &str,
        name: &'static str,
        after: After,
        started: Instant,
        result: Result<Option<Reply>, Stop>,
        out: &mut Responses<'_, O>,
    ) -> io::Result<()> {
        let reply = match result {
            Ok(reply) => reply,
            Err(Stop::Reply(reply)) => Some(reply),
            Err(Stop::Io(error)) => return Err(error),
        };
        if let Some(text) = self.alert.take() {
            out.line(format_args!("* {}", Reply::ok(text).code("ALERT").line()));
        }
        let synced = self.sync(after, out).await?;
        if let Some(reply) = reply {
            self.backend.record(name, reply.outcome, started.elapsed());
            self.reply(tag, reply, out);
        }
        if synced.is_err() {
            self.mailbox_gone(out);
        }
        Ok(())
    }

    /// Shows the client what others did.
    async fn sync<O: Output>(
        &mut self,
        after: After,
        out: &mut Responses<'_, O>,
    ) -> io::Result<Result<(), Gone>> {
        let Some(user) = self.user.as_mut().filter(|_| after.sync) else { return Ok(Ok(())) };
        let synced = user.sync().await;
        if synced.is_ok() {
            let known = user.selected.as_ref().map_or(0, Mailbox::highest_announced);
            user.report(after.expunge, after.uid, out).await?;
            // Boxed, as few need it: else every session's future, and the stack that it is polled on, would have room for it.
            if user.selected_group().is_some_and(|group| !group.attributes.is_empty()) {
                Box::pin(command::notify::fetch_new(user, known, out)).await?;
            }
        }
        Ok(synced)
    }

    /// There is no response that takes a client out of the selected state, so it must connect again; every client does.
    fn mailbox_gone<O: Output>(&mut self, out: &mut Responses<'_, O>) {
        if let Some(user) = &mut self.user {
            user.selected = None;
        }
        self.bye("The selected mailbox was deleted or replaced, please connect again", out);
    }

    fn reply<O: Output>(&mut self, tag: &str, reply: Reply, out: &mut Responses<'_, O>) {
        out.line(format_args!("{tag} {}", reply.line()));
        match reply.outcome {
            Outcome::Bad => self.bad_commands += 1,
            _ => self.bad_commands = 0,
        }
        if self.bad_commands >= config::MAX_BAD_COMMANDS {
            self.bye("Too many bad commands", out);
        }
        if self.failed_logins >= config::MAX_FAILED_LOGINS && self.user.is_none() {
            self.bye("Too many failed logins", out);
        }
    }

    pub(crate) fn bye<O: Output>(&mut self, text: &str, out: &mut Responses<'_, O>) {
        if self.next != Some(Next::Close) {
            out.line(format_args!("* BYE {text}"));
            self.next = Some(Next::Close);
        }
    }

    fn refused<O: Output>(&mut self, tag: Option<Bytes>, refusal: Refusal, out: &mut Responses<'_, O>) {
        let reply = match refusal {
            Refusal::LineTooLong => Reply::bad("The command is too long"),
            // RFC 7889 4.
            Refusal::LiteralTooLong if self.user.is_some() => Reply::no("TOOBIG", "The literal is too large"),
            Refusal::LiteralTooLong => Reply::bad("The literal is too large"),
        };
        // Only what the grammar calls a tag is sent back.
        let tag = match std::mem::replace(&mut self.waiting, Waiting::Command) {
            Waiting::Authenticate { tag } | Waiting::Idle { tag } => tag,
            Waiting::Command => tag.and_then(parse::tag).unwrap_or_else(|| "*".to_owned()),
        };
        self.decoder.set_line_mode(false);
        self.backend.record(INVALID, reply.outcome, Duration::ZERO);
        self.reply(&tag, reply, out);
    }

    /// The line that IDLE or AUTHENTICATE waited for.
    async fn line<O: Output>(&mut self, line: Bytes, out: &mut Responses<'_, O>) -> io::Result<()> {
        self.decoder.set_line_mode(false);
        let started = Instant::now();
        match std::mem::replace(&mut self.waiting, Waiting::Command) {
            Waiting::Command => Ok(()),
            Waiting::Idle { tag } => {
                let reply = if line.trim_ascii().eq_ignore_ascii_case(b"DONE") {
                    Reply::ok("IDLE completed")
                } else {
                    Reply::bad("Expected DONE")
                };
                let after = After { sync: true, expunge: true, uid: false };
                self.finish(&tag, "IDLE", after, started, Ok(Some(reply)), out).await
            }
            Waiting::Authenticate { tag } => {
                let result = self.sasl_plain(&line).await.map(Some);
                let after = After { sync: false, expunge: false, uid: false };
                self.finish(&tag, "AUTHENTICATE", after, started, result, out).await
            }
        }
    }
}
