//! Delivery of a new message to its recipients' replicas (DESIGN 2): placement, durable copies, notice to the
//! managers. The same for SMTP, LMTP and IMAP APPEND.

use crate::clock::{new_entry_id, wall_seconds};
use crate::environment;
use crate::node::Node;
use crate::parts;
use crate::wire::{Failure, PendingEntry, Request, Response};
use bytes::Bytes;
use cluster::{
    Entry, EntryId, Flag, FolderId, Location, MailMap, NodeId, Progress, Register, ReplicaWrite, StoreCall,
    Timestamp, UserId, is_queue_user, placement,
};
use directory::encryption::PublicKey;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const TAKE_BACK_AGAIN: Duration = Duration::from_secs(3);
const TAKE_BACK_TRIES: u32 = 40;
/// A shorter body is sent without asking whether it is there.
const SMALL: usize = 4 * 1024;
/// A replica that has not acknowledged by now is replaced (and its late answer still counts).
const SLOW: Duration = Duration::from_millis(800);
/// A replica that has not answered by now never will.
const DEADLINE: Duration = Duration::from_secs(15);

/// Where one copy of a message goes.
#[derive(Clone, Debug)]
pub struct Recipient {
    pub user: UserId,
    pub mail_map: MailMap,
    pub folder: FolderId,
    pub flags: Vec<Flag>,
    /// Unix seconds; now if absent.
    pub internal_date: Option<i64>,
    /// The key of the user's that the body's key is sealed to; the cluster can read the body if absent.
    pub seal_to: Option<PublicKey>,
    /// For a delivery that may be repeated.
    pub fixed: Option<Fixed>,
}

/// What is the same each time that a delivery is tried, so that trying again gives no second message.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    pub id: EntryId,
    /// Earlier than whatever its user does to it.
    pub at: Timestamp,
    /// It was tried before: wherever copies were made, they are told of those that are made now.
    pub again: bool,
}

/// Delivers one message. For each recipient: the entry that is on `minCopies` disks now, or why not.
pub async fn deliver(
    node: &Arc<Node>,
    recipients: Vec<Recipient>,
    body: &[u8],
) -> Vec<Result<Entry, Failure>> {
    let refused = |failure: Failure| recipients.iter().map(|_| Err(failure.clone())).collect();
    // Its big parts are on `minCopies` disks when this returns.
    let sealed = match parts::sealed(node, body).await {
        Ok(sealed) => sealed,
        Err(failure) => return refused(failure),
    };
    let at = node.clock.now();
    let wrap = |recipient: &Recipient| sealed.blob(&node.keys, recipient.user, recipient.seal_to, at);
    let blobs = match recipients.iter().map(wrap).collect::<Result<Vec<_>, _>>() {
        Ok(blobs) => blobs,
        // Never wrapped otherwise than was asked for.
        Err(error) => return refused(Failure::Temporary(error.to_string())),
    };
    let ciphertext = sealed.ciphertext;
    let entries: Vec<Entry> = recipients
        .iter()
        .zip(blobs)
        .map(|(recipient, blob)| Entry {
            id: recipient.fixed.map_or_else(new_entry_id, |fixed| fixed.id),
            user: recipient.user,
            blob,
            internal_date: recipient.internal_date.unwrap_or_else(wall_seconds),
            location: Location {
                folder: recipient.folder,
                at: recipient.fixed.map_or(at, |fixed| fixed.at),
                uid: None,
            },
            flags: recipient
                .flags
                .iter()
                .map(|flag| (flag.clone(), Register::new(true, at)))
                .collect::<BTreeMap<_, _>>(),
            modseq: 0,
            replicas: Register::new(Vec::new(), at),
            expunged: None,
        })
        .collect();
    // Others' load rides on their messages; our own does not come by itself.
    node.topology.report_load(node.id, node.load());
    let orders = recipients
        .iter()
        .map(|recipient| {
            let candidates = node.topology.candidates(recipient.user);
            let copies = node.settings.replication.factor;
            placement::choose(
                node.settings.placement,
                copies,
                &candidates,
                &recipient.mail_map,
                environment::random(),
            )
        })
        .collect();
    let view = &node.topology.now().view;
    let everybody = view.members.iter().map(|member| member.id);
    let again = recipients.iter().any(|recipient| recipient.fixed.is_some_and(|fixed| fixed.again));
    let further = if again { everybody.collect() } else { Vec::new() };
    // Many writes of one message: after the first its body is there.
    let bare = recipients.iter().any(|recipient| recipient.fixed.is_some()) && ciphertext.len() > SMALL;
    let outcomes = write(node, entries, orders, ciphertext, &further, bare).await;
    let durable = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok());
    // What is queued for other servers is counted there.
    node.metrics.delivered.inc_by(durable.filter(|entry| !is_queue_user(entry.user)).count() as u64);
    outcomes
}

