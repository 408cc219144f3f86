//! TiKV and PD stop, freeze, are killed, are slow, lose answers, split regions: no error takes longer than its
//! time, nothing acknowledged is lost, nothing happens twice.

mod support;

use bytes::Bytes;
use cluster::mailbox::Reservation;
use directory::accounts::Repair;
use directory::{AccountError, Accounts, Credentials, DatabaseError, Key, Kind, Read, Records};
use directory_tikv::{Position, Tikv};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::server::Server;
use support::suite::AT;
use support::{new_key, token};

const SECOND: Duration = Duration::from_secs(1);
/// The timeout of the default configuration, with room for a machine that is busy.
const IN_TIME: Duration = Duration::from_secs(8);

fn value(text: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

fn is_temporary<T: std::fmt::Debug>(outcome: &Result<T, DatabaseError>) -> bool {
    matches!(outcome, Err(DatabaseError::Unavailable(_)))
}

async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let outcome = future.await;
    assert!(begun.elapsed() < limit, "{what}: {:?}", begun.elapsed());
    outcome
}

/// Repeats until it works.
async fn recovers(tikv: &Tikv, key: &Key) -> Read {
    let begun = Instant::now();
    loop {
        match within(IN_TIME, "recovery", tikv.read(key, false)).await {
            Ok(read) => return read,
            Err(error) => assert!(begun.elapsed() < 20 * SECOND, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Every operation while something is away, and after it came back.
async fn away_and_back(away: &str, back: &str) {
    let mut server = Server::start();
    let tikv = server.client();
    let key = new_key();
    tikv.compare_and_set(&key, 0, token(), value("one")).await.unwrap();
    server.tell(away);
    let mine = token();
    let written = within(IN_TIME, "write", tikv.compare_and_set(&key, 1, mine, value("two"))).await;
    assert!(is_temporary(&written), "{written:?}");
    let read = within(IN_TIME, "read", tikv.read(&key, false)).await;
    assert!(is_temporary(&read), "{read:?}");
    // By now everybody knows.
    while tikv.status().reachable {
        let _ = within(IN_TIME, "read", tikv.read(&key, false)).await;
    }
    let stale = within(2 * SECOND, "stale read", tikv.read(&key, true)).await;
    assert_eq!(stale, Ok(Read { version: 1, value: value("one") }));
    let unknown = within(IN_TIME, "stale read of what was never read", tikv.read(&new_key(), true)).await;
    assert!(is_temporary(&unknown), "an absence that is not sure: {unknown:?}");
    let mut quick = 0;
    for _ in 0..20 {
        let begun = Instant::now();
        assert!(is_temporary(&tikv.list(Kind::Domain, None, 10).await));
        quick += usize::from(begun.elapsed() < Duration::from_millis(50));
        if quick > 5 {
            break;
        }
    }
    assert!(quick > 5, "the breaker is open: {quick}");
    server.tell(back);
    let read = recovers(&tikv, &key).await;
    // The write of which it was not known: either way, and the same token tells.
    let again = tikv.compare_and_set(&key, 1, mine, value("two")).await;
    assert_eq!(again, Ok(2), "after {read:?}");
    assert_eq!(tikv.read(&key, false).await.unwrap().value, value("two"));
    assert!(tikv.status().reachable);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn pd_stopped_and_started() {
    away_and_back("stop pd", "start pd").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn tikv_stopped_and_started() {
    away_and_back("stop kv", "start kv").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn pd_frozen_and_thawed() {
    away_and_back("freeze pd", "thaw pd").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn tikv_frozen_and_thawed() {
    away_and_back("freeze kv", "thaw kv").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn a_node_that_starts_before_tikv_works_when_it_is_there() {
    let mut server = Server::start();
    server.kill();
    let tikv = server.client();
    let key = new_key();
    assert!(is_temporary(&within(IN_TIME, "read", tikv.read(&key, false)).await));
    assert!(!tikv.status().reachable);
    server.start_again();
    assert_eq!(recovers(&tikv, &key).await, Read::default());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn an_answer_lost_after_execution_is_found_by_its_token() {
    let mut server = Server::start();
    let tikv = server.client();
    for method in ["KvCommit", "KvPrewrite", "KvGet"] {
        let key = new_key();
        tikv.compare_and_set(&key, 0, token(), value("one")).await.unwrap();
        server.tell(&format!("drop {method} 1"));
        let written = within(IN_TIME, method, tikv.compare_and_set(&key, 1, token(), value("two"))).await;
        assert_eq!(written, Ok(2), "{method}");
        assert_eq!(tikv.read(&key, false).await, Ok(Read { version: 2, value: value("two") }), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn a_slow_database_is_waited_for() {
    let mut server = Server::start();
    let tikv = server.client();
    let key = new_key();
    tikv.compare_and_set(&key, 0, token(), value("one")).await.unwrap();
    for method in ["KvGet", "KvPrewrite", "KvCommit"] {
        server.tell(&format!("delay {method} 2 700"));
    }
    let written = within(IN_TIME, "slow", tikv.compare_and_set(&key, 1, token(), value("two"))).await;
    assert_eq!(written, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn the_lock_of_a_writer_that_died_is_in_the_way_for_seconds_only() {
    let mut server = Server::start();
    let (dead, alive) = (server.client(), server.client());
    let key = new_key();
    dead.compare_and_set(&key, 0, token(), value("one")).await.unwrap();
    server.tell("fail KvCommit 100000");
    let lost = within(IN_TIME, "lost", dead.compare_and_set(&key, 1, token(), value("lost"))).await;
    assert!(is_temporary(&lost), "{lost:?}");
    server.tell("clear");
    let read = within(IN_TIME, "behind the lock", alive.read(&key, false)).await.unwrap();
    assert_eq!(read, Read { version: 1, value: value("one") });
    assert_eq!(alive.compare_and_set(&key, 1, token(), value("two")).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn regions_split_under_the_records() {
    let mut server = Server::start();
    let tikv = server.client();
    let name = |n: usize| format!("d{n:04}.example");
    for n in 0..400 {
        tikv.compare_and_set(&Key::domain(&name(n)), 0, token(), value("x")).await.unwrap();
        if n % 100 == 50 {
            let key: String =
                format!("prickle/\0d{}", name(n)).bytes().map(|byte| format!("{byte:02x}")).collect();
            server.tell(&format!("split {key}"));
        }
    }
    let listed = tikv.list(Kind::Domain, None, 1_000).await.unwrap();
    assert_eq!(listed.len(), 400);
    assert!(listed.is_sorted_by(|(a, _), (b, _)| a.id() < b.id()));
    for n in 0..400 {
        assert_eq!(tikv.read(&Key::domain(&name(n)), false).await.unwrap().version, 1, "{n}");
    }
}

/// What the load was told, for the comparison with what is there.
#[derive(Default)]
struct Told {
    appended: BTreeMap<usize, BTreeSet<[u8; 16]>>,
    blocks: Vec<(u32, u32)>,
    accounts: Vec<String>,
    errors: usize,
}

const LISTS: usize = 3;

fn list_key(n: usize) -> Key {
    Key::domain(&format!("list-{n}.invalid"))
}

/// Appends to lists that others append to, reserves UIDs that others reserve, makes accounts.
async fn load(worker: usize, tikv: Arc<Tikv>, user: cluster::UserId, stop: Arc<AtomicBool>) -> Told {
    let accounts = Accounts::new(tikv.clone(), rand::random);
    let mut told = Told::default();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let list = round % LISTS;
        let (key, mine) = (list_key(list), token());
        let appended = within(2 * IN_TIME, "append", async {
            let read = tikv.read(&key, false).await?;
            let bytes = [&read.value.unwrap_or_default()[..], &mine[..]].concat();
            tikv.compare_and_set(&key, read.version, mine, Some(bytes.into())).await
        });
        match appended.await {
            Ok(_) => {
                told.appended.entry(list).or_default().insert(mine);
            }
            Err(DatabaseError::Conflict) => {}
            Err(DatabaseError::Unavailable(_)) => told.errors += 1,
        }
        match accounts.reserve_uids(user, cluster::FolderId::INBOX, &Reservation::new(10, AT)).await {
            Ok((_, Some(block))) => told.blocks.push((block.first, block.last)),
            Err(AccountError::Temporary(_)) => told.errors += 1,
            other => panic!("{other:?}"),
        }
        let name = format!("u{worker}-{round}@example.org");
        match accounts.add_user(&name, Credentials::Locked, 0, AT).await {
            Ok(_) => told.accounts.push(name),
            Err(AccountError::Temporary(_)) => told.errors += 1,
            Err(error) => panic!("{name}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn pd_and_tikv_killed_for_four_seconds_under_load_lose_and_double_nothing() {
    let mut server = Server::start();
    let nodes = [Arc::new(server.client()), Arc::new(server.client())];
    let accounts = Accounts::new(nodes[0].clone(), rand::random);
    accounts.add_domain("example.org").await.unwrap();
    let user = accounts.add_user("shared@example.org", Credentials::Locked, 0, AT).await.unwrap().id;
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..6)
        .map(|worker| tokio::spawn(load(worker, nodes[worker % nodes.len()].clone(), user, stop.clone())))
        .collect();
    for _ in 0..2 {
        tokio::time::sleep(2 * SECOND).await;
        server.kill();
        tokio::time::sleep(4 * SECOND).await;
        server.start_again();
        tokio::time::sleep(4 * SECOND).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = Told::default();
    for worker in workers {
        let told = worker.await.unwrap();
        all.blocks.extend(told.blocks);
        all.accounts.extend(told.accounts);
        all.errors += told.errors;
        for (list, mut tokens) in told.appended {
            all.appended.entry(list).or_default().append(&mut tokens);
        }
    }
    let tikv = &nodes[0];
    recovers(tikv, &list_key(0)).await;
    let appended: usize = all.appended.values().map(BTreeSet::len).sum();
    let status: Vec<_> = nodes.iter().map(|node| node.status()).collect();
    println!(
        "acknowledged: {appended} appends, {} blocks, {} accounts; {} errors; {status:?}",
        all.blocks.len(),
        all.accounts.len(),
        all.errors
    );
    assert!(appended > 20 && all.blocks.len() > 20 && all.accounts.len() > 20 && all.errors > 0);

    for (list, tokens) in &all.appended {
        let bytes = tikv.read(&list_key(*list), false).await.unwrap().value.unwrap();
        let there: Vec<[u8; 16]> = bytes.chunks(16).map(|chunk| chunk.try_into().unwrap()).collect();
        let distinct: BTreeSet<_> = there.iter().copied().collect();
        assert_eq!(there.len(), distinct.len(), "something was written twice");
        assert!(
            tokens.is_subset(&distinct),
            "{} acknowledged appends are lost",
            tokens.difference(&distinct).count()
        );
    }
    all.blocks.sort_unstable();
    assert!(all.blocks.is_sorted_by(|a, b| a.1 < b.0), "a UID was given to two");
    let last = all.blocks.last().unwrap().1;
    let next = accounts
        .reserve_uids(user, cluster::FolderId::INBOX, &Reservation::new(1, AT))
        .await
        .unwrap()
        .1
        .unwrap();
    assert!(next.first > last);

    for name in &all.accounts {
        let user = accounts.resolve(name).await.unwrap().users[0];
        assert_eq!(accounts.profile(user).await.unwrap().id, user, "{name}");
    }
    // The lists are no domains; the repair pass does not look at domains.
    let (mut state, mut passes) = (Repair::default(), 0);
    while passes < 3 {
        passes += usize::from(accounts.repair(&mut state).await.unwrap().finished);
    }
    let mut after: Option<String> = None;
    loop {
        let page = accounts.list_users(after.as_deref(), 500).await.unwrap();
        for address in &page {
            let user = accounts.resolve(address).await.unwrap().users[0];
            assert!(accounts.profile(user).await.is_ok(), "{address} is half made");
        }
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn maintenance_clears_locks_moves_the_safe_point_and_removes_old_tombstones() {
    let mut server = Server::start();
    let tikv = server.client();
    let (gone, kept) = (new_key(), new_key());
    for key in [&gone, &kept] {
        tikv.compare_and_set(key, 0, token(), value("one")).await.unwrap();
    }
    tikv.compare_and_set(&gone, 1, token(), None).await.unwrap();
    let done = tikv.maintain(&mut Position::default()).await.unwrap();
    assert_eq!((done.tombstones, done.safe_point_moved), (0, true), "young tombstones stay");
    let before: u64 = server.tell("safepoint").parse().unwrap();
    assert!(before > 0);
    assert_eq!(tikv.read(&gone, false).await, Ok(Read { version: 2, value: None }));

    let locked = new_key();
    server.tell("fail KvCommit 100000");
    assert!(is_temporary(&server.client().compare_and_set(&locked, 0, token(), value("x")).await));
    server.tell("clear");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let done = tikv.maintain_with(&mut Position::default(), Duration::ZERO, Duration::ZERO).await.unwrap();
    assert_eq!((done.tombstones, done.safe_point_moved), (1, true));
    assert!(server.tell("safepoint").parse::<u64>().unwrap() > before);
    assert_eq!(tikv.read(&gone, false).await, Ok(Read::default()));
    assert_eq!(tikv.read(&kept, false).await, Ok(Read { version: 1, value: value("one") }));
    let read = within(SECOND, "no lock is left", tikv.read(&locked, false)).await;
    assert_eq!(read, Ok(Read::default()));
}
