//! Bit rot, lost and foreign indexes, tampering.

use super::world::{Model, blob, body, commit, entry, new_store, now, open, put, random_commit, value};
use crate::segments::file_name;
use crate::{MemoryDisk, MemoryIndex};
use cluster::BlobId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::IoSlice;

/// A log of a few segments, and what is in it.
fn filled(seed: u64) -> (MemoryDisk, MemoryIndex, Model) {
    let (store, disk, index) = new_store();
    let mut random = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    for _ in 0..25 {
        let writes = random_commit(&mut random, &model);
        model.apply(&writes);
        commit(&store, writes).unwrap();
    }
    (disk, index, model)
}

#[test]
fn damage_in_the_middle_costs_what_is_damaged_and_is_reported() {
    let mut random = StdRng::seed_from_u64(8);
    for round in 0..60 {
        let (disk, _, model) = filled(2);
        commit(&open(&disk, MemoryIndex::new()).unwrap().0, vec![value("last", Some("one"))]).unwrap();
        let first = disk.contents(&file_name(1)).unwrap().len() as u64;
        assert!(disk.flip(&file_name(1), random.random_range(0..first), round as u8));
        let (store, recovery) = open(&disk, MemoryIndex::new()).unwrap();
        assert_eq!(store.record(b"last").unwrap().unwrap(), "one");
        let found = store.verify().unwrap();
        // Padding is nobody's.
        if found.is_sound() {
            assert_eq!(recovery.corrupt_records, 0);
        } else {
            assert!(recovery.corrupt_records > 0, "round {round}");
            assert_eq!(store.metrics().corrupt_records, recovery.corrupt_records);
        }
        assert_eq!(recovery.bytes_cut, 0);
        let kept = model.entries.keys().filter(|(user, id)| store.entry(*user, *id).unwrap().is_some());
        assert!(kept.count() * 2 > model.entries.len());
    }
}

#[test]
fn damage_to_the_last_group_is_told_from_a_torn_one_by_the_index() {
    let (disk, index, _) = filled(3);
    let (store, _) = open(&disk, index.clone()).unwrap();
    let bytes = body(500, 300);
    commit(&store, vec![blob(&bytes), value("with", Some("it"))]).unwrap();
    drop(store);
    let newest = disk_newest(&disk);
    let contents = disk.contents(&newest).unwrap();
    let at = contents.windows(bytes.len()).position(|part| part == &bytes[..]).unwrap();
    disk.flip(&newest, at as u64 + 5, 3);

    let known = index.copy();
    let (store, recovery) = open(&disk_copy(&disk), known).unwrap();
    assert_eq!((recovery.bytes_cut, recovery.corrupt_records), (0, 0));
    assert_eq!(store.record(b"with").unwrap().unwrap(), "it");
    assert_eq!(now(store.blob(BlobId::of(&bytes))).unwrap(), None);

    let (store, recovery) = open(&disk_copy(&disk), MemoryIndex::new()).unwrap();
    assert!(recovery.bytes_cut > 0);
    assert_eq!(recovery.corrupt_records, 0);
    assert_eq!(store.record(b"with").unwrap(), None);
}

fn disk_newest(disk: &MemoryDisk) -> String {
    use crate::Disk;
    let mut names = disk.list().unwrap();
    names.sort();
    names.pop().unwrap()
}

fn disk_copy(disk: &MemoryDisk) -> MemoryDisk {
    disk.after(crate::disk::Crash::KeepAll)
}

#[test]
fn a_damaged_body_reads_as_absent_and_is_taken_again() {
    let (store, disk, _) = new_store();
    let bytes = body(1, 500);
    let message = entry(1, 1, BlobId::of(&bytes));
    commit(&store, vec![blob(&bytes), put(&message, &[])]).unwrap();
    disk.flip(&file_name(1), 72 + 96 + 250, 1);
    assert_eq!(now(store.blob(BlobId::of(&bytes))).unwrap(), None);
    assert_eq!(store.metrics().corrupt_records, 1);
    assert!(!store.has_blob(BlobId::of(&bytes)).unwrap());
    commit(&store, vec![blob(&bytes)]).unwrap();
    assert_eq!(now(store.blob(BlobId::of(&bytes))).unwrap(), Some(bytes));
}

