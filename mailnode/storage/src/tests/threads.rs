//! The store as the node has it: threads, tasks, a real disk.

use super::world::{PEERS, blob, body, entry, put, value};
use crate::{
    Durability, Error, FileDisk, FjallIndex, MemoryDisk, MemoryIndex, Options, Outcome, Store, Write,
};
use cluster::BlobId;
use std::sync::Arc;
use std::time::Duration;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn threaded() -> (Store, MemoryDisk) {
    let disk = MemoryDisk::new();
    (Store::open(disk.clone(), MemoryIndex::new(), Options::default()).unwrap().0, disk)
}

#[test]
fn commits_of_many_tasks_share_flushes_and_are_all_there_after_a_restart_on_a_real_disk() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let disk = FileDisk::open(directory.path().join("log")).unwrap();
        let index = FjallIndex::open(directory.path().join("index"), 1 << 20).unwrap();
        let options = Options { segment_bytes: 1 << 20, ..Options::default() };
        Store::open(disk, index, options).unwrap()
    };
    let runtime = runtime();
    let (store, _) = open();
    let tasks: Vec<_> = (0..32u64)
        .map(|task| {
            let store = store.clone();
            runtime.spawn(async move {
                for round in 0..8 {
                    let bytes = body(task * 100 + round, 5_000);
                    let entry = entry(1, u128::from(task * 100 + round), BlobId::of(&bytes));
                    store.commit(vec![blob(&bytes), put(&entry, &PEERS)], Durability::Synced).await.unwrap();
                    assert_eq!(store.blob(entry.blob.id).await.unwrap(), Some(bytes));
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    let metrics = store.metrics();
    assert_eq!(metrics.commits, 256);
    assert!(metrics.groups < 200, "{metrics:?}");
    assert_eq!(store.load().pending, 0);
    drop(store);
    let (store, recovery) = open();
    assert!(!recovery.index_rebuilt, "{recovery:?}");
    assert_eq!(recovery.groups_replayed, 0);
    assert_eq!(store.fragment(cluster::UserId(1)).unwrap().len(), 256);
    assert!(store.verify().unwrap().is_sound());
    drop(store);
    std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    let (store, recovery) = open();
    assert!(recovery.index_rebuilt);
    assert_eq!(store.fragment(cluster::UserId(1)).unwrap().len(), 256);
    assert_eq!(store.pending_count(PEERS[0]), 256);
}

#[test]
fn a_lazy_commit_costs_no_flush_of_its_own_and_is_answered_all_the_same() {
    let (store, _) = threaded();
    runtime().block_on(async {
        let lazy = store.commit(vec![value("lazy", Some("1"))], Durability::Lazy);
        let soon = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            store.commit(vec![value("soon", Some("2"))], Durability::Synced).await
        };
        let (lazy, soon) = tokio::join!(lazy, soon);
        assert!(lazy.is_ok() && soon.is_ok());
        assert_eq!(store.metrics().groups, 1);
        store.commit(vec![value("alone", Some("3"))], Durability::Lazy).await.unwrap();
        assert_eq!(store.metrics().groups, 2);
    });
}

#[test]
fn a_commit_whose_caller_went_away_is_made() {
    let (store, _) = threaded();
    runtime().block_on(async {
        let commit = store.commit(vec![value("a", Some("b"))], Durability::Lazy);
        assert!(tokio::time::timeout(Duration::from_millis(1), commit).await.is_err());
        store.commit(vec![value("c", Some("d"))], Durability::Synced).await.unwrap();
    });
    assert_eq!(store.record(b"a").unwrap().unwrap(), "b");
}

#[test]
fn closing_flushes_what_is_queued_and_refuses_the_rest() {
    let (store, disk) = threaded();
    let runtime = runtime();
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let store = store.clone();
            let writes = vec![value(&format!("k{number:02}"), Some("v"))];
            runtime.spawn(async move { store.commit(writes, Durability::Lazy).await })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(20));
    store.close();
    let outcomes: Vec<_> = runtime.block_on(async {
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(task.await.unwrap());
        }
        outcomes
    });
    let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(Error::Closed))));
    let disk = disk.after(crate::disk::Crash::LoseUnsynced);
    let (store, _) = Store::open(disk, MemoryIndex::new(), Options::default()).unwrap();
    assert_eq!(store.records(b"k", None, 100).unwrap().len(), done);
}

