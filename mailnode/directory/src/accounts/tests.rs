mod transfer;

use super::*;
use cluster::NodeId;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

/// Version, token, value.
type Stored = (u64, Token, Option<Bytes>);

/// A database in memory that can be made to fail at a chosen call.
#[derive(Default)]
struct MemoryRecords {
    map: Mutex<BTreeMap<Key, Stored>>,
    /// Writes from this one on fail: those who made them died.
    fail_from: Mutex<Option<usize>>,
    writes: Mutex<usize>,
}

impl Records for MemoryRecords {
    async fn read(&self, key: &Key, _stale: bool) -> Result<Read, DatabaseError> {
        let map = self.map.lock().unwrap();
        Ok(map.get(key).map_or_else(Read::default, |(version, _, value)| Read {
            version: *version,
            value: value.clone(),
        }))
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: u64,
        token: Token,
        value: Option<Bytes>,
    ) -> Result<u64, DatabaseError> {
        let mut writes = self.writes.lock().unwrap();
        if self.fail_from.lock().unwrap().is_some_and(|from| *writes >= from) {
            return Err(DatabaseError::Unavailable("died".into()));
        }
        *writes += 1;
        let mut map = self.map.lock().unwrap();
        let version = map.get(key).map_or(0, |(version, ..)| *version);
        if version != expected {
            return Err(DatabaseError::Conflict);
        }
        map.insert(key.clone(), (version + 1, token, value));
        Ok(version + 1)
    }

    async fn list(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Read)>, DatabaseError> {
        let map = self.map.lock().unwrap();
        let of_kind = map.iter().filter(|(key, (_, _, value))| key.kind() == Some(kind) && value.is_some());
        let mut found: Vec<(Key, Read)> = of_kind
            .filter(|(key, _)| after.is_none_or(|after| key.id() > after))
            .map(|(key, (version, _, value))| {
                // As the embedded database does.
                let value = if kind == Kind::Profile { Some(Bytes::new()) } else { value.clone() };
                (key.clone(), Read { version: *version, value })
            })
            .collect();
        found.sort_by(|(a, _), (b, _)| a.id().cmp(b.id()));
        found.truncate(limit);
        Ok(found)
    }
}

/// Nothing here ever waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("waits"),
    }
}

fn random() -> Token {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes()
}

const AT: Timestamp = Timestamp { ticks: 1_700_000_000_000 << 16, node: NodeId(1) };

fn accounts() -> Accounts<MemoryRecords> {
    let accounts = Accounts::new(MemoryRecords::default(), random);
    now(accounts.add_domain("example.org")).unwrap();
    accounts
}

impl Accounts<MemoryRecords> {
    fn add(&self, address: &str) -> Result<UserId, AccountError> {
        now(self.add_user(address, Credentials::Locked, 0, AT)).map(|profile| profile.id)
    }

    fn die_after(&self, writes: Option<usize>) {
        let now = *self.records.writes.lock().unwrap();
        *self.records.fail_from.lock().unwrap() = writes.map(|writes| now + writes);
    }

    fn repair_fully(&self) -> Repaired {
        let (mut state, mut sum) = (Repair::default(), Repaired::default());
        for _ in 0..3 {
            loop {
                let step = now(self.repair(&mut state)).unwrap();
                sum.deleted_addresses += step.deleted_addresses;
                sum.restored_addresses += step.restored_addresses;
                sum.deleted_profiles += step.deleted_profiles;
                if step.finished {
                    break;
                }
            }
        }
        sum
    }
}

#[test]
fn an_address_leads_to_its_user_in_every_spelling_and_with_details() {
    let accounts = accounts();
    let alice = accounts.add("Alice@example.org").unwrap();
    for spelling in ["alice@example.org", "ALICE@EXAMPLE.ORG", "alice+lists@example.org"] {
        assert_eq!(now(accounts.resolve(spelling)), Ok(vec![alice].into()), "{spelling}");
    }
    assert_eq!(now(accounts.login_name("alice@example.org")), Ok(alice));
    assert_eq!(now(accounts.login_name("alice+lists@example.org")), Err(AccountError::NotFound));
    assert_eq!(now(accounts.resolve("bob@example.org")), Err(AccountError::NotFound));
    assert_eq!(accounts.add("alice@EXAMPLE.org"), Err(AccountError::AlreadyExists));
    assert!(matches!(accounts.add("x@elsewhere.example"), Err(AccountError::Invalid(_))));
    assert!(matches!(accounts.add("a+b@example.org"), Err(AccountError::Invalid(_))));
    assert_eq!(now(accounts.is_local_domain("EXAMPLE.org")), Ok(true));
    assert_eq!(now(accounts.is_local_domain("not a domain")), Ok(false));
}

