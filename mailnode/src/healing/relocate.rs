//! Giving entries another replica set: the shell around [`cluster::healing`]. A pass looks at all entries here,
//! takes the most endangered, and begins anew until there is nothing left to do or nobody to do it with.
//!
//! The order of the steps keeps every entry safe, whoever dies in between: first the new replicas get body and
//! entry, with the new set and a note of who has to be told; only when all of them have it on disk are the others
//! told, those that let go among them. What could not be told is in the update logs.

use super::{Progress, about, blocking, copy, lock};
use crate::node::Node;
use crate::wire::{Failure, PendingEntry, Request, Response, Updated};
use cluster::healing::{Balance, Judgement, Planner};
use cluster::{Candidate, Entry, EntryId, MailMap, MemberState, NodeId, Register, UserId};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// After a view changed: what was on its way by the old one arrives first.
const SETTLE: Duration = Duration::from_secs(3);
/// Between two looks at everything when nothing happened.
const EVERY: Duration = Duration::from_secs(600);
/// While something is left that could not be done now.
const AGAIN: Duration = Duration::from_secs(10);
const PAGE: usize = 1_000;
/// Entries that one look takes; the next look finds the others.
const TAKEN: usize = 10_000;
/// Entries moved with one call to each node.
const BATCH: usize = 64;
const DEADLINE: Duration = Duration::from_secs(10);
/// Entries handed over for balance in one pass.
const BALANCE: usize = 2_000;

type Id = (UserId, EntryId);

/// What one look found.
#[derive(Default)]
struct Survey {
    /// By the number of living replicas: the most endangered first.
    tasks: BTreeMap<usize, Vec<Id>>,
    taken: usize,
    entries: u64,
    bytes: u64,
}

impl Survey {
    fn add(&mut self, living: usize, entry: &Entry) {
        self.entries += 1;
        self.bytes += entry.blob.size;
        if self.taken == TAKEN {
            // Only for one that is in greater danger than the least endangered that was taken.
            let Some(mut least) = self.tasks.last_entry().filter(|least| *least.key() > living) else {
                return;
            };
            least.get_mut().pop();
            if least.get().is_empty() {
                least.remove();
            }
            self.taken -= 1;
        }
        self.tasks.entry(living).or_default().push((entry.user, entry.id));
        self.taken += 1;
    }
}

/// Until the node stops.
pub async fn run(node: &Arc<Node>) {
    loop {
        let epoch = node.topology.now().view.epoch;
        let mut wait = about(EVERY);
        match pass(node).await {
            Ok(true) => {}
            Ok(false) => wait = AGAIN,
            Err(failure) => {
                tracing::warn!(%failure, "re-replication waits");
                wait = AGAIN;
            }
        }
        let _ = tokio::time::timeout(wait, node.topology.newer_than(epoch)).await;
        tokio::time::sleep(SETTLE).await;
    }
}

/// Looks and works until all is whole; false if something is left that cannot be done now.
async fn pass(node: &Arc<Node>) -> Result<bool, Failure> {
    // A view of an earlier life, or one that we cannot know to be the newest, does not tell who is lost.
    if node.membership.coordinator().is_none() || node.membership.is_isolated() {
        return Ok(false);
    }
    loop {
        let epoch = node.topology.now().view.epoch;
        let survey = survey(node).await?;
        note(node, Progress { entries_left: survey.entries, bytes_left: survey.bytes, epoch });
        if survey.entries == 0 {
            balance(node).await?;
            return Ok(true);
        }
        tracing::info!(entries = survey.entries, bytes = survey.bytes, "entries want other replicas");
        let mut moved = 0;
        let ids: Vec<Id> = survey.tasks.into_values().flatten().collect();
        for batch in ids.chunks(BATCH) {
            moved += work(node, batch).await?;
            if node.topology.now().view.epoch != epoch {
                break;
            }
        }
        if moved == 0 {
            return Ok(false);
        }
    }
}

fn note(node: &Node, progress: Progress) {
    *lock(&node.healing.progress) = progress;
}

