//! The trait's contract against a real kube-apiserver, and what happens when it goes away. `make operator-e2e` builds
//! and names the binaries.

#[path = "../../../operator/tests/apiserver/mod.rs"]
mod apiserver;

use apiserver::ApiServer;
use cluster::{Addresses, Epoch, Incarnation, Member, MemberState, NodeId, View};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use lease::{CoordinatorLease, LeaseError, LeaseService, MemberLease};
use lease_kubernetes::KubernetesLeases;
use std::time::{Duration, Instant};

fn member(name: &str, renewals: u64) -> MemberLease {
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

/// Waits until `look` says yes, at most ten seconds.
async fn eventually<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let started = Instant::now();
    while !look().await {
        assert!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn service(server: &ApiServer, prefix: &str) -> KubernetesLeases {
    KubernetesLeases::new(server.admin().await, "default", prefix).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver and etcd: make operator-e2e"]
async fn kubernetes_leases_keep_the_contract_of_the_trait() {
    let mut server = ApiServer::start().await;
    conforms(&server).await;
    two_clusters_do_not_see_each_other(&server).await;
    the_view_is_published_up_to_five_hundred_nodes(&server).await;
    while_the_server_is_away_nothing_is_claimed(&mut server).await;
}

async fn conforms(server: &ApiServer) {
    let (one, two) = (service(server, "one").await, service(server, "one").await);
    assert_eq!(one.members().await.unwrap(), []);
    one.renew(&member("b", 1)).await.unwrap();
    one.renew(&member("a", 1)).await.unwrap();
    one.renew(&member("a", 2)).await.unwrap();
    let both = [member("a", 2), member("b", 1)];
    // Ours at once, the other's as the watch brings it.
    assert_eq!(one.members().await.unwrap(), both);
    eventually("the other sees both", || async { two.members().await.is_ok_and(|members| members == both) })
        .await;
    two.release("b").await.unwrap();
    two.release("b").await.unwrap();
    eventually("the release is seen", || async {
        one.members().await.is_ok_and(|members| members.len() == 1)
    })
    .await;

    assert_eq!(one.coordinator().await.unwrap(), None);
    one.write_coordinator(0, held_by("a")).await.unwrap();
    assert_eq!(two.write_coordinator(0, held_by("b")).await, Err(LeaseError::Conflict));
    eventually("the coordinator is seen", || async {
        two.coordinator().await.is_ok_and(|lease| lease.is_some())
    })
    .await;
    let known = two.coordinator().await.unwrap().unwrap();
    assert_eq!((known.holder.as_deref(), known.version), (Some("a"), 1));
    two.write_coordinator(1, held_by("b")).await.unwrap();
    // `one` may not have heard of it: either way it must not win.
    assert_eq!(one.write_coordinator(1, held_by("a")).await, Err(LeaseError::Conflict));
    eventually("version 2", || async {
        one.coordinator().await.is_ok_and(|lease| lease.is_some_and(|lease| lease.version == 2))
    })
    .await;

    // Of many that try at once exactly one succeeds.
    let tries: Vec<_> = (0..8)
        .map(|n| {
            let service = if n % 2 == 0 { one.clone() } else { two.clone() };
            tokio::spawn(async move { service.write_coordinator(2, held_by(&format!("n{n}"))).await.is_ok() })
        })
        .collect();
    let mut winners = 0;
    for attempt in tries {
        winners += u32::from(attempt.await.unwrap());
    }
    assert_eq!(winners, 1);
}

async fn two_clusters_do_not_see_each_other(server: &ApiServer) {
    let (one, other) = (service(server, "first").await, service(server, "second").await);
    one.renew(&member("a", 1)).await.unwrap();
    one.write_coordinator(0, held_by("a")).await.unwrap();
    other.renew(&member("z", 1)).await.unwrap();
    assert_eq!(other.members().await.unwrap(), [member("z", 1)]);
    assert_eq!(other.coordinator().await.unwrap(), None);
}

async fn the_view_is_published_up_to_five_hundred_nodes(server: &ApiServer) {
    let view = |count: u64| {
        let members = (0..count).map(|n| {
            let name = format!("a-long-name-of-a-mail-cluster-{n}");
            let host = format!("{name}.a-long-name-of-a-mail-cluster-nodes.some-namespace.svc");
            Member {
                id: NodeId::of_name(&name),
                addresses: Addresses { rpc: format!("{host}:7001"), http: format!("{host}:8001") },
                name,
                zone: Some("europe-central-1a".into()),
                state: MemberState::Active,
                incarnation: Incarnation(1_800_000_000_000),
            }
        });
        View::new(Epoch(7), members.collect())
    };
    let (one, two) = (service(server, "view").await, service(server, "view").await);
    let lease = CoordinatorLease { view: view(500), ..held_by("a") };
    one.write_coordinator(0, lease.clone()).await.unwrap();
    eventually("the view", || async {
        two.coordinator().await.is_ok_and(|known| known.is_some_and(|known| known.view == lease.view))
    })
    .await;
    // Renewals do not carry the view around; an old view goes when a new one is published.
    let renewed = two.coordinator().await.unwrap().unwrap();
    one.write_coordinator(1, renewed).await.unwrap();
    let api: Api<Lease> = Api::namespaced(server.admin().await, "default");
    let object = api.get("view.coordinator").await.unwrap();
    assert!(serde_json::to_string(&object).unwrap().len() < 3_000);
    let newer = View { epoch: Epoch(8), ..view(400) };
    one.write_coordinator(2, CoordinatorLease { view: newer.clone(), ..held_by("a") }).await.unwrap();
    eventually("the newer view", || async {
        two.coordinator().await.is_ok_and(|known| known.is_some_and(|known| known.view == newer))
    })
    .await;
    eventually("one view is left", || async {
        let all = api.list(&ListParams::default()).await.unwrap().items;
        all.iter().filter(|lease| lease.name_any().starts_with("view.view-")).count() == 1
    })
    .await;
    let error = one.write_coordinator(3, CoordinatorLease { view: view(3000), ..lease }).await.unwrap_err();
    assert!(error.to_string().contains("3000 members"), "{error}");
}

async fn while_the_server_is_away_nothing_is_claimed(server: &mut ApiServer) {
    let one = service(server, "away").await;
    one.renew(&member("a", 1)).await.unwrap();
    assert_eq!(one.members().await.unwrap().len(), 1);
    server.stop_api_server();
    eventually("members are unknown", || async {
        matches!(one.members().await, Err(LeaseError::Unavailable(_)))
    })
    .await;
    assert!(matches!(one.coordinator().await, Err(LeaseError::Unavailable(_))));
    assert!(matches!(one.renew(&member("a", 2)).await, Err(LeaseError::Unavailable(_))));
    server.start_api_server().await;
    eventually("renewed again", || async { one.renew(&member("a", 3)).await.is_ok() }).await;
    eventually("members are known again", || async {
        let _ = one.renew(&member("a", 3)).await;
        one.members().await.is_ok_and(|members| members == [member("a", 3)])
    })
    .await;
}