#[test]
fn an_index_ahead_of_the_log_or_of_another_log_is_rebuilt() {
    let (disk, index, model) = filled(4);
    let before = disk_copy(&disk);
    let (store, _) = open(&disk, index.clone()).unwrap();
    commit(&store, vec![value("lost with the disk", Some("x"))]).unwrap();
    drop(store);
    let (store, recovery) = open(&before, index).unwrap();
    assert!(recovery.index_rebuilt);
    model.check(&store).unwrap();

    let (other, _, model) = filled(5);
    let (_, foreign, _) = filled(6);
    let (store, recovery) = open(&other, foreign).unwrap();
    assert!(recovery.index_rebuilt);
    model.check(&store).unwrap();
}

#[test]
fn a_current_index_is_not_rebuilt_and_replays_nothing() {
    let (disk, index, model) = filled(4);
    let (store, recovery) = open(&disk, index).unwrap();
    assert!(!recovery.index_rebuilt);
    assert_eq!(recovery.groups_replayed, 0);
    model.check(&store).unwrap();
}

#[test]
fn a_missing_segment_is_noticed() {
    use crate::Disk;
    let (disk, index, _) = filled(7);
    disk.remove(&file_name(2)).unwrap();
    let (store, recovery) = open(&disk, index).unwrap();
    assert!(recovery.index_rebuilt);
    assert_eq!(recovery.segments_missing, 1);
    assert!(store.verify().unwrap().broken_links > 0);
}

/// Replaces a file's bytes, as somebody with the disk in his hands could.
fn overwrite(disk: &MemoryDisk, name: &str, bytes: &[u8]) {
    use crate::Disk;
    let file = disk.open(name).unwrap();
    file.truncate(0).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
    file.sync().unwrap();
}

#[test]
fn verify_finds_groups_that_were_altered_removed_or_swapped_with_all_checksums_right() {
    use crate::record::{GROUP_HEADER, GroupHeader, ITEM};
    let (store, disk, index) = new_store();
    for text in ["one", "two", "six"] {
        commit(&store, vec![value("key", Some(text))]).unwrap();
    }
    assert!(store.verify().unwrap().is_sound());
    drop(store);
    let name = file_name(1);
    let good = disk.contents(&name).unwrap();
    let at = |group: usize| 72 + group * (good.len() - 72) / 3;
    let header_at = |bytes: &[u8], start: usize, position: usize| {
        let header: [u8; GROUP_HEADER] = bytes[start..start + GROUP_HEADER].try_into().unwrap();
        GroupHeader::parse(&header, 1, position as u64).unwrap()
    };

    // Altered: another text, with every checksum made right.
    for (group, from) in [(1, "two"), (2, "six")] {
        let mut bytes = good.clone();
        let meta = at(group) + GROUP_HEADER;
        let mut header = header_at(&good, at(group), at(group));
        let text = bytes[meta..].windows(3).position(|part| part == from.as_bytes()).unwrap();
        bytes[meta + text] = b'T';
        let items = meta + header.metas as usize;
        let crc = crc32c::crc32c(&bytes[meta..items]);
        bytes[items + 12..items + 16].copy_from_slice(&crc.to_le_bytes());
        header.items_crc = crc32c::crc32c(&bytes[items..items + ITEM]);
        bytes[at(group)..at(group) + GROUP_HEADER].copy_from_slice(&header.to_bytes());
        let disk = disk_copy(&disk);
        let (store, _) = open(&disk, index.copy()).unwrap();
        overwrite(&disk, &name, &bytes);
        let found = store.verify().unwrap();
        assert_eq!((found.corrupt_records, found.broken_links), (0, 1), "{from}: {found:?}");
    }

    // Swapped and removed: the groups are moved, and their headers say so.
    let moved = |order: &[usize]| {
        let mut bytes = good[..72].to_vec();
        for &group in order {
            let position = bytes.len();
            let mut header = header_at(&good, at(group), at(group));
            header.position = position as u64;
            bytes.extend_from_slice(&header.to_bytes());
            bytes.extend_from_slice(&good[at(group) + GROUP_HEADER..at(group + 1)]);
        }
        bytes
    };
    for order in [&[0, 2][..], &[1, 0, 2], &[1, 2], &[0, 1]] {
        let disk = disk_copy(&disk);
        let (store, _) = open(&disk, index.copy()).unwrap();
        overwrite(&disk, &name, &moved(order));
        assert!(store.verify().unwrap().broken_links > 0, "{order:?}");
    }
}
