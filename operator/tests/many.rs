//! Many MailClusters on a real kube-apiserver, with nothing behind it: what creating them costs the operator, and what it costs
//! an operator that starts anew to look at all of them. Their pods are never made: this is about the operator and the API
//! server. `make operator-e2e` runs it with 20; PRICKLE_CLUSTERS=100 makes the figure of docs/figures/kubernetes.md.

mod apiserver;
mod support;

use apiserver::ApiServer;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Api, ListParams};
use kube::client::ClientBuilder;
use operator::crd::MailCluster;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::story::{Story, apply, mail_cluster, within};
use tower::util::MapRequestLayer;

/// What the operator has spent so far.
#[derive(Clone, Copy)]
struct Spent {
    at: Instant,
    requests: u64,
    /// Passes and their seconds, by its own metrics.
    passes: f64,
    pass_seconds: f64,
    /// Of this process: the operator, and what the test asks meanwhile.
    cpu_seconds: f64,
}

struct Meter {
    http: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Meter {
    fn look(&self) -> Spent {
        let text = ureq::get(format!("http://{}/metrics", self.http)).call().unwrap();
        let text = text.into_body().read_to_string().unwrap();
        let sum = |name: &str| -> f64 {
            let lines = text.lines().filter(|line| line.starts_with(name));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        // Fields 14 and 15: ticks of a hundredth of a second in user and kernel mode (proc(5)).
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let ticks: f64 =
            after_name.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum();
        Spent {
            at: Instant::now(),
            requests: self.requests.load(Ordering::Relaxed),
            passes: sum("prickle_operator_reconcile_seconds_count"),
            pass_seconds: sum("prickle_operator_reconcile_seconds_sum"),
            cpu_seconds: ticks / 100.0,
        }
    }
}

/// Says it, and returns the requests per pass.
fn say(what: &str, before: Spent, after: Spent) -> f64 {
    let passes = after.passes - before.passes;
    let requests = (after.requests - before.requests) as f64;
    eprintln!(
        "{what}: {:.1} s, {passes} passes of {:.0} ms, {requests} requests, {:.1} a pass, {:.1} s of CPU",
        (after.at - before.at).as_secs_f64(),
        (after.pass_seconds - before.pass_seconds) / passes * 1000.0,
        requests / passes,
        after.cpu_seconds - before.cpu_seconds,
    );
    requests / passes
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver and etcd: make operator-e2e"]
async fn many_clusters_do_not_starve_each_other_and_cost_a_bounded_number_of_requests() {
    let count: usize =
        std::env::var("PRICKLE_CLUSTERS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let bound = Duration::from_secs(30) + Duration::from_secs(2) * u32::try_from(count).unwrap();
    let server = ApiServer::start().await;
    let story = Story::begin(&server).await;
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "many" } });
    apply(&story.admin, &namespace).await.unwrap();
    let sets: Api<StatefulSet> = Api::namespaced(story.admin.clone(), "many");
    let clusters: Api<MailCluster> = Api::namespaced(story.admin.clone(), "many");

    let (operator, meter) = start(&server, &story, "one").await;
    let before = meter.look();
    for number in 0..count {
        let mut cluster = mail_cluster(&format!("many-{number}"), json!({ "image": "prickle:1" }));
        cluster["metadata"]["namespace"] = "many".into();
        apply(&story.admin, &cluster).await.unwrap();
    }
    within(bound, "all have their StatefulSet and a status", || async {
        // Looking costs, too.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let known = clusters.list(&ListParams::default()).await.unwrap().items;
        sets.list(&ListParams::default()).await.unwrap().items.len() == count
            && known.iter().filter(|cluster| cluster.status.is_some()).count() == count
    })
    .await;
    // The changes that the operator made itself are looked at, too.
    quiet(&meter).await;
    let cost = say(&format!("{count} clusters are created"), before, meter.look());
    assert!(cost < 40.0, "{cost} requests a pass");
    let calm = meter.look();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let later = meter.look();
    eprintln!(
        "20 s of rest: {} passes, {} requests",
        later.passes - calm.passes,
        later.requests - calm.requests
    );
    // Each waits for its pods, and is looked at once a minute; leadership is renewed.
    assert!(later.passes - calm.passes <= count as f64 * 0.7 + 2.0);

    operator.abort();
    let (_operator, meter) = start(&server, &story, "two").await;
    let before = meter.look();
    within(bound, "the next operator has looked at all", || async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        meter.look().passes >= count as f64
    })
    .await;
    quiet(&meter).await;
    let cost = say(&format!("an operator starts over {count} clusters"), before, meter.look());
    assert!(cost < 40.0, "{cost} requests a pass");
}

/// An operator that leads, with a meter.
async fn start(
    server: &ApiServer,
    story: &Story,
    identity: &str,
) -> (tokio::task::JoinHandle<Result<(), String>>, Meter) {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let http = free.local_addr().unwrap();
    drop(free);
    let requests = Arc::new(AtomicU64::new(0));
    let counter = requests.clone();
    let count = move |request| {
        counter.fetch_add(1, Ordering::Relaxed);
        request
    };
    let config = server.operator_config().await;
    let client = ClientBuilder::try_from(config).unwrap().with_layer(&MapRequestLayer::new(count)).build();
    let operator = story.start_operator_at(identity, http, client);
    within(Duration::from_secs(40), "it leads", || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let answer = ureq::get(format!("http://{http}/metrics")).call();
        answer.is_ok_and(|answer| {
            answer
                .into_body()
                .read_to_string()
                .is_ok_and(|text| text.contains("\nprickle_operator_leading 1\n"))
        })
    })
    .await;
    (operator, Meter { http, requests })
}

/// No pass for three seconds.
async fn quiet(meter: &Meter) {
    let (mut known, mut since) = (meter.look().passes, Instant::now());
    within(Duration::from_secs(120), "no more passes", || {
        let now = meter.look().passes;
        if now > known {
            (known, since) = (now, Instant::now());
        }
        let calm = since.elapsed() > Duration::from_secs(3);
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            calm
        }
    })
    .await;
}
