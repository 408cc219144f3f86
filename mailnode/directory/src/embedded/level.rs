//! Levelling: how the primary of a bucket in a new view makes sure that it has every committed record, that the
//! new replicas have them too, and that no earlier primary can commit any more.
//!
//! In batches of buckets, each through these phases:
//! 1. *promise*: every member that serves in this view promises our ballot and reports a digest of each bucket;
//! 2. *list*: where digests differ or states are unsettled, they list their stamps;
//! 3. *fetch*: what others have newer is fetched;
//! 4. *write*: the newest state of each key goes to the replicas that lack it; a state that may not have been
//!    committed goes to all, under our epoch;
//! 5. *mark*: all members note that the buckets were level in this epoch, first tentatively, then firmly. Then we
//!    serve.
//!
//! *Who may level.* A node that was away must not take its old state for the newest while those who went on
//! without it are away (dynamic voting, as Jajodia and Mutchler describe it). So enough (`most`) of the replicas
//! of the latest firm mark must have answered, and of each tentative one after it. Two attempts from one firm mark
//! share a member, and as a tentative mark is on all members before anything is firm or served, the later attempt
//! learns of the earlier and needs most of its replicas too. Who was a member then and does not know that mark has lost its
//! disk, or has an old one: it may have gone on with others meanwhile and counts only if nobody is away. A bucket without
//! a firm mark is new, or its disks are: then all members that the view knows must have answered.
//!
//! All members must answer. One that does not is soon out of the view, and the next view begins anew.

use super::bucket_set::{Mark, counting};
use super::message::limits;
use super::stored::{Ballot, Record, Stamp};
use super::{After, Disk, Effect, Embedded, EmbeddedRequest, EmbeddedResponse, Purpose, Report};
use crate::record::Key;
use bytes::Bytes;
use cluster::{Bucket, NodeId, record_replicas};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(super) struct Level {
    ballot: Ballot,
    /// Members that serve in this view, but us.
    others: Vec<NodeId>,
    queue: VecDeque<Bucket>,
    batch: Vec<Bucket>,
    phase: Phase,
    /// Who has not finished the phase; ourselves for our disk.
    waiting: BTreeSet<NodeId>,
}

enum Phase {
    Beginning,
    Promise(BTreeMap<NodeId, (Vec<Mark>, Vec<Report>)>),
    List { buckets: Vec<Bucket>, stamps: BTreeMap<NodeId, Vec<(Key, Stamp, bool)>> },
    Fetch { plan: Plan, queues: BTreeMap<NodeId, VecDeque<Key>> },
    Write { plan: Plan, queues: BTreeMap<NodeId, VecDeque<Key>> },
    Mark { firm: bool },
}

/// The newest states and who needs them.
#[derive(Default)]
struct Plan {
    newest: BTreeMap<Key, Newest>,
    records: BTreeMap<Key, Record>,
    targets: BTreeMap<NodeId, VecDeque<Key>>,
}

#[derive(Clone, Copy)]
struct Newest {
    stamp: Stamp,
    settled: bool,
    holder: NodeId,
}

impl Embedded {
    pub(super) fn begin_level(&mut self) {
        let epoch = self.view.epoch;
        if self.is_level || self.level.is_some() || self.outdated > epoch || self.promises.epoch > epoch {
            return;
        }
        let level = |bucket: &Bucket| self.levelled.contains(*bucket) || self.stuck.contains(*bucket);
        let queue: VecDeque<Bucket> = self.own_buckets().filter(|bucket| !level(bucket)).collect();
        self.is_level = queue.is_empty();
        if self.is_level {
            return;
        }
        let promised = self.promises.to(self.me);
        let round = if promised.epoch == epoch { promised.round + 1 } else { 1 };
        let ballot = Ballot { epoch, round };
        self.promises.raise(self.me, ballot);
        let others = self.view.serving().map(|member| member.id).filter(|id| *id != self.me).collect();
        let (batch, waiting) = (Vec::new(), BTreeSet::new());
        self.level = Some(Level { ballot, others, queue, batch, phase: Phase::Beginning, waiting });
        self.write_promises(After::LevelBegun(round));
    }