/// The shell around [`ReplicaWrite`].
async fn write(
    node: &Arc<Node>,
    mut entries: Vec<Entry>,
    orders: Vec<Vec<NodeId>>,
    body: Bytes,
    further: &[NodeId],
    bare: bool,
) -> Vec<Result<Entry, Failure>> {
    let replication = node.settings.replication;
    let mut write = ReplicaWrite::new(replication.factor, replication.min_copies, orders);
    let mut running = FuturesUnordered::new();
    let mut timers = FuturesUnordered::new();
    let mut first = true;
    loop {
        let calls = write.next_calls();
        if !calls.is_empty() {
            if !first {
                node.metrics.replaced_replicas.inc_by(calls.len() as u64);
            }
            // A replacement changes the replica set: the new version is later than what the others were sent.
            let at = if first { None } else { Some(node.clock.now()) };
            first = false;
            let asked: Vec<usize> = calls.iter().flat_map(|call| call.recipients.clone()).collect();
            set_replicas(&write, &mut entries, &asked, at);
        }
        for call in calls {
            let pending = call.recipients.iter().filter_map(|&index| {
                let entry = entries.get(index)?.clone();
                let told = entry
                    .replicas
                    .value
                    .iter()
                    .copied()
                    .chain(write.given_up(index))
                    .chain(further.iter().copied());
                let pending: BTreeSet<NodeId> = told.filter(|&other| other != call.node).collect();
                Some(PendingEntry { entry, pending: pending.into_iter().collect() })
            });
            let request = Request::Store { entries: pending.collect() };
            let (node, body) = (node.clone(), body.clone());
            timers.push(slow_timer(call.clone()));
            running.push(async move {
                if bare && let Ok(Response::Done) = node.call(call.node, request.clone(), DEADLINE).await {
                    return (call, true);
                }
                let outcome = node.call_with(call.node, request, body, DEADLINE).await;
                (call, matches!(outcome, Ok((Response::Done, _))))
            });
        }
        if write.is_decided() {
            break;
        }
        if !step(&mut write, &mut running, &mut timers).await {
            break;
        }
    }
    retire(node, &write, &entries);
    let untold = tell_replicas(node, &write, &mut entries).await;
    finish_in_background(node, write.clone(), entries.clone(), running);
    let mut outcomes = Vec::with_capacity(entries.len());
    for (index, mut entry) in entries.into_iter().enumerate() {
        if write.progress(index) == Progress::Durable && !untold.contains(&entry.id) {
            outcomes.push(Ok(entry));
            continue;
        }
        // The client will send it again: the copies that are, or may yet arrive, must not stay.
        entry.replicas = Register::new(write.asked(index), node.clock.now());
        let node = node.clone();
        tokio::spawn(async move { take_back(&node, &entry).await });
        outcomes
            .push(Err(Failure::Temporary("too few nodes could store the message; try again later".into())));
    }
    outcomes
}

/// Waits for the next answer to a call, or for one to be slow. False: nothing is under way any more.
pub async fn step(
    write: &mut ReplicaWrite,
    running: &mut FuturesUnordered<impl Future<Output = (StoreCall, bool)>>,
    timers: &mut FuturesUnordered<impl Future<Output = StoreCall>>,
) -> bool {
    tokio::select! {
        biased;
        Some((call, stored)) = running.next() => {
            if stored { write.acked(&call) } else { write.failed(&call) }
        }
        Some(call) = timers.next() => write.slow(&call),
        else => return false,
    }
    true
}

