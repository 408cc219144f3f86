//! Logs that are not what they were, found by heads that others remember; logs read from their files alone.

use super::world::{blob, body, commit, entry, new_store, open, put, value};
use crate::{Comparison, MemoryIndex, dump, verify_files};
use cluster::BlobId;

#[test]
fn a_log_contains_every_head_it_had_across_segments_and_restarts() {
    let (store, disk, _) = new_store();
    let mut heads = vec![store.head()];
    for number in 0..60 {
        commit(&store, vec![blob(&body(number, 300)), value("n", Some(&number.to_string()))]).unwrap();
        heads.push(store.head());
    }
    drop(store);
    let (store, _) = open(&disk, MemoryIndex::new()).unwrap();
    assert!(store.metrics().segments > 2);
    assert_eq!(store.head(), heads[60]);
    for head in heads {
        assert_eq!(store.compare(head).unwrap(), Comparison::Contains, "{head}");
    }
}

#[test]
fn a_log_that_was_rolled_back_is_shorter_and_one_that_went_on_from_there_is_another() {
    let (store, disk, _) = new_store();
    commit(&store, vec![value("a", Some("1"))]).unwrap();
    let old = disk.after(crate::disk::Crash::KeepAll);
    commit(&store, vec![value("b", Some("2"))]).unwrap();
    let head = store.head();

    let (rolled_back, _) = open(&old, MemoryIndex::new()).unwrap();
    assert_eq!(rolled_back.compare(head).unwrap(), Comparison::Shorter);
    commit(&rolled_back, vec![value("b", Some("3"))]).unwrap();
    assert_eq!(rolled_back.compare(head).unwrap(), Comparison::Other);
    commit(&rolled_back, vec![value("c", Some("4"))]).unwrap();
    assert_eq!(rolled_back.compare(head).unwrap(), Comparison::Other);
}

#[test]
fn what_was_compacted_away_cannot_be_compared_and_is_not_blamed() {
    let (store, _, _) = new_store();
    let mut first = None;
    for number in 0..60 {
        commit(&store, vec![value("n", Some(&format!("{number:0300}")))]).unwrap();
        first.get_or_insert(store.head());
    }
    store.maintain().unwrap();
    assert_eq!(store.compare(first.unwrap()).unwrap(), Comparison::Unknown);
    assert_eq!(store.compare(store.head()).unwrap(), Comparison::Contains);
}

#[test]
fn files_alone_are_verified_and_shown_and_a_torn_end_is_no_damage() {
    let (store, disk, _) = new_store();
    let bytes = body(1, 100);
    commit(&store, vec![blob(&bytes), put(&entry(3, 4, BlobId::of(&bytes)), &[])]).unwrap();
    commit(&store, vec![value("secret", Some("hunter2"))]).unwrap();
    let head = store.head();
    drop(store);

    let found = verify_files(&disk, &mut |_| {}).unwrap();
    assert!(found.is_sound());
    assert_eq!((found.groups, found.torn_bytes, found.head), (2, 0, head));
    let mut lines = Vec::new();
    dump(&disk, 0, &mut |line| {
        lines.push(line.to_owned());
        true
    })
    .unwrap();
    let text = lines.join("\n");
    assert_eq!(lines.len(), 6, "{text}");
    assert!(text.contains("100 bytes") && text.contains("value of \"secret\", 7 bytes"), "{text}");
    assert!(!text.contains("hunter2"));

    let name = crate::segments::file_name(1);
    let length = disk.contents(&name).unwrap().len() as u64;
    crate::Disk::open(&disk, &name).unwrap().truncate(length - 9).unwrap();
    let torn = verify_files(&disk, &mut |_| {}).unwrap();
    assert!(torn.is_sound() && torn.torn_bytes > 0 && torn.groups == 1);
}
