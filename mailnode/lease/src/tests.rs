//! One suite for all implementations.

use super::*;

fn lease(name: &str, renewals: u64) -> MemberLease {
    MemberLease {
        name: name.into(),
        incarnation: Incarnation(1),
        addresses: Addresses { rpc: "127.0.0.1:1".into(), http: "127.0.0.1:2".into() },
        zone: Some("a".into()),
        draining: false,
        duration_millis: 3_000,
        renewals,
    }
}

fn held_by(name: &str) -> CoordinatorLease {
    CoordinatorLease { holder: Some(name.into()), duration_millis: 2_000, ..CoordinatorLease::default() }
}

async fn conforms<S: LeaseService>(service: S) {
    assert_eq!(service.members().await.unwrap(), []);
    service.renew(&lease("b", 1)).await.unwrap();
    service.renew(&lease("a", 1)).await.unwrap();
    service.renew(&lease("a", 2)).await.unwrap();
    assert_eq!(service.members().await.unwrap(), [lease("a", 2), lease("b", 1)]);
    service.release("b").await.unwrap();
    service.release("b").await.unwrap();
    assert_eq!(service.members().await.unwrap(), [lease("a", 2)]);

    assert_eq!(service.coordinator().await.unwrap(), None);
    service.write_coordinator(0, held_by("a")).await.unwrap();
    assert_eq!(service.write_coordinator(0, held_by("b")).await, Err(LeaseError::Conflict));
    let known = service.coordinator().await.unwrap().unwrap();
    assert_eq!((known.holder.as_deref(), known.version), (Some("a"), 1));
    service.write_coordinator(1, held_by("b")).await.unwrap();
    assert_eq!(service.coordinator().await.unwrap().unwrap().version, 2);

    // Of many that try at once exactly one succeeds.
    let tries = (0..8).map(|n| {
        let service = service.clone();
        tokio::spawn(async move { service.write_coordinator(2, held_by(&format!("n{n}"))).await.is_ok() })
    });
    let mut winners = 0;
    for attempt in tries.collect::<Vec<_>>() {
        winners += u32::from(attempt.await.unwrap());
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn in_process_conforms() {
    conforms(InProcess::new()).await;
}

#[tokio::test]
async fn shared_directory_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conforms(SharedDirectory::new(&directory.path().join("leases")).unwrap()).await;
}

#[tokio::test]
async fn a_file_that_is_no_lease_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let service = SharedDirectory::new(directory.path()).unwrap();
    std::fs::write(directory.path().join("member-x.json"), "{").unwrap();
    service.renew(&lease("a", 1)).await.unwrap();
    assert_eq!(service.members().await.unwrap().len(), 1);
}

#[test]
fn a_lease_expires_by_the_observers_clock_and_lives_on_when_renewed() {
    let mut observer = Observer::default();
    let at = Duration::from_secs;
    assert_eq!(observer.members(&[lease("a", 1)], at(100)), [false]);
    assert_eq!(observer.members(&[lease("a", 1)], at(103)), [false]);
    assert_eq!(observer.members(&[lease("a", 1)], at(104)), [true]);
    assert_eq!(observer.members(&[lease("a", 2)], at(104)), [false]);
    let mut held = CoordinatorLease { version: 1, ..held_by("a") };
    assert!(!observer.coordinator_expired(&held, at(100)));
    assert!(observer.coordinator_expired(&held, at(103)));
    held.version = 2;
    assert!(!observer.coordinator_expired(&held, at(103)));
    held.holder = None;
    assert!(observer.coordinator_expired(&held, at(103)));
}