#[test]
fn postmaster_is_accepted_once_the_domain_has_an_account() {
    let accounts = accounts();
    let first = accounts.add("first@example.org").unwrap();
    accounts.add("second@example.org").unwrap();
    assert_eq!(now(accounts.resolve("Postmaster@example.org")), Ok(vec![first].into()));
    let own = accounts.add("postmaster@example.org").unwrap();
    assert_eq!(now(accounts.resolve("postmaster@example.org")), Ok(vec![own].into()));
}

#[test]
fn when_the_postmaster_is_removed_the_next_account_takes_over() {
    let accounts = accounts();
    accounts.add("first@example.org").unwrap();
    accounts.add("second@example.org").unwrap();
    now(accounts.remove_user("first@example.org")).unwrap();
    assert_eq!(now(accounts.resolve("postmaster@example.org")), Err(AccountError::NotFound));
    let third = accounts.add("third@example.org").unwrap();
    assert_eq!(now(accounts.resolve("postmaster@example.org")), Ok(vec![third].into()));
}

#[test]
fn aliases_are_expanded_once_each_and_loops_end() {
    let accounts = accounts();
    let (alice, bob) = (accounts.add("alice@example.org").unwrap(), accounts.add("bob@example.org").unwrap());
    let alias = |address: &str, targets: &[&str]| {
        let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
        now(accounts.add_alias(address, &targets))
    };
    alias("both@example.org", &["alice@example.org", "bob@example.org", "all@example.org"]).unwrap();
    alias("all@example.org", &["both@example.org", "bob@example.org", "gone@example.org"]).unwrap();
    assert_eq!(now(accounts.resolve("all@example.org")).map(|all| all.users.len()), Ok(2));
    assert_eq!(now(accounts.resolve("both+x@example.org")), Ok(vec![alice, bob].into()));
    alias("loop@example.org", &["loop@example.org"]).unwrap();
    assert_eq!(now(accounts.resolve("loop@example.org")), Err(AccountError::NotFound));
    assert_eq!(alias("alice@example.org", &["bob@example.org"]), Err(AccountError::AlreadyExists));
    assert!(matches!(alias("out@example.org", &["x@elsewhere.example"]), Err(AccountError::Invalid(_))));
    assert_eq!(now(accounts.list_aliases(None, 10)).unwrap().len(), 3);
    assert_eq!(now(accounts.list_users(Some("alice@example.org"), 10)).unwrap(), ["bob@example.org"]);
    now(accounts.remove_alias("all@example.org")).unwrap();
    assert_eq!(now(accounts.remove_alias("bob@example.org")), Err(AccountError::NotFound));
    assert!(matches!(now(accounts.remove_domain("example.org")), Err(AccountError::Invalid(_))));
}

#[test]
fn a_half_made_account_takes_no_mail_and_does_not_block_the_next_attempt() {
    for writes in 0..3 {
        let accounts = accounts();
        accounts.die_after(Some(writes));
        let made = accounts.add("alice@example.org");
        assert_eq!(made.is_ok(), writes == 2, "{writes} {made:?}");
        accounts.die_after(None);
        if let Ok(Resolved { users, .. }) = now(accounts.resolve("alice@example.org")) {
            let exists = now(accounts.profile(users[0])).is_ok();
            assert_eq!(exists, made.is_ok());
        }
        if made.is_err() {
            let alice = accounts.add("alice@example.org").unwrap();
            assert_eq!(now(accounts.profile(alice)).unwrap().id, alice);
        }
    }
}

#[test]
fn a_removed_account_is_gone_at_every_point_and_its_id_is_not_used_again() {
    for writes in 0..3 {
        let accounts = accounts();
        let first = accounts.add("alice@example.org").unwrap();
        accounts.die_after(Some(writes));
        let removed = now(accounts.remove_user("alice@example.org"));
        accounts.die_after(None);
        assert_eq!(now(accounts.profile(first)).is_err(), writes > 0);
        assert_eq!(removed.is_ok(), writes == 2);
        if writes > 0 {
            assert_ne!(accounts.add("alice@example.org").unwrap(), first);
        }
    }
}

