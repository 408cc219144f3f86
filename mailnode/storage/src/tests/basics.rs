//! What commits answer and reads see.

use super::world::{
    Model, PEERS, blob, body, commit, entry, new_store, now, put, random_commit, stamp, value,
};
use crate::{Error, Options, Outcome, Write};
use bytes::Bytes;
use cluster::{BlobId, EntryId, Flag, UserId};
use rand::SeedableRng;
use rand::rngs::StdRng;

#[test]
fn a_store_holds_what_the_plainest_model_holds() {
    for seed in 100..110 {
        let (store, ..) = new_store();
        let mut random = StdRng::seed_from_u64(seed);
        let mut model = Model::default();
        for number in 0..60 {
            let writes = random_commit(&mut random, &model);
            model.apply(&writes);
            commit(&store, writes).unwrap();
            if number % 20 == 10 {
                store.maintain().unwrap();
            }
        }
        model.check(&store).unwrap();
        assert!(store.verify().unwrap().is_sound());
    }
}

#[test]
fn a_body_is_stored_once_and_must_match_its_name() {
    let (store, ..) = new_store();
    let bytes = body(1, 3_000);
    let outcomes = commit(&store, vec![blob(&bytes), blob(&bytes)]).unwrap();
    assert!(matches!(outcomes[..], [Outcome::Blob { stored: true }, Outcome::Blob { stored: false }]));
    let written = store.metrics().bytes_written;
    commit(&store, vec![blob(&bytes)]).unwrap();
    assert_eq!(store.metrics().bytes_written, written);
    assert_eq!(now(store.blob(BlobId::of(&bytes))).unwrap(), Some(bytes.clone()));

    let wrong = Write::Blob { id: BlobId::of(b"other"), parts: bytes };
    let entry = entry(1, 1, BlobId::of(b"other"));
    let error = commit(&store, vec![put(&entry, &[]), wrong]).unwrap_err();
    assert!(matches!(error, Error::WrongName(_)));
    assert_eq!(store.entry(entry.user, entry.id).unwrap(), None);
    assert!(!store.has_blob(BlobId::of(b"other")).unwrap());
}

#[test]
fn an_entry_is_merged_and_its_waiting_peers_are_kept_until_they_have_the_newest_version() {
    let (store, ..) = new_store();
    let mut message = entry(1, 7, BlobId::of(b"x"));
    let first = commit(&store, vec![put(&message, &PEERS[..1])]).unwrap();
    let Outcome::Entry { changed: true, digest: old, first_of_user: true, .. } = first[0] else {
        panic!("{first:?}")
    };
    let again = commit(&store, vec![put(&message, &PEERS)]).unwrap();
    assert!(matches!(again[0], Outcome::Entry { changed: false, digest, .. } if digest == old));
    assert_eq!(store.pending_peers(), [PEERS[0]]);

    message.set_flag(Flag::Seen, true, stamp(u64::MAX >> 1));
    let second = commit(&store, vec![put(&message, &PEERS[1..])]).unwrap();
    assert!(matches!(second[0], Outcome::Entry { changed: true, first_of_user: false, .. }));
    assert_eq!(store.pending_peers(), PEERS);

    let retire = |digest| Write::Retire {
        peer: PEERS[0],
        entries: vec![(message.user, message.id, digest), (UserId(9), EntryId(9), digest)],
    };
    let stale = commit(&store, vec![retire(old)]).unwrap();
    assert!(matches!(stale[0], Outcome::Retired { rows: 0 }));
    let right = commit(&store, vec![retire(message.digest())]).unwrap();
    assert!(matches!(right[0], Outcome::Retired { rows: 1 }));
    assert_eq!((store.pending_count(PEERS[0]), store.pending_count(PEERS[1])), (0, 1));
}

#[test]
fn the_last_forgotten_entry_ends_the_fragment() {
    let (store, ..) = new_store();
    let (one, two) = (entry(1, 1, BlobId::of(b"x")), entry(1, 2, BlobId::of(b"x")));
    commit(&store, vec![put(&one, &[]), put(&two, &PEERS)]).unwrap();
    let forget = |id: u128| vec![Write::Forget { user: UserId(1), entry: EntryId(id) }];
    let bucket = cluster::Bucket::of_user(UserId(1));
    let outcome = |id| commit(&store, forget(id)).unwrap().remove(0);
    assert!(matches!(outcome(2), Outcome::Forgotten { existed: true, last_of_user: false }));
    assert_eq!(store.users([bucket]).unwrap(), [UserId(1)]);
    assert!(matches!(outcome(1), Outcome::Forgotten { existed: true, last_of_user: true }));
    assert!(matches!(outcome(1), Outcome::Forgotten { existed: false, last_of_user: false }));
    assert!(store.users([bucket]).unwrap().is_empty());
    assert!(store.pending_peers().is_empty());
}

#[test]
fn users_are_found_by_their_buckets() {
    let (store, ..) = new_store();
    let users: Vec<UserId> = (1..=40).map(UserId).collect();
    for user in &users {
        commit(&store, vec![put(&entry(user.0, 1, BlobId::of(b"x")), &[])]).unwrap();
    }
    let of = |user: UserId| cluster::Bucket::of_user(user);
    let mut all = store.users(cluster::Bucket::all()).unwrap();
    all.sort();
    assert_eq!(all, users);
    let mut some: Vec<cluster::Bucket> = [7, 8, 30].into_iter().map(|user| of(UserId(user))).collect();
    some.sort();
    let mut found = store.users(some.clone()).unwrap();
    found.sort();
    assert_eq!(found, users.iter().copied().filter(|user| some.contains(&of(*user))).collect::<Vec<_>>());
}

#[test]
fn pages_continue_where_the_last_one_ended() {
    let (store, ..) = new_store();
    for id in 1..=7 {
        commit(&store, vec![put(&entry(1, id, BlobId::of(b"x")), &PEERS[..1])]).unwrap();
        commit(&store, vec![value(&format!("k{id}"), Some("v"))]).unwrap();
    }
    let page = store.pending(PEERS[0], Some((UserId(1), EntryId(2))), 3).unwrap();
    assert_eq!(page.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [3, 4, 5]);
    let page = store.entries(UserId(1), Some(EntryId(5)), 3).unwrap();
    assert_eq!(page.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [6, 7]);
    let page = store.records(b"k", Some(b"k5"), 1).unwrap();
    assert_eq!(page, [(Bytes::from("k6"), Bytes::from("v"))]);
    assert!(store.records(b"k", None, 0).unwrap().is_empty());
    assert!(store.pending(PEERS[1], None, 3).unwrap().is_empty());
}

#[test]
fn what_is_too_large_is_refused_and_nothing_of_it_kept() {
    let (store, ..) = new_store();
    let long = Write::Record { key: vec![0; 5_000], value: None };
    let error = commit(&store, vec![value("a", Some("b")), long]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "key", size: 5_000, .. }));
    assert_eq!(store.record(b"a").unwrap(), None);
    let limit = Options::default().max_blob_bytes as usize;
    let large = Bytes::from(vec![0; limit + 1]);
    let error = commit(&store, vec![Write::Blob { id: BlobId([0; 32]), parts: large }]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "body", .. }));
}

#[test]
fn a_closed_store_reads_and_does_not_write() {
    let (store, ..) = new_store();
    commit(&store, vec![value("a", Some("b"))]).unwrap();
    store.close();
    assert!(matches!(commit(&store, vec![value("a", None)]), Err(Error::Closed)));
    assert_eq!(store.record(b"a").unwrap().unwrap(), "b");
}