    pub(super) fn abort_level_of(&mut self, bucket: Bucket) {
        if self
            .level
            .as_ref()
            .is_some_and(|level| level.batch.contains(&bucket) || level.queue.contains(&bucket))
        {
            self.abort_level();
        }
    }

    /// The next tick begins again, under a new round.
    fn abort_level(&mut self) {
        self.level = None;
        self.calls.retain(|_, purpose| !matches!(purpose, Purpose::Level(_)));
    }

    pub(super) fn level_begun(&mut self, round: u64, ok: bool, disk: &impl Disk) {
        let current = self.level.as_ref().is_some_and(|level| level.ballot.round == round);
        if current && ok && self.promises.epoch == self.view.epoch {
            self.round = round;
            self.next_batch(disk);
        } else if current {
            self.abort_level();
        }
    }

    fn next_batch(&mut self, disk: &impl Disk) {
        let Some(level) = &mut self.level else { return };
        let size = level.queue.len().min(limits::BUCKETS);
        level.batch = level.queue.drain(..size).collect();
        if level.batch.is_empty() {
            self.level = None;
            return;
        }
        let (ballot, buckets) = (level.ballot, level.batch.clone());
        level.phase = Phase::Promise(BTreeMap::new());
        self.ask_others(|| EmbeddedRequest::Promise { ballot, buckets: buckets.clone() });
        self.advance_level(disk);
    }

    fn ask_others(&mut self, request: impl Fn() -> EmbeddedRequest) {
        let Some(level) = &mut self.level else { return };
        level.waiting = level.others.iter().copied().collect();
        for to in level.others.clone() {
            self.call(to, request(), Purpose::Level(to));
        }
    }

    pub(super) fn level_answered(
        &mut self,
        from: NodeId,
        response: Option<EmbeddedResponse>,
        disk: &impl Disk,
    ) {
        let Some(level) = &mut self.level else { return };
        let ballot = level.ballot;
        match (&mut level.phase, response) {
            (Phase::Promise(answers), Some(EmbeddedResponse::Promised { marks, reports }))
                if reports.len() == level.batch.len() =>
            {
                answers.insert(from, (marks, reports));
                level.waiting.remove(&from);
            }
            (Phase::List { buckets, stamps }, Some(EmbeddedResponse::Stamps(page))) => {
                let last = page.last().map(|(key, ..)| key.clone());
                let more = page.len() >= limits::STAMPS;
                stamps.entry(from).or_default().extend(page.into_iter().filter(|(key, ..)| key.is_valid()));
                if more {
                    let request = EmbeddedRequest::Stamps { ballot, buckets: buckets.clone(), after: last };
                    return self.call(from, request, Purpose::Level(from));
                }
                level.waiting.remove(&from);
            }
            (Phase::Fetch { plan, queues }, Some(EmbeddedResponse::Fetched(records))) => {
                let queue = queues.entry(from).or_default();
                if records.is_empty() {
                    return self.abort_level();
                }
                for (key, record) in records {
                    let wanted = queue.pop_front().filter(|wanted| *wanted == key);
                    let stamp = wanted.and_then(|key| plan.newest.get(&key)).map(|newest| newest.stamp);
                    let Some(record) = record.filter(|record| Some(record.stamp) == stamp) else {
                        return self.abort_level();
                    };
                    plan.records.insert(key, record);
                }
                if queue.is_empty() {
                    level.waiting.remove(&from);
                } else {
                    let keys = queue.iter().take(limits::RECORDS).cloned().collect();
                    return self.call(from, EmbeddedRequest::Fetch { ballot, keys }, Purpose::Level(from));
                }
            }
            (Phase::Write { plan, queues }, Some(EmbeddedResponse::Done)) => {
                match next_page(plan, queues.entry(from).or_default()) {
                    Some(records) => {
                        return self.call(
                            from,
                            EmbeddedRequest::Write { ballot, records },
                            Purpose::Level(from),
                        );
                    }
                    None => {
                        level.waiting.remove(&from);
                    }
                }
            }
            (Phase::Mark { .. }, Some(EmbeddedResponse::Done)) => {
                level.waiting.remove(&from);
            }
            (_, response) => {
                if let Some(EmbeddedResponse::Refused { promised }) = response {
                    self.note_refusal(promised);
                }
                return self.abort_level();
            }
        }
        self.advance_level(disk);
    }

