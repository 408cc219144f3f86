//! MIME parts: leases that others renew, the trash, and what is left of them after crashes and rebuilds.

use super::world::{START, blob, body, clock, commit, entry, now, options, put, stamp};
use crate::disk::Crash;
use crate::{MemoryDisk, MemoryIndex, Options, Outcome, PartTotals, Store, Write};
use bytes::Bytes;
use cluster::{BlobId, BlobKind, Entry};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

fn settings(time: &Arc<AtomicU64>) -> Options {
    Options {
        lease: Duration::from_secs(100),
        part_lease: Duration::from_secs(300),
        trash: Duration::from_secs(700),
        ..options(time)
    }
}

struct World {
    store: Store,
    disk: MemoryDisk,
    index: MemoryIndex,
    time: Arc<AtomicU64>,
}

impl World {
    fn new() -> Self {
        let (time, disk, index) = (clock(), MemoryDisk::new(), MemoryIndex::new());
        let (store, _) = Store::open(disk.clone(), index.clone(), settings(&time)).unwrap();
        Self { store, disk, index, time }
    }

    fn after(&self, seconds: u64) {
        self.time.fetch_add(seconds, Relaxed);
        self.store.maintain().unwrap();
    }

    fn reopened(self, index: Option<MemoryIndex>) -> Self {
        let Self { store, disk, index: old, time } = self;
        drop(store);
        let index = index.unwrap_or(old);
        let (store, _) = Store::open(disk.clone(), index.clone(), settings(&time)).unwrap();
        Self { store, disk, index, time }
    }

    fn totals(&self) -> (u64, u64) {
        let PartTotals { live, trash, .. } = self.store.metrics().parts;
        (live, trash)
    }

    fn wanted(&self) -> Vec<BlobId> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.wanted_parts(after, 2).unwrap();
            all.extend(page.parts);
            all.dedup();
            let Some(next) = page.next else { return all };
            after = Some(next);
        }
    }
}

fn part(number: u64, length: usize) -> Bytes {
    [&BlobKind::Part.to_head()[..], &body(number, length)].concat().into()
}

fn body_without(number: u64, parts: &[&Bytes]) -> Bytes {
    let mut names: Vec<BlobId> = parts.iter().map(|part| BlobId::of(part)).collect();
    names.sort_unstable();
    [&BlobKind::Manifest(names).to_head()[..], &body(number, 100)].concat().into()
}

fn renew(id: BlobId) -> Write {
    Write::Renew { ids: vec![id] }
}

fn expunged(entry: &Entry) -> Entry {
    Entry { expunged: Some(stamp((START * 1_000) << 16)), ..entry.clone() }
}

#[test]
fn a_part_lives_by_its_lease_goes_to_the_trash_and_away_only_when_it_is_discarded() {
    let world = World::new();
    let part = part(1, 500);
    let id = BlobId::of(&part);
    commit(&world.store, vec![blob(&part)]).unwrap();
    world.after(299);
    assert_eq!(world.totals(), (1, 0));
    commit(&world.store, vec![renew(id)]).unwrap();
    world.after(299);
    assert_eq!(world.totals(), (1, 0));
    world.after(1);
    assert_eq!(world.totals(), (0, 1));
    assert!(world.store.doomed(10).unwrap().is_empty());
    world.after(701);
    assert!(world.store.has_blob(id).unwrap(), "nobody said that it may go");
    let doomed = world.store.doomed(10).unwrap();
    assert_eq!(doomed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id]);
    let (id, due) = doomed[0];
    commit(&world.store, vec![Write::Discard { id, due }]).unwrap();
    assert!(!world.store.has_blob(id).unwrap());
    assert_eq!(world.store.metrics().parts, PartTotals::default());
    // The bytes go with the segment, once it is closed.
    for number in 0..20 {
        commit(&world.store, vec![blob(&body(1_000 + number, 400))]).unwrap();
    }
    world.after(500);
    assert!(world.store.metrics().compacted_bytes > 500, "{:?}", world.store.metrics());
}