async fn survey(node: &Arc<Node>) -> Result<Survey, Failure> {
    blocking(node, |node| {
        let state = node.topology.now();
        let planner = Planner::new(node.id, node.settings.replication.factor, &state.view);
        let mut survey = Survey::default();
        // Before the first view nobody is lost.
        let mut after = None;
        while !state.view.members.is_empty() {
            let page = node.store.copies(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some((last.user, last.id));
            for entry in &page {
                if let Judgement::Mine(task) = planner.judge(entry) {
                    survey.add(task.living, entry);
                }
            }
        }
        Ok(survey)
    })
    .await
}

/// Does what is to be done about these entries as they are now. Returns how many were moved.
async fn work(node: &Arc<Node>, ids: &[Id]) -> Result<u64, Failure> {
    let state = node.topology.now();
    let planner = Planner::new(node.id, node.settings.replication.factor, &state.view);
    let (mut moves, mut maps) = (Vec::new(), MailMaps::default());
    for &(user, id) in ids {
        let Some(entry) = blocking(node, move |node| node.store.entry(user, id)).await? else { continue };
        let Judgement::Mine(task) = planner.judge(&entry) else { continue };
        let map = maps.of(node, user).await?;
        let candidates = node.topology.candidates(user);
        let place =
            planner.place(&task, node.settings.placement, &candidates, &map, crate::environment::random());
        if let Some(replicas) = place {
            moves.push((entry, replicas));
        }
    }
    relocate(node, moves).await
}

/// Nodes with mail of a user, as the entries here name them; asked for a user at a time.
#[derive(Default)]
struct MailMaps {
    last: Option<(UserId, MailMap)>,
}

impl MailMaps {
    async fn of(&mut self, node: &Arc<Node>, user: UserId) -> Result<MailMap, Failure> {
        if let Some((known, map)) = &self.last
            && *known == user
        {
            return Ok(map.clone());
        }
        let some = blocking(node, move |node| node.store.entries(user, None, PAGE)).await?;
        let live = some.iter().filter(|entry| entry.is_live());
        let map: MailMap = live.flat_map(|entry| entry.replicas.value.iter().copied()).collect();
        self.last = Some((user, map.clone()));
        Ok(map)
    }
}

/// One entry on its way.
struct Move {
    /// Before and after: all that have to know.
    everyone: BTreeSet<NodeId>,
    new: Vec<NodeId>,
    entry: Entry,
    /// Who has the new version, at which digest.
    holders: Vec<(NodeId, u64)>,
}

impl Move {
    fn pending(&self, node: NodeId) -> PendingEntry {
        let pending = self.everyone.iter().copied().filter(|&other| other != node).collect();
        PendingEntry { entry: self.entry.clone(), pending }
    }

    fn holds(&self, node: NodeId) -> bool {
        self.holders.iter().any(|(holder, _)| *holder == node)
    }
}

/// Gives each entry its new replica set. Returns how many have it.
async fn relocate(node: &Arc<Node>, moves: Vec<(Entry, Vec<NodeId>)>) -> Result<u64, Failure> {
    let mut moves: Vec<Move> = moves
        .into_iter()
        .map(|(mut entry, replicas)| {
            let before = std::mem::take(&mut entry.replicas.value);
            let new = replicas.iter().copied().filter(|node| !before.contains(node)).collect();
            let everyone = before.iter().chain(&replicas).copied().collect();
            entry.replicas = Register::new(replicas, node.clock.now());
            Move { everyone, new, entry, holders: Vec::new() }
        })
        .collect();
    tell(node, &mut moves, true, |moving| moving.new.clone()).await;
    moves.retain(|moving| moving.new.iter().all(|&target| moving.holds(target)));
    let serving: BTreeSet<NodeId> = node.topology.readable().into_iter().map(|(id, _)| id).collect();
    tell(node, &mut moves, false, |moving| {
        let rest = moving.everyone.iter().filter(|&&other| !moving.holds(other) && serving.contains(&other));
        rest.copied().collect()
    })
    .await;
    moves.retain(|moving| !moving.holders.is_empty());
    for moving in &moves {
        node.replication.retire(&moving.entry, &moving.holders);
    }
    {
        let mut progress = lock(&node.healing.progress);
        progress.entries_left = progress.entries_left.saturating_sub(moves.len() as u64);
        let bytes: u64 = moves.iter().map(|moving| moving.entry.blob.size).sum();
        progress.bytes_left = progress.bytes_left.saturating_sub(bytes);
    }
    let moved = moves.len() as u64;
    node.metrics.healing.moved_entries.inc_by(moved);
    // Sessions read bodies where the manager says they are.
    node.notices.send(node, moves.into_iter().map(|moving| moving.entry), None);
    Ok(moved)
}

/// One call to each node with all that it has to be told; notes who has what.
async fn tell(node: &Arc<Node>, moves: &mut [Move], bodies: bool, whom: impl Fn(&Move) -> Vec<NodeId>) {
    let mut by_node: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for (at, moving) in moves.iter().enumerate() {
        for target in whom(moving) {
            by_node.entry(target).or_default().push(at);
        }
    }
    let known = &*moves;
    let calls = by_node.into_iter().map(|(target, indexes)| async move {
        let entries = indexes.iter().filter_map(|&at| known.get(at)).map(|moving| moving.pending(target));
        let entries: Vec<PendingEntry> = entries.collect();
        if bodies && let Err(failure) = copy::bodies(node, target, &entries).await {
            tracing::debug!(%target, %failure, "bodies not taken");
            return (target, Vec::new());
        }
        let digests: Vec<u64> = entries.iter().map(|pending| pending.entry.digest()).collect();
        let answer = node.call(target, Request::Update { entries }, DEADLINE).await;
        let Ok(Response::Updated(outcomes)) = answer else { return (target, Vec::new()) };
        let outcomes = indexes.into_iter().zip(digests).zip(outcomes);
        let held = outcomes.filter_map(|((at, sent), outcome)| match outcome {
            Updated::Same => Some((at, sent)),
            Updated::Newer(joined) => Some((at, joined.digest())),
            Updated::NoBody => None,
        });
        (target, held.collect())
    });
    let answers: Vec<(NodeId, Vec<(usize, u64)>)> = join_all(calls).await;
    for (target, held) in answers {
        for (at, digest) in held {
            if let Some(moving) = moves.get_mut(at) {
                moving.holders.push((target, digest));
            }
        }
    }
}

/// Hands over old mail if this disk is fuller than the others (DESIGN 6).
async fn balance(node: &Arc<Node>) -> Result<(), Failure> {
    let state = node.topology.now();
    let nodes = state.view.active().map(|member| Candidate {
        node: member.id,
        zone: member.zone.clone(),
        load: if member.id == node.id { node.store.load() } else { node.topology.load(member.id) },
        avoided: node.topology.is_avoided(member.id),
    });
    let nodes: Vec<Candidate> = nodes.collect();
    // A node that has reported nothing is not taken for an empty one.
    if nodes.iter().any(|other| other.node != node.id && other.load == cluster::Load::default()) {
        return Ok(());
    }
    let balance = Balance::new(node.id, &nodes);
    if balance.share == 0 || state.view.members.iter().any(|member| member.state != MemberState::Active) {
        return Ok(());
    }
    let share = balance.share;
    let chosen = blocking(node, move |node| {
        let (mut chosen, mut after) = (Vec::new(), None);
        while chosen.len() < BALANCE {
            let page = node.store.copies(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some((last.user, last.id));
            chosen.extend(page.into_iter().filter(|_| crate::environment::random() % 1_000 < share));
        }
        chosen.truncate(BALANCE);
        Ok(chosen)
    });
    let chosen: Vec<Entry> = chosen.await?;
    let (mut moves, mut maps) = (Vec::new(), MailMaps::default());
    for entry in chosen {
        let map = maps.of(node, entry.user).await?;
        let others = entry.replicas.value.iter().filter(|&&other| other != node.id);
        let zones = others.filter_map(|&other| state.view.member(other)).map(|member| member.zone.clone());
        let zones: Vec<Option<String>> = zones.filter(Option::is_some).collect();
        moves.extend(balance.hand_over(&entry, &map, &zones).map(|replicas| (entry, replicas)));
    }
    tracing::info!(entries = moves.len(), share, "handing over mail to emptier nodes");
    let mut rest = moves.into_iter().peekable();
    while rest.peek().is_some() {
        relocate(node, rest.by_ref().take(BATCH).collect()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::entry;

    #[test]
    fn a_look_takes_the_most_endangered_and_counts_all() {
        let mut survey = Survey::default();
        for id in 0..TAKEN as u128 * 2 {
            survey.add(2 + (id % 2) as usize, &entry(id));
        }
        for id in 0..5 {
            survey.add(1, &entry(1_000_000 + id));
        }
        assert_eq!((survey.entries, survey.bytes), (TAKEN as u64 * 2 + 5, TAKEN as u64 * 20 + 50));
        assert_eq!(survey.tasks.values().map(Vec::len).sum::<usize>(), TAKEN);
        assert_eq!(survey.tasks.get(&1).map(Vec::len), Some(5));
        assert_eq!(survey.tasks.get(&2).map(Vec::len), Some(TAKEN - 5));
    }
}
