//! Digests, entries that moved away, and the walks over entries and bodies. That the digests are right after
//! crashes, compaction and rebuilds is checked by the model in all other tests.

use super::world::{
    ME, PEERS, START, blob, body, clock, commit, entry, new_store, now, open, options, put, stamp,
};
use crate::{MemoryDisk, MemoryIndex, Store, Write};
use cluster::anti_entropy::Item;
use cluster::{BlobId, Bucket, Entry, EntryId, NodeId, Register, UserId};
use std::sync::atomic::Ordering::Relaxed;

fn moved(entry: &Entry, replicas: &[NodeId], seconds: u64) -> Entry {
    let at = stamp(((START + seconds) * 1_000) << 16);
    Entry { replicas: Register::new(replicas.to_vec(), at), ..entry.clone() }
}

#[test]
fn an_entry_that_moved_away_is_remembered_hidden_and_keeps_no_body() {
    let (time, disk) = (clock(), MemoryDisk::new());
    let options = options(&time);
    let (lease, lifetime) = (options.lease.as_secs(), options.tombstone_lifetime.as_secs());
    let (store, _) = Store::open(disk, MemoryIndex::new(), options).unwrap();
    let bytes = body(1, 300);
    let here = entry(1, 1, BlobId::of(&bytes));
    commit(&store, vec![blob(&bytes), put(&here, &[])]).unwrap();
    assert!(!store.digests(PEERS[0]).is_empty());
    let away = moved(&here, &PEERS, 5);
    commit(&store, vec![put(&away, &PEERS)]).unwrap();
    assert!(store.fragment(UserId(1)).unwrap().is_empty());
    assert!(store.digests(PEERS[0]).is_empty());
    assert_eq!(store.pending_count(PEERS[0]), 1, "the update log still has it");
    // An older version makes no copy of it again.
    commit(&store, vec![put(&here, &[])]).unwrap();
    assert!(store.copies(None, 9).unwrap().is_empty());
    time.fetch_add(lease + 1, Relaxed);
    store.maintain().unwrap();
    assert!(!store.has_blob(here.blob.id).unwrap());
    time.fetch_add(lifetime * 3 / 2, Relaxed);
    store.maintain().unwrap();
    assert!(store.entry(UserId(1), EntryId(1)).unwrap().is_some(), "its peers wait for it");
    assert_eq!(store.pending(PEERS[0], None, 9).unwrap(), std::slice::from_ref(&away));
    let version = (UserId(1), EntryId(1), away.digest());
    commit(&store, vec![Write::Retire { peer: PEERS[0], entries: vec![version] }]).unwrap();
    store.maintain().unwrap();
    // The other one waits for it yet; but what came after it may be forgotten.
    assert!(store.entry(UserId(1), EntryId(1)).unwrap().is_none());
    assert_eq!(store.pending_count(PEERS[1]), 0);
}

#[test]
fn a_witness_is_silent_when_tombstones_that_came_later_may_be_forgotten() {
    let (time, disk) = (clock(), MemoryDisk::new());
    let options = options(&time);
    let lifetime = options.tombstone_lifetime.as_secs();
    let (store, _) = Store::open(disk, MemoryIndex::new(), options).unwrap();
    let versions = || store.versions(UserId(1), None, 9).unwrap();
    let elsewhere = |id: u128| {
        let elsewhere = moved(&entry(1, id, BlobId::of(&body(1, 300))), &PEERS, 5);
        commit(&store, vec![put(&elsewhere, &PEERS)]).unwrap();
        elsewhere
    };
    let (known, unknown) = (elsewhere(1), elsewhere(2));
    let version = (UserId(1), EntryId(1), known.digest());
    commit(&store, vec![Write::Retire { peer: PEERS[0], entries: vec![version] }]).unwrap();
    time.fetch_add(lifetime, Relaxed);
    assert_eq!(versions(), [known.clone(), unknown.clone()]);
    assert_eq!(store.pending(PEERS[1], None, 1).unwrap(), [known]);
    time.fetch_add(lifetime / 4 + 6, Relaxed);
    assert_eq!(versions(), std::slice::from_ref(&unknown), "of which no replica knows");
    assert_eq!(store.pending(PEERS[1], None, 1).unwrap(), [unknown]);
}

