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
use crate::lists;
use crate::node::Node;
use crate::outbound::accept::{Outgoing, accept};
use crate::wire::{Failure, RecipientState};
use cluster::{Entry, FolderId, MailMap, UserId};
use directory::Address as ListAddress;
use directory::accounts::Resolved;
use directory::encryption::PublicKey;
use futures_util::future::join_all;
use outbound::Destination;
use smtp::{
    Address, Config, Delivery, Limits, Login, LoginOutcome, Message, Mode, Next, Recipient, SenderOutcome,
    Session, Verdict,
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

/// Where the mail of a recipient goes.
#[derive(Clone, Debug)]
enum Targets {
    Here {
        users: Vec<Target>,
        lists: Vec<ListAddress>,
    },
    /// To another server: only for those who logged in.
    Elsewhere,
}

impl Targets {
    fn lists(&self) -> &[ListAddress] {
        match self {
            Self::Here { lists, .. } => lists,
            Self::Elsewhere => &[],
        }
    }
}

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
    let mut user: Option<UserId> = None;
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
            Next::Sender(address) => session.sender_checked(may_send_as(&node, user, &address).await),
            Next::Verify(addresses) => {
                let sender = session.sender().map(ToString::to_string);
                session.verified(verify(&node, &addresses, user, sender.as_deref()).await);
            }
            Next::LogIn(login) => {
                let outcome;
                (outcome, user) = log_in(&node, mode, &login).await;
                session.logged_in(outcome);
            }
            Next::Deliver(message) => session.delivered(&deliver(&node, message).await),
            Next::StartTls => {
                push(&node, mode, &mut session, &mut socket);
                socket.flush().await?;
                socket = socket.upgrade(&context.tls).await?;
                session.tls_started();
                user = None;
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

async fn log_in(node: &Arc<Node>, mode: Mode, login: &Login) -> (LoginOutcome, Option<UserId>) {
    match Mail::log_in(node, mode.name(), &login.name, &login.password).await {
        Ok(mail) => (LoginOutcome::Accepted, Some(mail.user)),
        Err(Failure::BadCredentials) => (LoginOutcome::Refused, None),
        Err(_) => (LoginOutcome::Temporary, None),
    }
}

/// RFC 6409 6.1: a user sends as an address whose mail reaches them, which includes aliases and `user+detail`.
async fn may_send_as(node: &Arc<Node>, user: Option<UserId>, address: &Address) -> SenderOutcome {
    let Some(user) = user else { return SenderOutcome::Refused };
    match resolve(node, address).await {
        Ok(Resolved { users, .. }) if users.contains(&user) => SenderOutcome::Accepted,
        Err(Verdict::Temporary) => SenderOutcome::Temporary,
        _ => SenderOutcome::Refused,
    }
}

/// Step 2 of a delivery: addresses to users, and users to their managers' word.
async fn verify(
    node: &Arc<Node>,
    addresses: &[Address],
    user: Option<UserId>,
    sender: Option<&str>,
) -> Vec<Verdict<Targets>> {
    let resolved = join_all(addresses.iter().map(|address| resolve(node, address))).await;
    let users: HashSet<UserId> =
        resolved.iter().flatten().flat_map(|resolved| &resolved.users).copied().collect();
    let users: Vec<UserId> = users.into_iter().collect();
    let states = if users.is_empty() { BTreeMap::new() } else { node.verify(&users).await };
    let relays = user.is_some() && node.outbound.settings.enabled;
    let mut verdicts = Vec::with_capacity(addresses.len());
    for (resolved, address) in resolved.into_iter().zip(addresses) {
        verdicts.push(match resolved {
            Ok(Resolved { users, lists }) if lists.is_empty() => judge(&users, &states, lists),
            Ok(Resolved { users, lists }) => match may_post(node, &lists, sender).await {
                Ok(true) => judge(&users, &states, lists),
                Ok(false) => Verdict::NotAllowed,
                Err(_) => Verdict::Temporary,
            },
            // Only for our own users: nobody else may send through us (RFC 5321 7.9).
            Err(Verdict::Foreign) if relays => match Destination::of(address.as_str()) {
                Ok(_) => Verdict::Accepted(Targets::Elsewhere),
                Err(_) => Verdict::Malformed,
            },
            Err(verdict) => verdict,
        });
    }
    verdicts
}

/// True if the sender may post to all of them.
async fn may_post(node: &Arc<Node>, lists: &[ListAddress], sender: Option<&str>) -> Result<bool, Failure> {
    for list in lists {
        if !lists::may_post(node, list, sender).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where an address leads, or why it leads nowhere.
async fn resolve(node: &Arc<Node>, address: &Address) -> Result<Resolved, Verdict<Targets>> {
    let outcome = if address.domain().is_empty() {
        // RFC 5321 4.5.1: the postmaster of this host.
        node.users.resolve(&format!("{address}@{}", node.settings.host_name)).await
    } else {
        node.users.resolve(address.as_str()).await
    };
    match outcome {
        Ok(resolved) => Ok(resolved),
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
fn judge(
    users: &[UserId],
    states: &BTreeMap<UserId, Result<RecipientState, Failure>>,
    lists: Vec<ListAddress>,
) -> Verdict<Targets> {
    let mut targets = Vec::with_capacity(users.len());
    let (mut full, mut disabled) = (false, false);
    for user in users {
        match states.get(user) {
            Some(Ok(RecipientState::Accepts { mail_map, seal_to, .. })) => {
                targets.push(Target { user: *user, mail_map: mail_map.clone(), seal_to: *seal_to });
            }
            Some(Ok(RecipientState::Unknown)) => {}
            Some(Ok(RecipientState::Disabled)) => disabled = true,
            Some(Ok(RecipientState::OverQuota)) => full = true,
            Some(Err(_)) | None => return Verdict::Temporary,
        }
    }
    match (full, targets.is_empty() && lists.is_empty(), disabled) {
        (true, _, _) => Verdict::OverQuota,
        (false, false, _) => Verdict::Accepted(Targets::Here { users: targets, lists }),
        (false, true, true) => Verdict::Disabled,
        (false, true, false) => Verdict::Unknown,
    }
}

/// Steps 4 to 6: copies for every user, then the outbound queue, and what to say of every recipient.
async fn deliver(node: &Arc<Node>, message: Message<Targets>) -> Vec<Delivery> {
    let begun = Instant::now();
    let (copies, places) = copies(&message.recipients);
    let count = copies.len();
    let stored: Vec<Option<Entry>> = if count > 0 {
        delivery::deliver(node, copies, &message.body).await.into_iter().map(Result::ok).collect()
    } else {
        Vec::new()
    };
    let is_stored: Vec<bool> = (0..count).map(|index| matches!(stored.get(index), Some(Some(_)))).collect();
    let failures = is_stored.iter().filter(|stored| !**stored).count();
    // Last, because a queued message may be on its way before it could be taken back.
    let queued = failures > 0 || queue(node, &message).await;
    let (deliveries, unwanted) = if queued {
        outcome(&places, &is_stored, message.all_or_none)
    } else {
        (vec![Delivery::Failed; places.len()], (0..count).collect())
    };
    let bytes = message.body.len();
    if failures == 0 && queued {
        tracing::info!(id = message.id, recipients = places.len(), copies = count, bytes, "delivered");
    } else {
        node.metrics.delivery_failures.inc_by(failures as u64);
        let taken_back = unwanted.len();
        tracing::warn!(
            id = message.id,
            copies = count,
            failures,
            queued,
            taken_back,
            bytes,
            "not delivered to all"
        );
        let entries = unwanted.into_iter().filter_map(|index| stored.get(index)?.as_ref());
        join_all(entries.map(|entry| delivery::take_back(node, entry))).await;
    }
    node.metrics.delivery_seconds.observe(begun.elapsed().as_secs_f64());
    deliveries
}

/// What goes to mailing lists and to other servers, in the queue. True if there is nothing, or all of it is durable.
async fn queue(node: &Arc<Node>, message: &Message<Targets>) -> bool {
    let elsewhere = |recipient: &&Recipient<Targets>| matches!(recipient.target, Targets::Elsewhere);
    let mut known = HashSet::new();
    let addresses =
        message.recipients.iter().filter(elsewhere).map(|recipient| recipient.address.to_string());
    let recipients: Vec<String> = addresses.filter(|address| known.insert(address.clone())).collect();
    let content = message.body.get(message.return_path..).unwrap_or_default();
    let mut posted = HashSet::new();
    for list in message.recipients.iter().flat_map(|recipient| recipient.target.lists()) {
        if posted.insert(list.key())
            && let Err(failure) = lists::accept(node, list, message.utf8, &message.id, content).await
        {
            tracing::warn!(id = message.id, %list, %failure, "not queued");
            return false;
        }
    }
    if recipients.is_empty() {
        return true;
    }
    let outgoing = Outgoing {
        sender: message.sender.as_ref().map(ToString::to_string),
        recipients,
        utf8: message.utf8,
        id: &message.id,
        message: content,
    };
    match accept(node, outgoing).await {
        Ok(_) => true,
        Err(failure) => {
            tracing::warn!(id = message.id, %failure, "not queued");
            false
        }
    }
}

/// One copy for each user, and for each recipient the indexes of its users' copies.
fn copies(recipients: &[Recipient<Targets>]) -> (Vec<delivery::Recipient>, Vec<Vec<usize>>) {
    let mut copies = Vec::with_capacity(recipients.len());
    let mut known: BTreeMap<UserId, usize> = BTreeMap::new();
    let places = recipients
        .iter()
        .map(|recipient| {
            let targets = match &recipient.target {
                Targets::Here { users, .. } => users.as_slice(),
                Targets::Elsewhere => &[],
            };
            let place = |target: &Target| {
                *known.entry(target.user).or_insert_with(|| {
                    copies.push(delivery::Recipient {
                        user: target.user,
                        mail_map: target.mail_map.clone(),
                        folder: FolderId::INBOX,
                        flags: Vec::new(),
                        internal_date: None,
                        seal_to: target.seal_to,
                        fixed: None,
                    });
                    copies.len() - 1
                })
            };
            targets.iter().map(place).collect()
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
        let accepts =
            || Ok(RecipientState::Accepts { mail_map: MailMap::default(), seal_to: None, signature: None });
        let states = BTreeMap::from([
            (UserId(1), accepts()),
            (UserId(2), Ok(RecipientState::OverQuota)),
            (UserId(3), Ok(RecipientState::Disabled)),
            (UserId(4), Err(Failure::Temporary("away".into()))),
            (UserId(5), Ok(RecipientState::Unknown)),
        ]);
        let judged = |users: &[u128]| {
            judge(&users.iter().map(|user| UserId(*user)).collect::<Vec<_>>(), &states, Vec::new())
        };
        assert!(
            matches!(judged(&[1, 3, 5]), Verdict::Accepted(Targets::Here { users, .. }) if users.len() == 1)
        );
        assert!(matches!(judged(&[1, 2]), Verdict::OverQuota));
        assert!(matches!(judged(&[1, 2, 4]), Verdict::Temporary));
        assert!(matches!(judged(&[3, 5]), Verdict::Disabled));
        assert!(matches!(judged(&[5]), Verdict::Unknown));
    }
}
