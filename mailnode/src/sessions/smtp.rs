//! SMTP, submission and LMTP on a socket: runs the `smtp` crate's session and answers its questions from the
//! cluster (DESIGN 2). Recipients that were pipelined are verified together, all those of one manager in one call.
//!
//! One transaction gives a user one message, through however many addresses it was reached. A recipient is an
//! address, which may lead to several users; it counts as stored if all of them have the message. What was stored
//! only for recipients that failed is taken back, because the client will send to them again (invariant 5).

use super::access::Mail;
use super::listener::{Protocol, SessionContext, Stream};
use super::socket::Socket;
use crate::clock::wall_seconds;
use crate::delivery;
use crate::node::Node;
use crate::wire::{Failure, RecipientState};
use cluster::{Entry, FolderId, MailMap, UserId};
use directory::encryption::PublicKey;
use futures_util::future::join_all;
use smtp::{
    Address, Config, Delivery, Limits, Login, LoginOutcome, Message, Mode, Next, Recipient, Session, Verdict,
};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout;

/// A user that a recipient leads to, and where its mail may go.
#[derive(Clone, Debug)]
struct Target {
    user: UserId,
    mail_map: MailMap,
    seal_to: Option<PublicKey>,
}

type Targets = Vec<Target>;

const fn mode(protocol: Protocol) -> Mode {
    match protocol {
        Protocol::Lmtp => Mode::Lmtp,
        Protocol::Submission | Protocol::Submissions => Mode::Submission,
        _ => Mode::Smtp,
    }
}

/// Serves one connection until either side ends it.
///
/// # Errors
/// If the connection breaks, or TLS cannot be agreed on.
pub async fn session(mut context: SessionContext, stream: Stream) -> io::Result<()> {
    let node = context.node.clone();
    let settings = &node.settings;
    let mode = mode(context.protocol);
    let mut session = Session::new(Config {
        mode,
        host_name: settings.host_name.clone(),
        peer: context.peer.ip().to_canonical(),
        session: context.session,
        tls: stream.is_tls(),
        clear_text_login: settings.clear_text_login,
        limits: Limits {
            message_bytes: settings.limits.message_bytes,
            recipients: settings.limits.recipients,
        },
    });
    let mut socket = Socket::new(stream);
    loop {
        match session.proceed(wall_seconds()) {
            Next::Read => {
                push(&node, mode, &mut session, &mut socket);
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
                push(&node, mode, &mut session, &mut socket);
                socket.flush().await?;
            }
            Next::Verify(addresses) => session.verified(verify(&node, &addresses).await),
            Next::LogIn(login) => session.logged_in(log_in(&node, mode, &login).await),
            Next::Deliver(message) => session.delivered(&deliver(&node, message).await),
            Next::StartTls => {
                push(&node, mode, &mut session, &mut socket);
                socket.flush().await?;
                socket = socket.upgrade(&context.tls).await?;
                session.tls_started();
            }
            Next::Close => {
                push(&node, mode, &mut session, &mut socket);
                return socket.close().await;
            }
        }
    }
}

/// Queues the replies that wait, and counts their commands.
fn push(node: &Node, mode: Mode, session: &mut Session<Targets>, socket: &mut Socket) {
    for (command, outcome) in session.outcomes() {
        node.metrics.commands.with_label_values(&[mode.name(), command, outcome.name()]).inc();
    }
    socket.push(session.output());
}

async fn log_in(node: &Arc<Node>, mode: Mode, login: &Login) -> LoginOutcome {
    match Mail::log_in(node, mode.name(), &login.name, &login.password).await {
        Ok(_) => LoginOutcome::Accepted,
        Err(Failure::BadCredentials) => LoginOutcome::Refused,
        Err(_) => LoginOutcome::Temporary,
    }
}