    /// A member promised something higher: a later view, or a round that we forgot with our disk.
    fn note_refusal(&mut self, promised: Ballot) {
        self.outdated = self.outdated.max(promised.epoch);
        if promised.epoch == self.view.epoch {
            self.promises.raise(self.me, promised);
        }
    }

    pub(super) fn level_written(&mut self, round: u64, ok: bool, disk: &impl Disk) {
        let Some(level) = self.level.as_mut().filter(|level| level.ballot.round == round) else { return };
        if !ok {
            return self.abort_level();
        }
        level.waiting.remove(&self.me);
        self.advance_level(disk);
    }

    /// Goes on to the next phase when all have finished this one.
    fn advance_level(&mut self, disk: &impl Disk) {
        while let Some(level) = self.level.as_mut().filter(|level| level.waiting.is_empty()) {
            match std::mem::replace(&mut level.phase, Phase::Beginning) {
                Phase::Beginning => return,
                Phase::Promise(answers) => self.compare(answers, disk),
                Phase::List { stamps, .. } => self.plan(&stamps, disk),
                Phase::Fetch { plan, .. } => self.spread(plan),
                Phase::Write { plan, .. } => {
                    self.settle_plan(&plan, disk);
                    self.put_marks(false);
                }
                Phase::Mark { firm: false } => self.put_marks(true),
                Phase::Mark { firm: true } => {
                    let level = std::mem::take(&mut level.batch);
                    level.into_iter().for_each(|bucket| self.levelled.insert(bucket));
                    return self.next_batch(disk);
                }
            }
        }
    }

    /// Which buckets may be levelled, and which of them need anything.
    fn compare(&mut self, mut answers: BTreeMap<NodeId, (Vec<Mark>, Vec<Report>)>, disk: &impl Disk) {
        let Some(level) = &self.level else { return };
        let EmbeddedResponse::Promised { marks, reports } = self.report(&level.batch, disk) else {
            return self.abort_level();
        };
        answers.insert(self.me, (marks, reports));
        let answered: BTreeSet<NodeId> = answers.keys().copied().collect();
        let whole = self.view.members.iter().all(|member| answered.contains(&member.id));
        let (mut good, mut differing) = (Vec::new(), Vec::new());
        for (at, &bucket) in level.batch.iter().enumerate() {
            let (firm, marks) = counting(answers.values().flat_map(|(marks, _)| marks), bucket);
            let present =
                answers.iter().filter(|(node, (known, _))| !self.has_forgotten(**node, known, firm, bucket));
            let present: BTreeSet<NodeId> = present.map(|(node, _)| *node).collect();
            let enough = marks.into_iter().all(|mark| {
                let replicas = record_replicas(&mark.places, bucket, self.replicas);
                most(&replicas, &present) || (whole && replicas.iter().all(|node| answered.contains(node)))
            });
            if !self.may_level(enough && (firm.is_some() || whole)) {
                self.stuck.insert(bucket);
                continue;
            }
            good.push(bucket);
            let replicas = self.replicas_of(bucket);
            let reports = answers.iter().filter_map(|(node, (_, reports))| Some((node, reports.get(at)?)));
            let mut reports = reports.filter(|(node, report)| report.records > 0 || replicas.contains(node));
            let first = reports.next().map(|(_, report)| *report);
            let same =
                first.is_none_or(|first| !first.unsettled && reports.all(|(_, report)| *report == first));
            if !same {
                differing.push(bucket);
            }
        }
        let Some(level) = &mut self.level else { return };
        level.batch = good;
        let ballot = level.ballot;
        if differing.is_empty() {
            return self.put_marks(false);
        }
        level.phase = Phase::List { buckets: differing.clone(), stamps: BTreeMap::new() };
        self.ask_others(|| EmbeddedRequest::Stamps { ballot, buckets: differing.clone(), after: None });
        let mut own = Vec::new();
        loop {
            let after = own.last().map(|(key, ..): &(Key, Stamp, bool)| key.clone());
            let Ok(page) = Self::stamps(&differing, after.as_ref(), disk) else { return self.abort_level() };
            let more = page.len() >= limits::STAMPS;
            own.extend(page);
            if !more {
                break;
            }
        }
        if let Some(Level { phase: Phase::List { stamps, .. }, .. }) = &mut self.level {
            stamps.insert(self.me, own);
        }
    }