async fn slow_timer(call: StoreCall) -> StoreCall {
    tokio::time::sleep(SLOW).await;
    call
}

fn set_replicas(write: &ReplicaWrite, entries: &mut [Entry], which: &[usize], at: Option<Timestamp>) {
    for &index in which {
        if let Some(entry) = entries.get_mut(index) {
            entry.replicas = Register::new(write.replicas(index), at.unwrap_or(entry.replicas.at));
        }
    }
}

/// A replica that was given up has the message after all, and its replacement was sent a set without it: those who have
/// the message are told of each other before it is acknowledged. Returns whom too few disks know of.
async fn tell_replicas(node: &Arc<Node>, write: &ReplicaWrite, entries: &mut [Entry]) -> BTreeSet<EntryId> {
    let is_other = |(index, entry): &(usize, &Entry)| {
        write.progress(*index) == Progress::Durable && entry.replicas.value != write.replicas(*index)
    };
    let which: Vec<usize> = entries.iter().enumerate().filter(is_other).map(|(index, _)| index).collect();
    if which.is_empty() {
        return BTreeSet::new();
    }
    set_replicas(write, entries, &which, Some(node.clock.now()));
    let changed: Vec<Entry> = which.iter().filter_map(|&index| entries.get(index).cloned()).collect();
    let pushed = node.replication.push(node, changed.clone()).await;
    node.notices.send(node, changed, None);
    pushed.failed().map(|entry| entry.id).collect()
}

/// Tells the holders of the final version about each other. Holders of an earlier one (they were sent another
/// replica set) learn the final one from the update log of the replacement.
fn retire(node: &Arc<Node>, write: &ReplicaWrite, entries: &[Entry]) {
    for (index, entry) in entries.iter().enumerate() {
        if write.given_up(index).is_empty() {
            let digest = entry.digest();
            let holders: Vec<_> = write.holders(index).into_iter().map(|holder| (holder, digest)).collect();
            node.replication.retire(entry, &holders);
        }
    }
}

/// Copies beyond `minCopies` are finished after the sender has its answer.
fn finish_in_background<F>(
    node: &Arc<Node>,
    mut write: ReplicaWrite,
    entries: Vec<Entry>,
    mut running: FuturesUnordered<F>,
) where
    F: Future<Output = (StoreCall, bool)> + Send + 'static,
{
    if running.is_empty() {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        while let Some((call, stored)) = running.next().await {
            if stored {
                write.acked(&call);
            } else {
                write.failed(&call);
            }
        }
        retire(&node, &write, &entries);
    });
}

/// An entry that was stored, or may be, and must not stay: the client was told that it failed. While that is on too few disks it is
/// tried again for a while, since some disk may have the message.
pub async fn take_back(node: &Arc<Node>, entry: &Entry) {
    let mut gone = entry.clone();
    gone.expunged = Some(node.clock.now());
    if !is_durable(node, &gone).await {
        let node = node.clone();
        tokio::spawn(async move {
            for _ in 0..TAKE_BACK_TRIES {
                tokio::time::sleep(TAKE_BACK_AGAIN).await;
                if is_durable(&node, &gone).await {
                    return;
                }
            }
            tracing::warn!(entry = %gone.id, "a message that its sender was told had failed may yet turn up");
        });
    }
}

async fn is_durable(node: &Arc<Node>, entry: &Entry) -> bool {
    // Replicas tell the manager of what did not come from its node; but this may be its node, and not its doing. It is told before they
    // are: it must not go on showing what others know to be gone.
    node.notices.send(node, [entry.clone()], None);
    let pushed = node.replication.push(node, vec![entry.clone()]).await;
    let disks = pushed.durable.len();
    tracing::debug!(me = %node.id, user = %entry.user, entry = %entry.id, disks, newer = ?pushed.newer, "a message is taken back");
    pushed.failed().next().is_none()
}