#[test]
fn a_witness_tells_managers_of_a_version_for_as_long_as_a_replica_lacks_it() {
    let (store, _, _) = new_store();
    let elsewhere = moved(&entry(1, 1, BlobId::of(&body(1, 300))), &PEERS, 5);
    commit(&store, vec![put(&elsewhere, &PEERS)]).unwrap();
    assert!(store.entries(UserId(1), None, 9).unwrap().is_empty(), "it is no copy");
    assert_eq!(store.versions(UserId(1), None, 9).unwrap(), std::slice::from_ref(&elsewhere));
    let version = (UserId(1), EntryId(1), elsewhere.digest());
    for peer in PEERS {
        commit(&store, vec![Write::Retire { peer, entries: vec![version] }]).unwrap();
    }
    assert!(store.versions(UserId(1), None, 9).unwrap().is_empty());
}

#[test]
fn an_entry_that_comes_back_is_a_copy_again() {
    let (store, _, _) = new_store();
    let bytes = body(1, 300);
    let here = entry(1, 1, BlobId::of(&bytes));
    commit(&store, vec![put(&moved(&here, &PEERS, 5), &[])]).unwrap();
    let back = moved(&here, &[ME, PEERS[0]], 9);
    commit(&store, vec![blob(&bytes), put(&back, &[])]).unwrap();
    assert_eq!(store.copies(None, 9).unwrap(), std::slice::from_ref(&back));
    assert_eq!(store.referrer(here.blob.id).unwrap(), Some(back));
    assert!(store.digests(PEERS[1]).is_empty() && !store.digests(PEERS[0]).is_empty());
}

#[test]
fn items_copies_and_bodies_are_walked_in_pages_without_gaps() {
    let (store, disk, _) = new_store();
    let mut all = Vec::new();
    for number in 0..50u128 {
        let bytes = body(number as u64, 20);
        let mut made = entry(number % 3, number, BlobId::of(&bytes));
        if number % 7 == 0 {
            made.replicas.value = vec![ME];
        }
        commit(&store, vec![blob(&bytes), put(&made, &[])]).unwrap();
        all.push(made);
    }
    drop(store);
    // What was counted along the way is what a start finds.
    let (store, _) = open(&disk, MemoryIndex::new()).unwrap();
    let mut copies: Vec<Entry> = Vec::new();
    loop {
        let page = store.copies(copies.last().map(|last| (last.user, last.id)), 8).unwrap();
        let Some(_) = page.last() else { break };
        copies.extend(page);
    }
    copies.sort_by_key(|entry| entry.id);
    assert_eq!(copies, all);
    for user in 0..3 {
        let bucket = Bucket::of_user(UserId(user));
        let mut items: Vec<Item> = Vec::new();
        loop {
            let after = items.last().map(|last| (last.user, last.entry));
            let page = store.items(PEERS[0], bucket, after, 5).unwrap();
            items.extend(page.items);
            if !page.more {
                break;
            }
        }
        let shared = all.iter().filter(|entry| entry.user == UserId(user) && entry.replicas.value.len() > 1);
        assert_eq!(items, shared.map(Item::from).collect::<Vec<_>>());
        let sum = items.iter().fold(0, |sum, item| sum ^ item.digest);
        assert_eq!(store.digests(PEERS[0]).node(3, bucket.0), sum);
    }
    let mut bodies: Vec<(BlobId, u32)> = Vec::new();
    loop {
        let page = store.blobs(bodies.last().map(|last| last.0), 8).unwrap();
        let Some(_) = page.last() else { break };
        bodies.extend(page);
    }
    assert_eq!(bodies.len(), 50);
    assert!(bodies.iter().all(|(id, length)| *length == 20 && now(store.blob(*id)).unwrap().is_some()));
}

#[test]
fn tombstones_are_told_to_the_peer_that_should_have_them() {
    let (store, _, _) = new_store();
    let bytes = body(1, 300);
    let expunged = |user, replicas: &[NodeId]| {
        let here = moved(&entry(user, 1, BlobId::of(&bytes)), replicas, 5);
        Entry { expunged: Some(stamp(((START + 6) * 1_000) << 16)), ..here }
    };
    let ours = expunged(1, &[ME, PEERS[0]]);
    let theirs = expunged(2, &[ME, PEERS[1]]);
    let living = entry(3, 1, BlobId::of(&bytes));
    commit(&store, vec![blob(&bytes), put(&ours, &[]), put(&theirs, &[]), put(&living, &[])]).unwrap();
    assert_eq!(store.tombstones(PEERS[0], None, 9).unwrap(), std::slice::from_ref(&ours));
    assert_eq!(store.tombstones(PEERS[0], Some((ours.user, ours.id)), 9).unwrap(), []);
}
