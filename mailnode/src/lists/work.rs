//! What the holder of a queued message for a list does: the members of some shards at a time are looked up and brought the message,
//! and it is noted on the queued entry which are done, so that whoever takes over goes on from there.

use super::accept::{accept, passes};
use super::tree::{Fan, NotDelivered, Share, fan};
use super::{LIST, owner_address};
use crate::node::Node;
use crate::outbound::accept::{Outgoing, accept as accept_outgoing};
use crate::outbound::{Job, note};
use crate::wire::Failure;
use bytes::Bytes;
use cluster::{Entry, Flag, NodeId, UserId};
use directory::Address;
use directory::accounts::lists::SHARDS;
use directory::accounts::{List, Resolved};
use futures_util::stream::{self, StreamExt};
use outbound::Problem;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Shards whose members are brought the message together.
const TOGETHER: u8 = 8;
/// Look-ups at a time.
const AT_ONCE: usize = 32;
/// Members named in a report to the owners.
const NAMED: usize = 20;
/// A register of the entry: somebody has begun.
const BEGUN: &str = "begun";
/// Registers of the entry: these shards are done.
const SHARDS_DONE: &str = "shards-";

/// Whom the members of some shards are.
#[derive(Default)]
struct Members {
    users: BTreeMap<UserId, String>,
    lists: Vec<Address>,
    elsewhere: Vec<String>,
    /// They lead nowhere any more.
    gone: Vec<String>,
}

/// Brings a queued message to a list's members.
///
/// # Errors
/// What is to be tried again later; or for good, what the owners are to be told.
pub async fn work(node: &Arc<Node>, job: &Job, recipient: &str, message: Bytes) -> Result<(), Problem> {
    let text = recipient.strip_prefix(LIST).unwrap_or(recipient);
    let address = Address::parse(text).map_err(|error| Problem::permanent(1, 3, error.to_string()))?;
    let list = match node.users.list(text).await {
        Ok(list) => list,
        Err(Failure::NotFound) => return Err(Problem::permanent(1, 1, "the list is gone")),
        Err(failure) => return Err(later(&failure)),
    };
    if passes(&address, &message) > 1 {
        return Err(Problem::permanent(4, 6, "the message has been through this list already"));
    }
    let known = known(&job.entry);
    let again = known.contains(BEGUN);
    if !again {
        note(node, job.entry.id, &[BEGUN.to_owned()]).await;
    }
    let fan = Fan { origin: job.entry.id, at: job.entry.location.at, arrived: job.envelope.arrived, again };
    let mut undelivered = Vec::new();
    for first in (0..SHARDS).step_by(usize::from(TOGETHER)) {
        let register = format!("{SHARDS_DONE}{first}");
        if known.contains(&register) {
            continue;
        }
        let members =
            members(node, &list, first..first + TOGETHER).await.map_err(|failure| later(&failure))?;
        undelivered.extend(bring(node, job, &address, &fan, &message, members).await?);
        note(node, job.entry.id, &[register]).await;
    }
    if undelivered.is_empty() {
        return Ok(());
    }
    node.metrics.lists.undelivered.inc_by(undelivered.len() as u64);
    let named = undelivered.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = undelivered.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Problem::permanent(1, 1, format!("all other members have the message, but not {named}{rest}")))
}

fn later(failure: &Failure) -> Problem {
    Problem::temporary(4, 3, failure.to_string())
}

fn known(entry: &Entry) -> BTreeSet<String> {
    let word = |flag: &Flag| match flag {
        Flag::Keyword(word) => Some(word.clone()),
        _ => None,
    };
    entry.flags_set().filter_map(word).collect()
}

async fn members(node: &Arc<Node>, list: &List, shards: std::ops::Range<u8>) -> Result<Members, Failure> {
    let records = stream::iter(shards).map(|shard| node.users.members(list, shard)).buffered(AT_ONCE);
    let records: Vec<_> = records.collect().await;
    let (mut found, mut unknown) = (Members::default(), Vec::new());
    for record in records {
        for (address, user) in record? {
            match user {
                Some(user) => _ = found.users.insert(user, address),
                None => unknown.push(address),
            }
        }
    }
    look_up(node, unknown, &mut found).await?;
    Ok(found)
}

/// Where addresses lead now: to other servers, to users, to other lists.
async fn look_up(node: &Arc<Node>, addresses: Vec<String>, found: &mut Members) -> Result<(), Failure> {
    let each = addresses.into_iter().map(|address| async move {
        let resolved = node.users.resolve(&address).await;
        let is_ours = match (&resolved, address.rsplit_once('@')) {
            (Err(Failure::NotFound), Some((_, domain))) => node.users.is_local_domain(domain).await?,
            _ => true,
        };
        Ok::<_, Failure>((address, resolved, is_ours))
    });
    let outcomes: Vec<_> = stream::iter(each).buffered(AT_ONCE).collect().await;
    for outcome in outcomes {
        match outcome? {
            (address, Err(Failure::NotFound), false) => found.elsewhere.push(address),
            (address, Err(Failure::NotFound | Failure::Invalid(_)), true) => found.gone.push(address),
            (_, Err(failure), _) => return Err(failure),
            (address, Ok(Resolved { users, lists }), _) => {
                found.users.extend(users.into_iter().map(|user| (user, address.clone())));
                found.lists.extend(lists);
            }
        }
    }
    Ok(())
}

/// Those who do not get it, ever.
async fn bring(
    node: &Arc<Node>,
    job: &Job,
    list: &Address,
    fan_of: &Fan,
    message: &Bytes,
    members: Members,
) -> Result<Vec<String>, Problem> {
    let Members { users, lists, mut elsewhere, mut gone } = members;
    let count = users.len();
    let owner = owner_address(list);
    let whole = Bytes::from([format!("Return-Path: <{owner}>\r\n").as_bytes(), message].concat());
    let failed = fan(node, fan_of, whole, shares(node, users.keys().copied())).await;
    node.metrics.lists.delivered.inc_by(count.saturating_sub(failed.len()) as u64);
    if failed.iter().any(|(_, why)| *why == NotDelivered::Later) {
        return Err(Problem::temporary(4, 3, "some members cannot be reached now"));
    }
    gone.extend(failed.iter().filter_map(|(user, _)| users.get(user).cloned()));
    if !node.outbound.settings.enabled {
        gone.append(&mut elsewhere);
    }
    if !elsewhere.is_empty() {
        let outgoing = Outgoing {
            sender: Some(owner),
            recipients: elsewhere,
            utf8: job.envelope.utf8,
            id: &job.envelope.id,
            message,
        };
        accept_outgoing(node, outgoing).await.map_err(|failure| later(&failure))?;
    }
    for other in lists {
        if passes(&other, message) == 0 {
            accept(node, &other, job.envelope.utf8, &job.envelope.id, message)
                .await
                .map_err(|failure| later(&failure))?;
        }
    }
    Ok(gone)
}

/// Each user with the node that manages it; with ourselves if nobody does.
fn shares(node: &Node, users: impl Iterator<Item = UserId>) -> Vec<Share> {
    let state = node.topology.now();
    let mut shares: BTreeMap<NodeId, Vec<UserId>> = BTreeMap::new();
    for user in users {
        shares.entry(state.user_map.manager_of(user).unwrap_or(node.id)).or_default().push(user);
    }
    shares.into_iter().collect()
}