#[test]
fn a_full_queue_makes_callers_wait_and_not_fail() {
    let options = Options { queue_bytes: 4_000, ..Options::default() };
    let (store, _) = Store::open(MemoryDisk::new(), MemoryIndex::new(), options).unwrap();
    let runtime = runtime();
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let store = store.clone();
            runtime.spawn(async move {
                // Larger than the queue: it goes alone.
                let bytes = body(number, 6_000);
                store.commit(vec![blob(&bytes)], Durability::Synced).await
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            let outcomes = task.await.unwrap().unwrap();
            assert!(matches!(outcomes[..], [Outcome::Blob { stored: true }]));
        }
    });
    assert_eq!(store.metrics().groups, 40);
}

#[test]
fn a_thread_in_the_background_compacts_while_reads_and_commits_go_on() {
    let options = Options { segment_bytes: 20_000, ..Options::default() };
    let (store, _) = Store::open(MemoryDisk::new(), MemoryIndex::new(), options).unwrap();
    let store = Arc::new(store);
    runtime().block_on(async {
        let bytes = body(1, 3_000);
        let message = entry(1, 1, BlobId::of(&bytes));
        store.commit(vec![blob(&bytes), put(&message, &[])], Durability::Synced).await.unwrap();
        for round in 0..3_000 {
            let write: Write = value("churn", Some(&format!("{round} ").repeat(300)));
            store.commit(vec![write], Durability::Synced).await.unwrap();
            assert_eq!(store.blob(message.blob.id).await.unwrap().as_ref(), Some(&bytes));
            if store.metrics().compacted_bytes > 0 && round > 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(store.metrics().compacted_bytes > 0);
    assert!(store.verify().unwrap().is_sound());
}

const CHILD: &str = "PRICKLE_STORAGE_TEST_DIRECTORY";

fn open_real(directory: &std::path::Path) -> (Store, crate::Recovery) {
    let disk = FileDisk::open(directory.join("log")).unwrap();
    let index = FjallIndex::open(directory.join("index"), 1 << 20).unwrap();
    Store::open(disk, index, Options { segment_bytes: 200_000, ..Options::default() }).unwrap()
}

/// Not a test of its own: what [`kill_dash_nine_loses_nothing_acknowledged`] kills.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let (store, _) = open_real(directory.as_ref());
    runtime().block_on(async {
        for number in 0..1_000_000u64 {
            let bytes = body(number, 3_000);
            let entry = entry(1, u128::from(number), BlobId::of(&bytes));
            store.commit(vec![blob(&bytes), put(&entry, &PEERS)], Durability::Synced).await.unwrap();
            println!("\nacknowledged {number}");
        }
    });
}

#[test]
fn kill_dash_nine_loses_nothing_acknowledged() {
    use std::io::{BufRead, BufReader};
    let directory = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for round in 1..=2 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::threads::child_that_commits_until_it_is_killed", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let numbers =
            lines.filter_map(|line| line.unwrap().strip_prefix("acknowledged ")?.parse::<u64>().ok());
        seen = numbers.take(round * 100).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (store, recovery) = open_real(directory.path());
    assert_eq!(recovery.corrupt_records, 0);
    let fragment = store.fragment(cluster::UserId(1)).unwrap();
    runtime().block_on(async {
        for number in 0..=seen {
            let entry = fragment.entry(cluster::EntryId(number.into())).unwrap();
            assert_eq!(store.blob(entry.blob.id).await.unwrap(), Some(body(number, 3_000)));
        }
    });
    assert!(store.verify().unwrap().is_sound());
}
