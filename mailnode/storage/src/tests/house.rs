//! Compaction, leases, tombstones. Crashes in the middle of them are in `crash`.

use super::world::{
    Model, PEERS, blob, body, clock, commit, entry, new_store, now, open, options, put, stamp, value,
};
use super::world::{START, random_commit};
use crate::disk::{Crash, Fault};
use crate::segments::file_name;
use crate::{MemoryDisk, MemoryIndex, Options, Store, Write};
use cluster::{BlobId, Entry, EntryId, UserId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

fn timed() -> (Store, MemoryDisk, MemoryIndex, Arc<AtomicU64>) {
    let (time, disk, index) = (clock(), MemoryDisk::new(), MemoryIndex::new());
    let lease = Duration::from_secs(100);
    let options = Options { lease, tombstone_lifetime: Duration::from_secs(1_000), ..options(&time) };
    let (store, _) = Store::open(disk.clone(), index.clone(), options).unwrap();
    (store, disk, index, time)
}

fn expunged(entry: &Entry) -> Entry {
    Entry { expunged: Some(stamp((START * 1_000) << 16)), ..entry.clone() }
}

#[test]
fn compaction_frees_what_is_dead_and_keeps_what_is_alive_with_and_without_the_index() {
    for seed in 20..26 {
        let (store, disk, _) = new_store();
        let mut random = StdRng::seed_from_u64(seed);
        let mut model = Model::default();
        for number in 0..300 {
            let writes = random_commit(&mut random, &model);
            model.apply(&writes);
            commit(&store, writes).unwrap();
            if number % 50 == 49 {
                store.maintain().unwrap();
            }
        }
        let metrics = store.metrics();
        assert!(metrics.compacted_bytes > 20_000, "{metrics:?}");
        model.check(&store).unwrap();
        let found = store.verify().unwrap();
        assert!(found.is_sound(), "seed {seed}: {found:?}");
        drop(store);
        let (store, _) = open(&disk, MemoryIndex::new()).unwrap();
        model.check(&store).unwrap();
        // Bodies that were collected may be back with a new lease; the rest is what it was.
        assert!(store.metrics().live_bytes >= metrics.live_bytes);
    }
}

#[test]
fn a_log_is_no_longer_than_twice_what_is_alive_and_two_segments() {
    let (store, _, _) = new_store();
    let two_segments = 2 * u64::from(options(&clock()).segment_bytes);
    let mut random = StdRng::seed_from_u64(40);
    let mut model = Model::default();
    for _ in 0..40 {
        for _ in 0..50 {
            let writes = random_commit(&mut random, &model);
            model.apply(&writes);
            commit(&store, writes).unwrap();
        }
        store.maintain().unwrap();
        let metrics = store.metrics();
        assert!(metrics.dead_bytes <= metrics.live_bytes + two_segments, "{metrics:?}");
    }
    assert!(store.metrics().compacted_bytes > 20_000, "there was something to compact");
}

#[test]
fn live_bytes_are_the_same_counted_along_the_way_and_anew() {
    let (store, disk, index) = new_store();
    let mut random = StdRng::seed_from_u64(30);
    let mut model = Model::default();
    for _ in 0..150 {
        let writes = random_commit(&mut random, &model);
        model.apply(&writes);
        commit(&store, writes).unwrap();
    }
    let along = store.metrics().live_bytes;
    drop(store);
    assert_eq!(open(&disk, index).unwrap().0.metrics().live_bytes, along);
    assert_eq!(open(&disk, MemoryIndex::new()).unwrap().0.metrics().live_bytes, along);
}

#[test]
fn a_body_lives_as_long_as_an_entry_refers_to_it_and_a_lease_longer() {
    let (store, _, _, time) = timed();
    let bytes = body(1, 400);
    let id = BlobId::of(&bytes);
    let (one, two) = (entry(1, 1, id), entry(2, 2, id));
    commit(&store, vec![blob(&bytes), put(&one, &[]), put(&two, &[])]).unwrap();
    let after = |seconds| {
        time.fetch_add(seconds, Relaxed);
        store.maintain().unwrap();
        store.has_blob(id).unwrap()
    };
    assert!(after(1_000));
    commit(&store, vec![put(&expunged(&one), &[])]).unwrap();
    assert!(after(1_000));
    commit(&store, vec![Write::Forget { user: UserId(2), entry: EntryId(2) }]).unwrap();
    assert!(after(99));
    // Somebody brings it again: the lease begins anew.
    commit(&store, vec![blob(&bytes)]).unwrap();
    assert!(after(99));
    assert!(!after(1));
    assert_eq!(now(store.blob(id)).unwrap(), None);
}

#[test]
fn a_body_that_waits_for_its_entry_is_kept_by_the_entry() {
    let (store, _, _, time) = timed();
    let bytes = body(1, 400);
    commit(&store, vec![blob(&bytes)]).unwrap();
    time.fetch_add(90, Relaxed);
    commit(&store, vec![put(&entry(1, 1, BlobId::of(&bytes)), &[])]).unwrap();
    time.fetch_add(1_000, Relaxed);
    store.maintain().unwrap();
    assert!(store.has_blob(BlobId::of(&bytes)).unwrap());
}

#[test]
fn a_tombstone_goes_when_it_is_old_and_nobody_waits_for_it() {
    let (store, disk, _, time) = timed();
    let gone = expunged(&entry(1, 1, BlobId::of(b"x")));
    commit(&store, vec![put(&gone, &PEERS[..1])]).unwrap();
    let after = |seconds| {
        time.fetch_add(seconds, Relaxed);
        store.maintain().unwrap();
        store.entry(gone.user, gone.id).unwrap().is_some()
    };
    assert!(after(5_000));
    let entries = vec![(gone.user, gone.id, gone.digest())];
    commit(&store, vec![Write::Retire { peer: PEERS[0], entries }]).unwrap();
    assert!(!after(0));
    drop(store);
    let (store, _) = open(&disk, MemoryIndex::new()).unwrap();
    assert_eq!(store.entry(gone.user, gone.id).unwrap(), None);
}

#[test]
fn what_was_forgotten_stays_forgotten_although_its_record_outlives_the_note_of_it() {
    let (store, disk, _) = new_store();
    // The first segment stays, because most of it is alive.
    let message = entry(1, 1, BlobId::of(b"x"));
    let keep = "keep ".repeat(700);
    commit(&store, vec![put(&message, &[]), value("keep", Some(&keep))]).unwrap();
    commit(&store, vec![Write::Forget { user: message.user, entry: message.id }]).unwrap();
    // The segments with the note are rewritten again and again.
    for round in 0..40 {
        let text = format!("{round} ").repeat(300);
        commit(&store, vec![value("churn", Some(&text))]).unwrap();
        store.maintain().unwrap();
    }
    assert!(disk.contents(&file_name(1)).is_some());
    assert!(store.metrics().compacted_bytes > 20_000);
    drop(store);
    let (store, _) = open(&disk, MemoryIndex::new()).unwrap();
    assert_eq!(store.entry(message.user, message.id).unwrap(), None);
    assert_eq!(store.record(b"keep").unwrap().unwrap(), keep);
}

#[test]
fn compaction_of_a_damaged_segment_saves_what_the_index_still_knows() {
    for at in [72 + 10, 72 + 96 + 20, 72 + 96 + 430] {
        let (store, disk, _) = new_store();
        let bytes = body(1, 400);
        let message = entry(1, 1, BlobId::of(&bytes));
        commit(&store, vec![blob(&bytes), put(&message, &[])]).unwrap();
        for round in 0..12 {
            commit(&store, vec![value("churn", Some(&format!("{round} ").repeat(300)))]).unwrap();
        }
        disk.flip(&file_name(1), at, 2);
        store.maintain().unwrap();
        assert!(disk.contents(&file_name(1)).is_none(), "at {at}");
        assert!(store.metrics().corrupt_records > 0);
        drop(store);
        let (store, _) = open(&disk, MemoryIndex::new()).unwrap();
        assert_eq!(store.entry(message.user, message.id).unwrap(), Some(message), "at {at}");
    }
}

#[test]
fn an_entry_that_came_back_and_was_forgotten_again_stays_forgotten() {
    let (store, disk, _) = new_store();
    let message = entry(1, 1, BlobId::of(b"x"));
    let forget = || vec![Write::Forget { user: message.user, entry: message.id }];
    let keep = "keep ".repeat(700);
    let churn = |rounds| {
        for round in 0..rounds {
            commit(&store, vec![value("churn", Some(&format!("{round} ").repeat(300)))]).unwrap();
            store.maintain().unwrap();
        }
    };
    commit(&store, vec![put(&message, &[]), value("keep", Some(&keep))]).unwrap();
    commit(&store, forget()).unwrap();
    churn(4);
    commit(&store, vec![put(&message, &[])]).unwrap();
    // Now the note of the first deletion is dropped, because there is an entry.
    churn(12);
    commit(&store, forget()).unwrap();
    churn(12);
    assert!(disk.contents(&file_name(1)).is_some());
    drop(store);
    let (store, _) = open(&disk, MemoryIndex::new()).unwrap();
    assert_eq!(store.entry(message.user, message.id).unwrap(), None);
}

#[test]
fn a_body_that_was_collected_does_not_come_back_with_a_segment_that_a_crash_left() {
    let bytes = body(1, 400);
    let mut left = 0;
    for down in 0..60 {
        let (store, disk, _, time) = timed();
        commit(&store, vec![blob(&bytes)]).unwrap();
        for round in 0..5 {
            commit(&store, vec![value("churn", Some(&format!("{round} ").repeat(300)))]).unwrap();
        }
        time.fetch_add(1_000, Relaxed);
        disk.inject(Some(Fault::DownAt(disk.calls() + down)));
        let done = store.maintain().is_ok();
        let disk = disk.after(Crash::LoseUnsynced);
        let before = disk.contents(&file_name(1)).is_some();
        let (store, _) = open(&disk, MemoryIndex::new()).unwrap();
        left += usize::from(before && disk.contents(&file_name(1)).is_none());
        let here = store.has_blob(BlobId::of(&bytes)).unwrap();
        let read = now(store.blob(BlobId::of(&bytes))).unwrap();
        assert_eq!(here, read.is_some(), "down at {down}");
        drop(store);
        if done {
            break;
        }
    }
    assert!(left > 0, "no crash left an emptied segment");
}
