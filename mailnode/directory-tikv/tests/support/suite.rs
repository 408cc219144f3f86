//! What every implementation of [`Records`] must do: one function a fact. The database is empty at the start.

use super::{new_key, token};
use bytes::Bytes;
use cluster::mailbox::Reservation;
use cluster::{FolderId, NodeId, Timestamp};
use directory::accounts::Repair;
use directory::{AccountError, Accounts, Address, Credentials, DatabaseError, Key, Kind, Read, Records};
use std::collections::BTreeSet;
use std::sync::Arc;

fn value(text: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

fn random() -> [u8; 16] {
    rand::random()
}

pub const AT: Timestamp = Timestamp { ticks: 1_700_000_000_000 << 16, node: NodeId(1) };

/// All facts, one after the other.
pub async fn all<R: Records + 'static>(records: R) {
    let records = Arc::new(records);
    // The first: its repair pass reads everything.
    accounts_are_made_and_removed(&records).await;
    a_record_is_absent_until_it_is_written(&*records).await;
    a_write_needs_the_version_that_is_there(&*records).await;
    a_token_is_known_again_until_the_next_write(&*records).await;
    a_deleted_record_keeps_its_version(&*records).await;
    large_and_empty_values_come_back(&*records).await;
    lists_are_in_order_of_ids_and_without_the_deleted(&*records).await;
    of_writers_at_once_one_wins_each_version(&records).await;
    managers_at_once_never_reserve_a_uid_twice(&records).await;
}

async fn a_record_is_absent_until_it_is_written(records: &impl Records) {
    let key = new_key();
    assert_eq!(records.read(&key, false).await, Ok(Read::default()));
    assert_eq!(records.read(&key, true).await, Ok(Read::default()));
    assert_eq!(records.compare_and_set(&key, 0, token(), value("one")).await, Ok(1));
    for stale in [false, true] {
        let read = records.read(&key, stale).await;
        assert_eq!(read, Ok(Read { version: 1, value: value("one") }));
    }
}

async fn a_write_needs_the_version_that_is_there(records: &impl Records) {
    let key = new_key();
    let conflict = Err(DatabaseError::Conflict);
    assert_eq!(records.compare_and_set(&key, 1, token(), value("x")).await, conflict);
    records.compare_and_set(&key, 0, token(), value("one")).await.unwrap();
    for wrong in [0, 2, u64::MAX] {
        assert_eq!(records.compare_and_set(&key, wrong, token(), value("x")).await, conflict);
    }
    assert_eq!(records.compare_and_set(&key, 1, token(), value("two")).await, Ok(2));
    assert_eq!(records.read(&key, false).await, Ok(Read { version: 2, value: value("two") }));
}

async fn a_token_is_known_again_until_the_next_write(records: &impl Records) {
    let key = new_key();
    let mine = token();
    for _ in 0..2 {
        assert_eq!(records.compare_and_set(&key, 0, mine, value("mine")).await, Ok(1));
    }
    records.compare_and_set(&key, 1, token(), value("another's")).await.unwrap();
    let again = records.compare_and_set(&key, 0, mine, value("mine")).await;
    assert_eq!(again, Err(DatabaseError::Conflict));
    assert_eq!(records.read(&key, false).await.unwrap().value, value("another's"));
}

async fn a_deleted_record_keeps_its_version(records: &impl Records) {
    let key = new_key();
    records.compare_and_set(&key, 0, token(), value("one")).await.unwrap();
    assert_eq!(records.compare_and_set(&key, 1, token(), None).await, Ok(2));
    assert_eq!(records.read(&key, false).await, Ok(Read { version: 2, value: None }));
    let late = records.compare_and_set(&key, 1, token(), value("late")).await;
    assert_eq!(late, Err(DatabaseError::Conflict));
    assert_eq!(records.compare_and_set(&key, 2, token(), value("again")).await, Ok(3));
}

async fn large_and_empty_values_come_back(records: &impl Records) {
    for length in [0, 1, 16 * 1024, 17 * 1024, 256 * 1024] {
        let key = new_key();
        let written = Some(Bytes::from(vec![7; length]));
        assert_eq!(records.compare_and_set(&key, 0, token(), written.clone()).await, Ok(1), "{length}");
        assert_eq!(records.read(&key, false).await.unwrap().value, written, "{length}");
    }
}

async fn lists_are_in_order_of_ids_and_without_the_deleted(records: &impl Records) {
    let name = |n: usize| format!("domain-{n:04}.example");
    const DOMAINS: usize = 300;
    for n in 0..DOMAINS {
        records.compare_and_set(&Key::domain(&name(n)), 0, token(), value("domain")).await.unwrap();
    }
    records.compare_and_set(&Key::domain(&name(7)), 1, token(), None).await.unwrap();
    let ids = |page: &[(Key, Read)]| -> Vec<String> {
        page.iter().map(|(key, _)| String::from_utf8(key.id().to_vec()).unwrap()).collect()
    };
    let all: Vec<String> = (0..DOMAINS).filter(|n| *n != 7).map(name).collect();
    assert_eq!(ids(&records.list(Kind::Domain, None, 1_000).await.unwrap()), all);
    assert_eq!(ids(&records.list(Kind::Domain, None, 10).await.unwrap()), all[..10]);
    let after = records.list(Kind::Domain, Some(name(290).as_bytes()), 5).await.unwrap();
    assert_eq!(ids(&after), (291..296).map(name).collect::<Vec<_>>());
    assert_eq!(after[0].1, Read { version: 1, value: value("domain") });
    let end = records.list(Kind::Domain, Some(b"zzz"), 5).await.unwrap();
    assert!(end.is_empty());
}