#[test]
fn the_repair_pass_finishes_what_was_left_over_and_touches_nothing_else() {
    let accounts = accounts();
    let alice = accounts.add("alice@example.org").unwrap();
    assert_eq!(accounts.repair_fully(), Repaired::default());
    accounts.die_after(Some(1));
    accounts.add("half@example.org").unwrap_err();
    accounts.die_after(None);
    let address = Address::parse("alice@example.org").unwrap();
    now(accounts.delete(&Key::address(&address))).unwrap();
    let repaired = accounts.repair_fully();
    assert_eq!(
        (repaired.deleted_addresses, repaired.restored_addresses, repaired.deleted_profiles),
        (1, 1, 0)
    );
    assert_eq!(now(accounts.resolve("alice@example.org")), Ok(vec![alice].into()));
    assert_eq!(now(accounts.resolve("half@example.org")), Err(AccountError::NotFound));
}

#[test]
fn reservations_of_uids_never_overlap() {
    let accounts = accounts();
    let alice = accounts.add("alice@example.org").unwrap();
    let reserve = || {
        now(accounts.reserve_uids(alice, FolderId::INBOX, &Reservation::new(1_000, AT))).unwrap().1.unwrap()
    };
    assert_eq!((reserve().last, reserve().first, reserve().first), (1_000, 1_001, 2_001));
    let missing = now(accounts.reserve_uids(alice, FolderId(99), &Reservation::new(1, AT)));
    assert_eq!(missing.unwrap_err(), AccountError::Profile(ProfileError::NotFound));
    assert_eq!(now(accounts.profile(UserId(1 << 100))), Err(AccountError::NotFound));
}

#[test]
fn a_list_leads_to_itself_its_owners_to_people_and_its_members_change_one_by_one() {
    let accounts = accounts();
    let alice = accounts.add("alice@example.org").unwrap();
    let add = |owners: &[String]| {
        now(accounts.add_list("team@example.org", owners, Posting::Members, "The team".into()))
    };
    assert!(matches!(add(&[]), Err(AccountError::Invalid(_))));
    assert!(matches!(add(&["x@example.net".into()]), Err(AccountError::Invalid(_))));
    add(&["alice@example.org".into()]).unwrap();
    assert_eq!(add(&["alice@example.org".into()]), Err(AccountError::AlreadyExists));
    let list = now(accounts.resolve("Team+any@example.org")).unwrap();
    assert_eq!((list.users.len(), list.lists[0].key()), (0, "team@example.org".to_owned()));
    assert_eq!(now(accounts.resolve("team+Owner@example.org")), Ok(vec![alice].into()));

    let members: Vec<String> = ["alice@example.org", "Bob@Example.net"].map(str::to_owned).into();
    assert_eq!(now(accounts.subscribe("team@example.org", &members)).unwrap().changed, 2);
    assert_eq!(now(accounts.subscribe("team@example.org", &members)).unwrap().unchanged, 2);
    let nowhere = now(accounts.subscribe("team@example.org", &["nobody@example.org".into()]));
    assert!(matches!(nowhere, Err(AccountError::Invalid(text)) if text.contains("leads nowhere")));
    let list = now(accounts.list("team@example.org")).unwrap();
    let all: lists::Members =
        (0..lists::SHARDS).flat_map(|shard| now(accounts.members(&list, shard)).unwrap()).collect();
    let expected = [("alice@example.org".to_owned(), Some(alice)), ("bob@example.net".to_owned(), None)];
    assert_eq!(all, expected.into());
    assert_eq!(now(accounts.is_member(&list, &Address::parse("BOB@example.net").unwrap())), Ok(true));
    assert_eq!(now(accounts.unsubscribe("team@example.org", &members[1..])).unwrap().changed, 1);
    assert_eq!(now(accounts.is_member(&list, &Address::parse("bob@example.net").unwrap())), Ok(false));

    let anyone = {
        let to = lists::ListChange { posting: Some(Posting::Anyone), ..Default::default() };
        now(accounts.change_list("team@example.org", to)).unwrap()
    };
    assert_eq!((anyone.posting, anyone.id, &*anyone.description), (Posting::Anyone, list.id, "The team"));
    now(accounts.remove_list("team@example.org")).unwrap();
    assert_eq!(now(accounts.resolve("team@example.org")), Err(AccountError::NotFound));
    assert_eq!(now(accounts.members(&list, 0)), Ok(lists::Members::new()));
}