/// Step 2 of a delivery: addresses to users, and users to their managers' word.
async fn verify(node: &Arc<Node>, addresses: &[Address]) -> Vec<Verdict<Targets>> {
    let resolved = join_all(addresses.iter().map(|address| resolve(node, address))).await;
    let users: HashSet<UserId> = resolved.iter().flatten().flatten().copied().collect();
    let users: Vec<UserId> = users.into_iter().collect();
    let states = if users.is_empty() { BTreeMap::new() } else { node.verify(&users).await };
    resolved
        .into_iter()
        .map(|resolved| match resolved {
            Ok(users) => judge(&users, &states),
            Err(verdict) => verdict,
        })
        .collect()
}

/// The users of an address, or why there are none.
async fn resolve(node: &Arc<Node>, address: &Address) -> Result<Vec<UserId>, Verdict<Targets>> {
    let outcome = if address.domain().is_empty() {
        // RFC 5321 4.5.1: the postmaster of this host.
        node.users.resolve(&format!("{address}@{}", node.settings.host_name)).await
    } else {
        node.users.resolve(address.as_str()).await
    };
    match outcome {
        Ok(users) if users.is_empty() => Err(Verdict::Unknown),
        Ok(users) => Ok(users),
        Err(Failure::Invalid(_)) => Err(Verdict::Malformed),
        Err(Failure::NotFound) if address.domain().is_empty() => Err(Verdict::Unknown),
        Err(Failure::NotFound) => match node.users.is_local_domain(address.domain()).await {
            Ok(true) => Err(Verdict::Unknown),
            Ok(false) => Err(Verdict::Foreign),
            Err(_) => Err(Verdict::Temporary),
        },
        Err(failure) => {
            tracing::info!(%failure, "a recipient cannot be looked up now");
            Err(Verdict::Temporary)
        }
    }
}

/// A recipient is accepted if a user behind it takes the message, and nobody behind it has to wait for it: mail
/// to a full mailbox must not be lost without a word. Accounts that are gone or disabled do not hold up the rest.
fn judge(users: &[UserId], states: &BTreeMap<UserId, Result<RecipientState, Failure>>) -> Verdict<Targets> {
    let mut targets = Vec::with_capacity(users.len());
    let (mut full, mut disabled) = (false, false);
    for user in users {
        match states.get(user) {
            Some(Ok(RecipientState::Accepts { mail_map, seal_to })) => {
                targets.push(Target { user: *user, mail_map: mail_map.clone(), seal_to: *seal_to });
            }
            Some(Ok(RecipientState::Unknown)) => {}
            Some(Ok(RecipientState::Disabled)) => disabled = true,
            Some(Ok(RecipientState::OverQuota)) => full = true,
            Some(Err(_)) | None => return Verdict::Temporary,
        }
    }
    match (full, targets.is_empty(), disabled) {
        (true, _, _) => Verdict::OverQuota,
        (false, false, _) => Verdict::Accepted(targets),
        (false, true, true) => Verdict::Disabled,
        (false, true, false) => Verdict::Unknown,
    }
}

/// Steps 4 to 6: copies for every user, and what to say of every recipient.
async fn deliver(node: &Arc<Node>, message: Message<Targets>) -> Vec<Delivery> {
    let begun = Instant::now();
    let (copies, places) = copies(&message.recipients);
    let count = copies.len();
    let stored: Vec<Option<Entry>> =
        delivery::deliver(node, copies, &message.body).await.into_iter().map(Result::ok).collect();
    let is_stored: Vec<bool> = (0..count).map(|index| matches!(stored.get(index), Some(Some(_)))).collect();
    let failures = is_stored.iter().filter(|stored| !**stored).count();
    let (deliveries, unwanted) = outcome(&places, &is_stored, message.all_or_none);
    let bytes = message.body.len();
    if failures == 0 {
        tracing::info!(id = message.id, recipients = places.len(), copies = count, bytes, "delivered");
    } else {
        node.metrics.delivery_failures.inc_by(failures as u64);
        let taken_back = unwanted.len();
        tracing::warn!(id = message.id, copies = count, failures, taken_back, bytes, "not delivered to all");
        let entries = unwanted.into_iter().filter_map(|index| stored.get(index)?.as_ref());
        join_all(entries.map(|entry| delivery::take_back(node, entry))).await;
    }
    node.metrics.delivery_seconds.observe(begun.elapsed().as_secs_f64());
    deliveries
}