#[test]
fn renewing_brings_a_part_back_from_the_trash_and_saves_one_that_is_doomed() {
    let world = World::new();
    let part = part(1, 500);
    let id = BlobId::of(&part);
    commit(&world.store, vec![blob(&part)]).unwrap();
    world.after(301);
    world.after(701);
    let (_, due) = world.store.doomed(10).unwrap()[0];
    let outcome = commit(&world.store, vec![renew(id), renew(BlobId([9; 32]))]).unwrap();
    assert!(matches!(&outcome[0], Outcome::Renewed { missing } if missing.is_empty()));
    assert!(matches!(&outcome[1], Outcome::Renewed { missing } if missing == &[BlobId([9; 32])]));
    commit(&world.store, vec![Write::Discard { id, due }]).unwrap();
    assert_eq!(world.totals(), (1, 0));
    assert!(world.store.doomed(10).unwrap().is_empty());
    assert_eq!(now(world.store.blob(id)).unwrap().as_ref(), Some(&part));
}

#[test]
fn a_renewal_survives_a_crash_that_takes_the_newest_of_the_index_back() {
    let world = World::new();
    let part = part(1, 500);
    let id = BlobId::of(&part);
    commit(&world.store, vec![blob(&part)]).unwrap();
    world.after(301);
    assert_eq!(world.totals(), (0, 1));
    // As the index engine may: what it had before the renewal is all that it has.
    let older = world.index.copy();
    commit(&world.store, vec![renew(id)]).unwrap();
    let disk = world.disk.after(Crash::LoseUnsynced);
    let world = World { disk, ..world }.reopened(Some(older));
    assert_eq!(world.totals(), (1, 0), "the lease was begun anew, and acknowledged");
}

#[test]
fn parts_are_wanted_while_a_live_entry_here_has_a_body_without_them() {
    let world = World::new();
    let (one, two) = (part(1, 500), part(2, 500));
    let (both, single) = (body_without(11, &[&one, &two]), body_without(12, &[&two]));
    let (first, second) = (entry(1, 1, BlobId::of(&both)), entry(2, 2, BlobId::of(&single)));
    commit(&world.store, vec![blob(&both), put(&first, &[]), blob(&single), put(&second, &[])]).unwrap();
    let mut names = vec![BlobId::of(&one), BlobId::of(&two)];
    names.sort_unstable();
    assert_eq!(world.wanted(), names);
    commit(&world.store, vec![put(&expunged(&first), &[])]).unwrap();
    assert_eq!(world.wanted(), [BlobId::of(&two)]);
    assert!(world.store.refers_to_part(BlobId::of(&one)).unwrap(), "as long as the body may come back");
    world.after(101);
    assert!(!world.store.refers_to_part(BlobId::of(&one)).unwrap());
    assert!(world.store.refers_to_part(BlobId::of(&two)).unwrap());
    // The log alone says the same.
    let world = world.reopened(Some(MemoryIndex::new()));
    assert_eq!(world.wanted(), [BlobId::of(&two)]);
    commit(&world.store, vec![put(&expunged(&second), &[])]).unwrap();
    assert!(world.wanted().is_empty());
}

#[test]
fn compaction_and_rebuilding_keep_parts_what_they_are() {
    let world = World::new();
    let one = part(1, 500);
    let whole = body_without(11, &[&one]);
    let first = entry(1, 1, BlobId::of(&whole));
    commit(&world.store, vec![blob(&one), blob(&whole), put(&first, &[])]).unwrap();
    for number in 0..30 {
        commit(&world.store, vec![blob(&body(2_000 + number, 400)), renew(BlobId::of(&one))]).unwrap();
    }
    world.after(150);
    world.after(200);
    assert!(world.store.metrics().compacted_bytes > 4_000);
    assert_eq!(world.totals(), (0, 1), "being moved is no renewal");
    assert_eq!(world.wanted(), [BlobId::of(&one)]);
    assert!(world.store.verify().unwrap().is_sound());
    assert_eq!(world.store.parts_here(None, 10).unwrap().parts, [BlobId::of(&one)]);
    let along = world.store.metrics().parts;
    let world = world.reopened(None);
    assert_eq!(world.store.metrics().parts, along);
    let world = world.reopened(Some(MemoryIndex::new()));
    assert_eq!(world.totals(), (1, 0), "a rebuilt index gives new leases");
    assert_eq!(world.wanted(), [BlobId::of(&one)]);
    assert_eq!(now(world.store.blob(BlobId::of(&one))).unwrap().as_ref(), Some(&one));
}