    /// `enough`: enough of those have answered who had the bucket last.
    #[cfg(test)]
    fn may_level(&self, enough: bool) -> bool {
        enough || self.has_bug(super::PlantedBug::NoMarks)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self)]
    const fn may_level(&self, enough: bool) -> bool {
        enough
    }

    /// A member of the view of the latest firm mark knew it, at least tentatively, before it was firm anywhere.
    #[cfg_attr(not(test), allow(clippy::unused_self))]
    fn has_forgotten(&self, node: NodeId, known: &[Mark], firm: Option<&Mark>, bucket: Bucket) -> bool {
        #[cfg(test)]
        if self.has_bug(super::PlantedBug::EmptyDisksCount) {
            return false;
        }
        firm.is_some_and(|firm| {
            let was_there = firm.places.iter().any(|place| place.node == node);
            was_there && !known.iter().any(|mark| mark.epoch >= firm.epoch && mark.buckets.contains(bucket))
        })
    }

    /// The newest state of each key, and who lacks it.
    fn plan(&mut self, stamps: &BTreeMap<NodeId, Vec<(Key, Stamp, bool)>>, disk: &impl Disk) {
        let mut plan = Plan::default();
        let mut has: BTreeMap<(NodeId, &Key), Stamp> = BTreeMap::new();
        for (&node, list) in stamps {
            for (key, stamp, settled) in list {
                has.insert((node, key), *stamp);
                let new = Newest { stamp: *stamp, settled: *settled, holder: node };
                let newest = plan.newest.entry(key.clone()).or_insert(new);
                if newest.stamp < new.stamp {
                    *newest = new;
                } else if newest.stamp == new.stamp {
                    newest.settled |= new.settled;
                    if node == self.me {
                        newest.holder = node;
                    }
                }
            }
        }
        let mut queues: BTreeMap<NodeId, VecDeque<Key>> = BTreeMap::new();
        for (key, newest) in &plan.newest {
            let lacks = |node: &NodeId| !newest.settled || has.get(&(*node, key)) != Some(&newest.stamp);
            let targets: Vec<NodeId> = self.replicas_of(key.bucket()).into_iter().filter(lacks).collect();
            if targets.is_empty() {
                continue;
            }
            for target in targets {
                plan.targets.entry(target).or_default().push_back(key.clone());
            }
            if newest.holder != self.me {
                queues.entry(newest.holder).or_default().push_back(key.clone());
                continue;
            }
            match Self::get(disk, key) {
                Ok(Some(record)) if record.stamp == newest.stamp => {
                    plan.records.insert(key.clone(), record);
                }
                _ => return self.abort_level(),
            }
        }
        let Some(level) = &mut self.level else { return };
        let ballot = level.ballot;
        level.waiting = queues.keys().copied().collect();
        let firsts: Vec<(NodeId, Vec<Key>)> = queues
            .iter()
            .map(|(holder, queue)| (*holder, queue.iter().take(limits::RECORDS).cloned().collect()))
            .collect();
        level.phase = Phase::Fetch { plan, queues };
        for (to, keys) in firsts {
            self.call(to, EmbeddedRequest::Fetch { ballot, keys }, Purpose::Level(to));
        }
    }

    /// Everything is fetched: to those who lack it, and to all what may not have been committed.
    fn spread(&mut self, mut plan: Plan) {
        let Some(level) = &self.level else { return };
        let ballot = level.ballot;
        for (key, record) in &mut plan.records {
            record.settled = plan.newest.get(key).is_some_and(|newest| newest.settled);
            if !record.settled {
                record.stamp.epoch = ballot.epoch;
            }
        }
        let mut queues = std::mem::take(&mut plan.targets);
        let mut waiting: BTreeSet<NodeId> = queues.keys().copied().collect();
        let own = queues.remove(&self.me);
        let mut firsts = Vec::new();
        for (&to, queue) in &mut queues {
            match next_page(&plan, queue) {
                Some(records) => firsts.push((to, records)),
                None => {
                    waiting.remove(&to);
                }
            }
        }
        for (to, records) in firsts {
            self.call(to, EmbeddedRequest::Write { ballot, records }, Purpose::Level(to));
        }
        if let Some(own) = own {
            let records = own.into_iter().filter_map(|key| {
                let record = plan.records.get(&key).cloned();
                record.map(|record| (key, Some(record)))
            });
            let records = records.collect();
            self.write(records, After::LevelWritten(ballot.round), false);
        }
        if let Some(level) = &mut self.level {
            level.waiting = waiting;
            level.phase = Phase::Write { plan, queues };
        }
    }

    /// All replicas have what was unsettled.
    fn settle_plan(&mut self, plan: &Plan, disk: &impl Disk) {
        let unsettled = plan.records.iter().filter(|(_, record)| !record.settled);
        let stamps: Vec<(Key, Stamp)> = unsettled.map(|(key, record)| (key.clone(), record.stamp)).collect();
        let others = self.level.as_ref().map(|level| level.others.clone()).unwrap_or_default();
        for page in stamps.chunks(limits::RECORDS) {
            for &to in &others {
                self.effects
                    .push(Effect::Tell { to, request: EmbeddedRequest::Settle { stamps: page.to_vec() } });
            }
            self.settle(page.to_vec(), disk);
        }
    }

    fn put_marks(&mut self, firm: bool) {
        let Some(level) = &mut self.level else { return };
        level.phase = Phase::Mark { firm };
        let (ballot, buckets) = (level.ballot, level.batch.clone());
        if buckets.is_empty() {
            level.waiting.clear();
            return;
        }
        self.put_mark(&buckets, firm);
        self.ask_others(|| EmbeddedRequest::Mark { ballot, buckets: buckets.clone(), firm });
        if let Some(level) = &mut self.level {
            level.waiting.insert(self.me);
        }
        self.write_promises(After::LevelWritten(ballot.round));
    }
}

/// True if more than half of the replicas have answered, or half with their primary: two such sets share a member.
fn most(replicas: &[NodeId], answered: &BTreeSet<NodeId>) -> bool {
    let present = replicas.iter().filter(|node| answered.contains(node)).count();
    let primary = replicas.first().is_some_and(|primary| answered.contains(primary));
    present * 2 > replicas.len() || (present * 2 == replicas.len() && primary)
}

/// The next records of a queue that fit into one message.
fn next_page(plan: &Plan, queue: &mut VecDeque<Key>) -> Option<Vec<(Key, Record)>> {
    let mut page = Vec::new();
    let mut bytes = 0;
    while let Some(key) = queue.front() {
        let Some(record) = plan.records.get(key) else {
            queue.pop_front();
            continue;
        };
        bytes += record.value.as_ref().map_or(0, Bytes::len);
        if page.len() >= limits::RECORDS || (bytes > limits::RECORD_BYTES && !page.is_empty()) {
            break;
        }
        page.push((key.clone(), record.clone()));
        queue.pop_front();
    }
    (!page.is_empty()).then_some(page)
}
