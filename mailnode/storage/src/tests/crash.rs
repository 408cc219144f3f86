//! Crashes at every call: what was acknowledged is there, what was not is whole or absent.

use super::world::{Model, commit, now, open, options, random_commit};
use crate::disk::{Crash, Fault};
use crate::{Durability, Error, MemoryDisk, MemoryIndex, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

const COMMITS: usize = 26;

/// How far a run came.
struct Run {
    acknowledged: Model,
    /// With the commit that failed.
    attempted: Model,
    index: MemoryIndex,
    /// The index as it was half way.
    older: MemoryIndex,
}

/// The same commits for the same seed, with maintenance in between, until the disk goes down.
fn run(disk: &MemoryDisk, seed: u64) -> Run {
    let mut random = StdRng::seed_from_u64(seed);
    let index = MemoryIndex::new();
    let mut model = Model::default();
    let mut older = MemoryIndex::new();
    let stopped = |attempted: Model, acknowledged: Model, older: MemoryIndex| Run {
        acknowledged,
        attempted,
        index: index.copy(),
        older,
    };
    let Ok((store, _)) = open(disk, index.clone()) else { return stopped(model.clone(), model, older) };
    for number in 0..COMMITS {
        let writes = random_commit(&mut random, &model);
        let mut after = model.clone();
        after.apply(&writes);
        if commit(&store, writes).is_err() {
            return stopped(after, model, older);
        }
        model = after;
        if number == COMMITS / 2 {
            older = index.copy();
        }
        if number % 8 == 7 && store.maintain().is_err() {
            return stopped(model.clone(), model, older);
        }
    }
    stopped(model.clone(), model, older)
}

fn check_after(disk: &MemoryDisk, index: MemoryIndex, run: &Run, about: &str) {
    let (store, recovery) = open(disk, index).unwrap_or_else(|error| panic!("{about}: {error}"));
    assert_eq!(recovery.corrupt_records, 0, "{about}: {recovery:?}");
    if let Err(problem) = run.acknowledged.check(&store)
        && let Err(other) = run.attempted.check(&store)
    {
        panic!("{about}: {problem}\nnor {other}\n{recovery:?}");
    }
    let found = store.verify().unwrap();
    assert!(found.is_sound(), "{about}: {found:?}");
    // It goes on from there.
    let writes = random_commit(&mut StdRng::seed_from_u64(99), &Model::default());
    commit(&store, writes).unwrap_or_else(|error| panic!("{about}: {error}"));
}

#[test]
fn a_crash_at_any_call_loses_nothing_acknowledged() {
    for seed in 0..2 {
        let whole = MemoryDisk::new();
        run(&whole, seed);
        for at in 0..whole.calls() {
            let disk = MemoryDisk::new();
            disk.inject(Some(Fault::DownAt(at)));
            let run = run(&disk, seed);
            for crash in [Crash::LoseUnsynced, Crash::KeepAll, Crash::Tear { seed: at * 31 + seed }] {
                let about = format!("seed {seed}, down at {at}, {crash:?}");
                check_after(&disk.after(crash), run.index.copy(), &run, &format!("{about}, index kept"));
                let (other, what) =
                    if at % 2 == 0 { (MemoryIndex::new(), "lost") } else { (run.older.copy(), "older") };
                check_after(&disk.after(crash), other, &run, &format!("{about}, index {what}"));
            }
        }
    }
}

#[test]
fn an_interrupted_recovery_is_begun_again() {
    for at in 0..6 {
        let disk = MemoryDisk::new();
        disk.inject(Some(Fault::DownAt(37)));
        let run = run(&disk, 3);
        let torn = disk.after(Crash::Tear { seed: at });
        torn.inject(Some(Fault::DownAt(at)));
        let _ = open(&torn, MemoryIndex::new());
        check_after(&torn.after(Crash::Tear { seed: 7 }), MemoryIndex::new(), &run, &format!("call {at}"));
    }
}

#[test]
fn a_failed_flush_is_never_followed_by_a_write_and_its_commit_is_whole_or_absent() {
    let whole = MemoryDisk::new();
    run(&whole, 5);
    for at in 0..whole.calls() {
        let disk = MemoryDisk::new();
        disk.inject(Some(Fault::SyncAt(at)));
        let index = MemoryIndex::new();
        let opened = open(&disk, index.clone());
        let Ok((store, _)) = opened else { continue };
        let mut random = StdRng::seed_from_u64(5);
        let mut model = Model::default();
        let mut failed = false;
        for _ in 0..COMMITS {
            let writes = random_commit(&mut random, &model);
            let mut after = model.clone();
            after.apply(&writes);
            match commit(&store, writes) {
                Ok(_) => {
                    assert!(!failed, "a commit after the failed flush of call {at}");
                    model = after;
                }
                Err(error) => {
                    assert!(matches!(error, Error::ReadOnly(_)), "{error}");
                    failed = true;
                }
            }
        }
        model.check(&store).unwrap();
        let (store, _) = open(&disk.after(Crash::LoseUnsynced), index).unwrap();
        model.check(&store).unwrap();
    }
}

#[test]
fn a_full_disk_refuses_new_mail_keeps_nothing_of_it_and_goes_on() {
    let time = Arc::new(AtomicU64::new(super::world::START));
    let (disk, index) = (MemoryDisk::new(), MemoryIndex::new());
    disk.set_capacity(Some(30_000));
    let (store, _) = Store::open(disk.clone(), index.clone(), options(&time)).unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let mut model = Model::default();
    let mut refused = 0;
    for _ in 0..400 {
        time.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let writes = random_commit(&mut random, &model);
        match now(store.commit(writes.clone(), Durability::Synced)) {
            Ok(_) => model.apply(&writes),
            Err(Error::Full) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 10);
    model.check(&store).unwrap();
    disk.set_capacity(None);
    time.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let writes = vec![super::world::value("after", Some("room again"))];
    commit(&store, writes.clone()).unwrap();
    model.apply(&writes);
    drop(store);
    let (store, recovery) = open(&disk.after(Crash::LoseUnsynced), MemoryIndex::new()).unwrap();
    assert_eq!(recovery.corrupt_records, 0);
    model.check(&store).unwrap();
}