async fn of_writers_at_once_one_wins_each_version<R: Records + 'static>(records: &Arc<R>) {
    const WRITERS: usize = 8;
    const WINS: usize = 5;
    let key = new_key();
    let mut tasks = Vec::new();
    for _ in 0..WRITERS {
        let (records, key) = (records.clone(), key.clone());
        tasks.push(tokio::spawn(async move {
            let mut versions = Vec::new();
            for _ in 0..1_000 {
                if versions.len() == WINS {
                    break;
                }
                let version = records.read(&key, false).await.unwrap().version;
                match records.compare_and_set(&key, version, token(), value("x")).await {
                    Ok(version) => versions.push(version),
                    Err(DatabaseError::Conflict) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            versions
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all.sort_unstable();
    assert_eq!(all, (1..=(WRITERS * WINS) as u64).collect::<Vec<_>>());
}

async fn accounts_are_made_and_removed<R: Records>(records: &Arc<R>) {
    let accounts = Accounts::new(records.clone(), random);
    accounts.add_domain("example.org").await.unwrap();
    assert_eq!(accounts.add_domain("EXAMPLE.org").await, Err(AccountError::AlreadyExists));
    let alice = accounts.add_user("Alice@example.org", Credentials::Locked, 0, AT).await.unwrap().id;
    let twice = accounts.add_user("alice@example.org", Credentials::Locked, 0, AT).await;
    assert_eq!(twice.unwrap_err(), AccountError::AlreadyExists);
    assert_eq!(accounts.resolve("ALICE+x@example.org").await, Ok(vec![alice].into()));
    accounts.add_alias("all@example.org", &["alice@example.org".to_owned()]).await.unwrap();
    assert_eq!(accounts.resolve("all@example.org").await, Ok(vec![alice].into()));
    assert_eq!(accounts.list_users(None, 10).await.unwrap(), ["alice@example.org"]);
    // Half made: an address that leads to nobody.
    let orphan = Address::parse("half@example.org").unwrap();
    let alices = Key::address(&Address::parse("alice@example.org").unwrap());
    let mut bytes = records.read(&alices, false).await.unwrap().value.unwrap().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    records.compare_and_set(&Key::address(&orphan), 0, token(), Some(bytes.into())).await.unwrap();
    let nobody = accounts.resolve("half@example.org").await.unwrap().users[0];
    assert_eq!(accounts.profile(nobody).await, Err(AccountError::NotFound));
    let mut state = Repair::default();
    let mut deleted = 0;
    let mut passes = 0;
    while passes < 2 {
        let step = accounts.repair(&mut state).await.unwrap();
        deleted += step.deleted_addresses;
        passes += usize::from(step.finished);
    }
    assert_eq!(deleted, 1);
    assert_eq!(accounts.remove_user("alice@example.org").await, Ok(alice));
    assert_eq!(accounts.profile(alice).await, Err(AccountError::NotFound));
    assert_eq!(accounts.resolve("alice@example.org").await, Err(AccountError::NotFound));
    assert!(matches!(accounts.remove_domain("example.org").await, Err(AccountError::Invalid(_))));
    accounts.remove_alias("all@example.org").await.unwrap();
    accounts.remove_domain("example.org").await.unwrap();
    assert_eq!(accounts.list_domains(None, 10).await.unwrap(), Vec::<String>::new());
}

async fn managers_at_once_never_reserve_a_uid_twice<R: Records + 'static>(records: &Arc<R>) {
    let accounts = Arc::new(Accounts::new(records.clone(), random));
    accounts.add_domain("uids.example").await.unwrap();
    let user = accounts.add_user("u@uids.example", Credentials::Locked, 0, AT).await.unwrap().id;
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let accounts = accounts.clone();
        tasks.push(tokio::spawn(async move {
            let mut blocks = Vec::new();
            // Whoever loses the race too often is told to try again.
            for _ in 0..500 {
                match accounts.reserve_uids(user, FolderId::INBOX, &Reservation::new(10, AT)).await {
                    Ok((_, Some(block))) => blocks.push((block.first, block.last)),
                    Err(AccountError::Temporary(_)) => tokio::task::yield_now().await,
                    other => panic!("{other:?}"),
                }
                if blocks.len() == 25 {
                    break;
                }
            }
            assert_eq!(blocks.len(), 25);
            blocks
        }));
    }
    let mut firsts = BTreeSet::new();
    for task in tasks {
        for (first, last) in task.await.unwrap() {
            assert_eq!(last - first, 9);
            assert!(firsts.insert(first), "{first} twice");
        }
    }
    assert_eq!(firsts.into_iter().collect::<Vec<_>>(), (0..50).map(|n| n * 10 + 1).collect::<Vec<_>>());
}