/// One copy for each user, and for each recipient the indexes of its users' copies.
fn copies(recipients: &[Recipient<Targets>]) -> (Vec<delivery::Recipient>, Vec<Vec<usize>>) {
    let mut copies = Vec::with_capacity(recipients.len());
    let mut known: BTreeMap<UserId, usize> = BTreeMap::new();
    let places = recipients
        .iter()
        .map(|recipient| {
            let targets = recipient.target.iter();
            let place = |target: &Target| {
                *known.entry(target.user).or_insert_with(|| {
                    copies.push(delivery::Recipient {
                        user: target.user,
                        mail_map: target.mail_map.clone(),
                        folder: FolderId::INBOX,
                        flags: Vec::new(),
                        internal_date: None,
                        seal_to: target.seal_to,
                    });
                    copies.len() - 1
                })
            };
            targets.map(place).collect()
        })
        .collect();
    (copies, places)
}

/// What to say of each recipient, and which stored copies belong to none that succeeded.
fn outcome(places: &[Vec<usize>], is_stored: &[bool], all_or_none: bool) -> (Vec<Delivery>, Vec<usize>) {
    let stored = |copy: &usize| is_stored.get(*copy).copied().unwrap_or(false);
    let nothing_failed = places.iter().flatten().all(stored);
    let deliveries: Vec<Delivery> = places
        .iter()
        .map(|place| {
            let good = nothing_failed || (!all_or_none && place.iter().all(stored));
            if good { Delivery::Stored } else { Delivery::Failed }
        })
        .collect();
    let succeeded = places.iter().zip(&deliveries).filter(|(_, delivery)| **delivery == Delivery::Stored);
    let wanted: HashSet<usize> = succeeded.flat_map(|(place, _)| place.iter().copied()).collect();
    let unwanted = (0..is_stored.len()).filter(|copy| stored(copy) && !wanted.contains(copy)).collect();
    (deliveries, unwanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Delivery::{Failed, Stored};

    #[test]
    fn smtp_keeps_no_copy_if_one_failed() {
        let places = [vec![0], vec![1, 2], vec![0]];
        assert_eq!(outcome(&places, &[true, true, true], true), (vec![Stored, Stored, Stored], vec![]));
        assert_eq!(outcome(&places, &[true, true, false], true), (vec![Failed, Failed, Failed], vec![0, 1]));
    }

    #[test]
    fn lmtp_keeps_the_copies_of_the_recipients_that_succeeded() {
        let places = [vec![0], vec![1, 2], vec![0, 1]];
        assert_eq!(outcome(&places, &[true, true, false], false), (vec![Stored, Failed, Stored], vec![]));
        assert_eq!(outcome(&places, &[false, true, true], false), (vec![Failed, Stored, Failed], vec![]));
        assert_eq!(outcome(&places[..2], &[true, true, false], false), (vec![Stored, Failed], vec![1]));
    }

    #[test]
    fn a_full_mailbox_behind_an_alias_is_not_forgotten() {
        let accepts = || Ok(RecipientState::Accepts { mail_map: MailMap::default(), seal_to: None });
        let states = BTreeMap::from([
            (UserId(1), accepts()),
            (UserId(2), Ok(RecipientState::OverQuota)),
            (UserId(3), Ok(RecipientState::Disabled)),
            (UserId(4), Err(Failure::Temporary("away".into()))),
            (UserId(5), Ok(RecipientState::Unknown)),
        ]);
        let judged =
            |users: &[u128]| judge(&users.iter().map(|user| UserId(*user)).collect::<Vec<_>>(), &states);
        assert!(matches!(judged(&[1, 3, 5]), Verdict::Accepted(targets) if targets.len() == 1));
        assert!(matches!(judged(&[1, 2]), Verdict::OverQuota));
        assert!(matches!(judged(&[1, 2, 4]), Verdict::Temporary));
        assert!(matches!(judged(&[3, 5]), Verdict::Disabled));
        assert!(matches!(judged(&[5]), Verdict::Unknown));
    }
}
