//! Passes over a cluster, one at a time, against an API server and mail nodes that are played: what is written and what is
//! not, what an error does, and what a pass costs. The same on a real API server is in `api_server.rs`.

// Each test that includes these files uses a part of them.
#[allow(dead_code)]
#[path = "support/nodes.rs"]
mod nodes;
#[allow(dead_code)]
#[path = "support/played_api.rs"]
mod played_api;

use http::Method;
use kube::runtime::controller::Action;
use kube::runtime::events::{Recorder, Reporter};
use nodes::FakeCluster;
use operator::crd::MailCluster;
use operator::metrics::Metrics;
use operator::reconcile::{Context, FINALIZER, pause_after, reconcile};
use operator::{Error, children};
use played_api::PlayedApi;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

const CLUSTER: &str = "/apis/prickle.email/v1alpha1/namespaces/post/mailclusters/mail";
const SET: &str = "/apis/apps/v1/namespaces/post/statefulsets/mail";
const SERVICE: &str = "/api/v1/namespaces/post/services/mail-nodes";
const CONFIG: &str = "/api/v1/namespaces/post/configmaps/mail-config";
const SECRETS: &str = "/api/v1/namespaces/post/secrets";
const CERTIFICATE: &str = "/apis/cert-manager.io/v1/namespaces/post/certificates/mail-mail-tls";
const MONITOR: &str = "/apis/monitoring.coreos.com/v1/namespaces/post/servicemonitors/mail";

struct Stage {
    api: PlayedApi,
    nodes: FakeCluster,
    context: Arc<Context>,
}

impl Stage {
    /// A MailCluster that nobody has looked at yet.
    fn with(spec: Value) -> Self {
        static NETWORKS: AtomicU8 = AtomicU8::new(1);
        let api = PlayedApi::default();
        let nodes = FakeCluster::of_network(NETWORKS.fetch_add(1, Ordering::Relaxed));
        nodes.with(|inner| inner.can_drain = true);
        let mut full = json!({ "image": "prickle:1", "domains": ["example.org"] });
        children::merge(&mut full, spec);
        let metadata = json!({ "name": "mail", "namespace": "post" });
        // As the API server would answer it: with the schema's defaults.
        let object = json!({ "apiVersion": "prickle.email/v1alpha1", "kind": "MailCluster", "metadata": metadata, "spec": full });
        let cluster: MailCluster = serde_json::from_value(object).unwrap();
        api.merge(CLUSTER, json!(cluster));
        let client = api.client();
        let recorder = Recorder::new(client.clone(), Reporter { controller: "test".into(), instance: None });
        let context = Context::new(client, recorder, Metrics::new().unwrap(), "prickle-system".into());
        Self { api, nodes, context: Arc::new(context) }
    }

    /// All pods run, and nothing is left to do.
    async fn settled(spec: Value) -> Self {
        let stage = Self::with(spec);
        stage.settle().await;
        stage
    }

    async fn settle(&self) {
        for _ in 0..8 {
            self.pass().await.unwrap();
            self.api.run_pods("post", &self.nodes).await;
        }
        assert_eq!(self.condition("Progressing")["reason"], "UpToDate", "{:#}", self.status());
        self.api.take_requests();
    }

    fn cluster(&self) -> Arc<MailCluster> {
        Arc::new(serde_json::from_value(self.api.get(CLUSTER).unwrap()).unwrap())
    }

    async fn pass(&self) -> Result<Action, Error> {
        reconcile(self.cluster(), self.context.clone()).await
    }

    fn spec(&self, spec: Value) {
        self.api.merge(CLUSTER, json!({ "spec": spec }));
    }

    fn status(&self) -> Value {
        self.api.get(CLUSTER).unwrap()["status"].clone()
    }

    fn condition(&self, kind: &str) -> Value {
        let status = self.status();
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        conditions.find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
    }

    fn replicas(&self) -> i64 {
        self.api.get(SET).unwrap()["spec"]["replicas"].as_i64().unwrap()
    }

    /// Reasons of all events so far.
    fn events(&self) -> Vec<String> {
        let events = self.api.all("/namespaces/post/events/");
        events.iter().map(|(_, event)| event["reason"].as_str().unwrap().to_owned()).collect()
    }

    /// Requests since the last look that change something other than the status and events.
    fn writes(&self) -> Vec<String> {
        let requests = self.api.take_requests();
        let is_write = |request: &String| {
            !request.starts_with("GET") && !request.ends_with("/status") && !request.contains("/events")
        };
        requests.into_iter().filter(is_write).collect()
    }

    fn pause(&self, error: &Error) -> Duration {
        // An Action shows its pause only so.
        let text = format!("{:?}", pause_after(self.cluster(), error, self.context.clone()));
        let seconds = text.split_once("Some(").unwrap().1.split_once("s)").unwrap().0;
        Duration::from_secs_f64(seconds.parse().unwrap())
    }
}

fn pause_of(action: &Action) -> String {
    format!("{action:?}")
}

#[tokio::test]
async fn a_new_cluster_gets_its_finalizer_first_and_then_all_children_in_one_pass() {
    let stage = Stage::with(json!({}));
    stage.pass().await.unwrap();
    assert_eq!(stage.writes(), [format!("PATCH {CLUSTER}")]);
    assert_eq!(stage.api.get(CLUSTER).unwrap()["metadata"]["finalizers"], json!([FINALIZER]));
    stage.pass().await.unwrap();
    for path in [SET, SERVICE, CONFIG] {
        let owner = &stage.api.get(path).unwrap()["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], stage.api.get(CLUSTER).unwrap()["metadata"]["uid"], "{path}");
    }
    assert_eq!(stage.replicas(), 3);
    // It outlives the MailCluster.
    let secret = stage.api.get(&format!("{SECRETS}/mail-cluster-secret")).unwrap();
    assert!(secret["metadata"]["ownerReferences"].is_null());
    assert!(stage.events().contains(&"Created".to_owned()));
}

#[tokio::test]
async fn a_pass_over_a_settled_cluster_changes_nothing_and_costs_a_known_number_of_requests() {
    let stage = Stage::settled(json!({})).await;
    let before = stage.api.all("");
    let action = stage.pass().await.unwrap();
    assert_eq!(stage.api.all(""), before, "not even a resource version");
    assert!(pause_of(&action).contains("300s"), "{action:?}");
    let requests = stage.api.take_requests();
    let writes = requests.iter().filter(|request| !request.starts_with("GET")).count();
    // Each write is an apply that changes nothing. A change that makes passes dearer should know it.
    assert_eq!((requests.len(), writes), (22, 10), "{requests:#?}");
    assert!(!requests.iter().any(|request| request.ends_with("/status") || request.contains("/events")));
}

#[tokio::test]
async fn drift_is_undone_and_what_others_set_stays() {
    let stage = Stage::settled(json!({})).await;
    let wrong = json!({ "metadata": { "annotations": { "somebody": "else" } }, "spec": { "publishNotReadyAddresses": false } });
    stage.api.merge(SERVICE, wrong);
    stage.api.remove(CONFIG);
    stage.pass().await.unwrap();
    let service = stage.api.get(SERVICE).unwrap();
    assert_eq!(service["spec"]["publishNotReadyAddresses"], true);
    assert_eq!(service["metadata"]["annotations"]["somebody"], "else");
    assert!(stage.api.get(CONFIG).is_some());
}

#[tokio::test]
async fn a_refused_request_ends_the_pass_with_its_reason_an_event_and_nothing_disruptive() {
    let cases = [
        (Some(403), "Forbidden"),
        (Some(409), "Conflict"),
        (Some(422), "Invalid"),
        (Some(500), "ApiServer"),
        (None, "ApiServerUnreachable"),
    ];
    for (status, reason) in cases {
        let stage = Stage::settled(json!({ "nodes": 4 })).await;
        stage.nodes.with(|inner| inner.members.insert("mail-3".into(), Some(0)));
        stage.spec(json!({ "nodes": 3 }));
        stage.api.fail(Method::PATCH, "/configmaps/mail-config", status, 1);
        let error = stage.pass().await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert_eq!(stage.replicas(), 4, "{reason}");
        assert!(stage.events().contains(&reason.to_owned()), "{:?}", stage.events());
        // The next one goes on as if nothing had been.
        stage.pass().await.unwrap();
        assert_eq!(stage.replicas(), 3, "{reason}");
    }
}

#[tokio::test]
async fn failures_in_a_row_are_repeated_ever_later_up_to_five_minutes_and_success_forgets_them() {
    let stage = Stage::settled(json!({})).await;
    let mut pauses = Vec::new();
    for _ in 0..11 {
        stage.api.fail(Method::GET, "/statefulsets/mail", Some(500), 1);
        let error = stage.pass().await.unwrap_err();
        pauses.push(stage.pause(&error).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    stage.pass().await.unwrap();
    stage.api.fail(Method::GET, "/statefulsets/mail", Some(500), 1);
    let error = stage.pass().await.unwrap_err();
    assert_eq!(stage.pause(&error).as_secs(), 1);
}

#[tokio::test]
async fn an_event_that_cannot_be_published_fails_no_pass() {
    let stage = Stage::with(json!({}));
    stage.api.fail(Method::POST, "/events", Some(403), 100);
    stage.pass().await.unwrap();
    stage.pass().await.unwrap();
    assert_eq!(stage.replicas(), 3);
}

#[tokio::test]
async fn a_node_goes_only_after_its_drain_and_not_while_copies_are_missing() {
    let stage = Stage::settled(json!({ "nodes": 4 })).await;
    stage.spec(json!({ "nodes": 3 }));
    stage.nodes.with(|inner| inner.under_replicated = 7);
    stage.pass().await.unwrap();
    assert_eq!(stage.condition("Progressing")["reason"], "UnderReplicated");
    assert_eq!(stage.nodes.with(|inner| inner.members["mail-3"]), None, "not even asked to drain");
    stage.nodes.with(|inner| inner.under_replicated = 0);
    stage.pass().await.unwrap();
    assert_eq!(stage.nodes.with(|inner| inner.members["mail-3"]), Some(5), "asked to drain");
    assert_eq!(stage.status()["draining"], "mail-3");
    for _ in 0..3 {
        stage.pass().await.unwrap();
        assert_eq!(
            (stage.replicas(), stage.condition("ScalingDown")["reason"].clone()),
            (4, "MailMoves".into())
        );
    }
    stage.nodes.with(|inner| inner.members.insert("mail-3".into(), Some(0)));
    stage.api.take_requests();
    stage.pass().await.unwrap();
    assert_eq!(stage.replicas(), 3);
    // Its disk is marked before it goes: nobody would know afterwards.
    let writes = stage.writes();
    let at = |part: &str, from: usize| {
        writes.iter().skip(from).position(|write| write.contains(part)).map(|index| index + from)
    };
    let marked = at("persistentvolumeclaims/data-mail-3", 0).unwrap();
    assert!(at("statefulsets/mail", marked).is_some(), "{writes:#?}");
    stage.api.run_pods("post", &stage.nodes).await;
    stage.settle().await;
}

#[tokio::test]
async fn each_decision_is_an_event_with_its_own_words() {
    let stage = Stage::settled(json!({ "nodes": 5 })).await;
    stage.spec(json!({ "nodes": 3 }));
    for node in ["mail-4", "mail-3"] {
        stage.pass().await.unwrap();
        stage.nodes.with(|inner| inner.members.insert(node.into(), Some(0)));
        stage.pass().await.unwrap();
        stage.api.run_pods("post", &stage.nodes).await;
    }
    assert_eq!(stage.replicas(), 3);
    let notes: Vec<String> = stage
        .api
        .all("/namespaces/post/events/")
        .iter()
        .map(|(_, event)| event["note"].to_string())
        .collect();
    for note in ["mail-4 was asked", "mail-3 was asked", "from 5 to 4 nodes", "from 4 to 3 nodes"] {
        assert!(notes.iter().any(|known| known.contains(note)), "{note}: {notes:#?}");
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_marked_keeps_its_node() {
    let stage = Stage::settled(json!({ "nodes": 4 })).await;
    stage.nodes.with(|inner| inner.members.insert("mail-3".into(), Some(0)));
    stage.spec(json!({ "nodes": 3 }));
    stage.api.fail(Method::PATCH, "/persistentvolumeclaims/data-mail-3", Some(500), 1);
    stage.pass().await.unwrap_err();
    assert_eq!(stage.replicas(), 4);
}

#[tokio::test]
async fn no_pod_is_restarted_while_no_node_answers() {
    let stage = Stage::settled(json!({})).await;
    stage.spec(json!({ "image": "prickle:2" }));
    // Their addresses are somebody else's.
    for (path, _) in stage.api.all("/namespaces/post/pods/") {
        stage.api.merge(&path, json!({ "status": { "podIP": "127.0.0.1" } }));
    }
    stage.pass().await.unwrap();
    stage.api.run_pods("post", &stage.nodes).await;
    stage.api.take_requests();
    for _ in 0..3 {
        stage.pass().await.unwrap();
    }
    assert_eq!(stage.condition("Progressing")["reason"], "NoNodeAnswers");
    assert!(!stage.writes().iter().any(|write| write.starts_with("DELETE")));
}

#[tokio::test]
async fn paused_means_that_only_the_status_is_written() {
    let stage = Stage::settled(json!({})).await;
    stage.spec(json!({ "paused": true, "nodes": 5, "image": "prickle:2" }));
    stage.api.remove(CONFIG);
    stage.api.take_requests();
    for _ in 0..3 {
        stage.pass().await.unwrap();
    }
    assert_eq!(stage.writes(), Vec::<String>::new());
    assert_eq!(stage.condition("Progressing")["reason"], "Paused");
    stage.spec(json!({ "paused": false, "nodes": 3, "image": "prickle:1" }));
    stage.settle().await;
    assert!(stage.api.get(CONFIG).is_some());
}

#[tokio::test]
async fn kinds_that_do_not_exist_are_said_and_hold_up_nothing() {
    let stage = Stage::settled(json!({ "monitoring": { "serviceMonitor": true } })).await;
    assert!(stage.events().contains(&"KindMissing".to_owned()));
    assert!(stage.api.get(MONITOR).is_none());
    // Nobody tells us when it is installed.
    assert!(pause_of(&stage.pass().await.unwrap()).contains("60s"));

    let stage = Stage::with(json!({ "monitoring": { "serviceMonitor": true } }));
    stage.api.serve_kind("monitoring.coreos.com/v1", "servicemonitors");
    stage.settle().await;
    assert!(stage.api.get(MONITOR).is_some());
    stage.spec(json!({ "monitoring": { "serviceMonitor": false } }));
    stage.pass().await.unwrap();
    assert!(stage.api.get(MONITOR).is_none());
    assert!(stage.events().contains(&"Removed".to_owned()));
}

#[tokio::test]
async fn what_has_the_name_of_a_child_but_another_owner_is_not_removed() {
    let stage = Stage::settled(json!({})).await;
    let path = "/apis/autoscaling/v2/namespaces/post/horizontalpodautoscalers/mail";
    stage.api.merge(
        path,
        json!({ "metadata": { "name": "mail", "namespace": "post" }, "spec": { "minReplicas": 1 } }),
    );
    stage.pass().await.unwrap();
    assert!(stage.api.get(path).is_some());
}

#[tokio::test]
async fn a_damaged_secret_stops_the_pass_with_what_to_do_and_is_never_replaced() {
    let stage = Stage::settled(json!({})).await;
    let path = format!("{SECRETS}/mail-cluster-secret");
    stage.api.merge(&path, json!({ "data": { "secret": "c2hvcnQ=" } }));
    let damaged = stage.api.get(&path);
    let action = stage.pass().await.unwrap();
    let said = stage.status()["waitingFor"].to_string();
    assert!(said.contains("restore it from its backup"), "{said}");
    assert_eq!(stage.condition("Ready")["reason"], "Blocked");
    assert!(pause_of(&action).contains("15s"), "{action:?}");
    assert_eq!(stage.api.get(&path), damaged);
}

#[tokio::test]
async fn a_new_version_of_the_cluster_secret_restarts_nobody_and_the_first_one_may_go() {
    let stage = Stage::settled(json!({})).await;
    let path = format!("{SECRETS}/mail-cluster-secret");
    let template =
        || stage.api.all("/statefulsets/").into_iter().map(|(_, set)| set["spec"]["template"].clone());
    let before: Vec<_> = template().collect();
    let long = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    for data in [json!({ "secret-2": long }), json!({ "secret": null })] {
        stage.api.merge(&path, json!({ "data": data }));
        stage.pass().await.unwrap();
        assert_eq!(stage.condition("Ready")["status"], "True");
        assert_eq!(template().collect::<Vec<_>>(), before);
    }
}

#[tokio::test]
async fn a_deleted_cluster_goes_without_asking_its_nodes_and_keeps_its_secret() {
    let stage = Stage::settled(json!({})).await;
    // Nobody of them is there any more.
    for part in ["/pods/", "/statefulsets/"] {
        for (path, _) in stage.api.all(part) {
            stage.api.remove(&path);
        }
    }
    stage.api.merge(CLUSTER, json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }));
    stage.pass().await.unwrap();
    assert!(stage.api.get(CLUSTER).is_none());
    assert!(stage.api.get(&format!("{SECRETS}/mail-cluster-secret")).is_some());
}

#[tokio::test]
async fn a_secret_that_cannot_be_removed_keeps_the_finalizer_until_it_can() {
    let stage = Stage::settled(json!({ "storage": { "retention": { "whenDeleted": "Delete" } } })).await;
    stage.api.merge(CLUSTER, json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }));
    stage.api.fail(Method::DELETE, "/secrets/mail-cluster-secret", Some(500), 1);
    stage.pass().await.unwrap_err();
    assert_eq!(stage.api.get(CLUSTER).unwrap()["metadata"]["finalizers"], json!([FINALIZER]));
    stage.pass().await.unwrap();
    assert!(stage.api.get(CLUSTER).is_none());
    assert!(stage.api.get(&format!("{SECRETS}/mail-cluster-secret")).is_none());
}

#[tokio::test]
async fn a_log_that_was_put_aside_is_one_event_and_a_condition() {
    let stage = Stage::settled(json!({})).await;
    let told = |stage: &Stage| stage.events().iter().filter(|reason| *reason == "LogQuarantined").count();
    assert_eq!((told(&stage), stage.condition("Quarantined")["status"].clone()), (0, "False".into()));
    let aside = (1_700_000_000, "the log was rolled back or cut".to_owned());
    stage.nodes.with(|inner| inner.quarantined.insert("mail-1".into(), aside));
    for _ in 0..3 {
        stage.pass().await.unwrap();
    }
    assert_eq!((told(&stage), stage.condition("Quarantined")["status"].clone()), (1, "True".into()));
    let events = stage.api.all("/namespaces/post/events/");
    let (_, event) = events.iter().find(|(_, event)| event["reason"] == "LogQuarantined").unwrap();
    assert_eq!(event["type"], "Warning");
    assert!(event["note"].as_str().unwrap().contains("mail-1"), "{event}");
    // The same node again, later.
    stage.nodes.with(|inner| inner.quarantined.insert("mail-1".into(), (1_700_000_900, "altered".into())));
    stage.pass().await.unwrap();
    assert_eq!(told(&stage), 2);
    let seen = json!({ "prickle.email/quarantine-seen": "1700000900" });
    stage.api.merge(CLUSTER, json!({ "metadata": { "annotations": seen } }));
    stage.pass().await.unwrap();
    assert_eq!((told(&stage), stage.condition("Quarantined")["status"].clone()), (2, "False".into()));
}

/// A Secret of a person's, with values as `kubectl create secret` makes them.
fn secret(stage: &Stage, name: &str, key: &str, value: &str) {
    let data = json!({ key: k8s_openapi::ByteString(value.as_bytes().to_vec()) });
    let metadata = json!({ "name": name, "namespace": "post" });
    let object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data });
    stage.api.merge(&format!("{SECRETS}/{name}"), object);
}

#[tokio::test]
async fn nothing_is_done_until_the_keys_of_outbound_mail_are_there_and_a_new_one_restarts_the_nodes() {
    let stage = Stage::settled(json!({})).await;
    let dkim = json!([{ "domain": "example.org", "selector": "s1", "secretName": "dkim" }]);
    stage.spec(json!({ "outbound": { "dkim": dkim } }));
    let before = stage.api.get(CONFIG).unwrap();
    for (value, said) in [(None, "Secret dkim"), (Some("no key"), "a private key")] {
        if let Some(value) = value {
            secret(&stage, "dkim", "dkim.pem", value);
        }
        stage.pass().await.unwrap();
        let message = stage.status()["waitingFor"].as_str().unwrap().to_owned();
        assert!(message.contains(said) && message.contains("dkim.pem"), "{message}");
        assert_eq!(stage.condition("Progressing")["reason"], "Blocked");
        assert_eq!(stage.api.get(CONFIG).unwrap(), before, "no pod starts without its key");
    }
    let hash = |stage: &Stage| {
        let template = stage.api.get(SET).unwrap()["spec"]["template"].clone();
        template["metadata"]["annotations"]["prickle.email/certificates-hash"].clone()
    };
    let key = |body: &str| format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
    secret(&stage, "dkim", "dkim.pem", &key("AAAA"));
    stage.settle().await;
    let first = hash(&stage);
    let text = stage.api.get(CONFIG).unwrap().to_string();
    assert!(
        text.contains("/etc/prickle/outbound/dkim-example.org.pem") && !text.contains("PRIVATE"),
        "{text}"
    );
    secret(&stage, "dkim", "dkim.pem", &key("BBBB"));
    stage.pass().await.unwrap();
    assert_ne!(hash(&stage), first);
    stage.settle().await;
}

#[tokio::test]
async fn a_certificate_is_asked_for_before_its_secret_is_there_and_the_nodes_wait_for_that() {
    let tls = json!({ "selfSigned": null, "certManager": { "issuerRef": { "name": "office" } } });
    let stage = Stage::with(json!({ "tls": tls }));
    stage.api.serve_kind("cert-manager.io/v1", "certificates");
    for _ in 0..2 {
        stage.pass().await.unwrap();
    }
    let asked = stage.api.get(CERTIFICATE).unwrap();
    let message = stage.status()["waitingFor"].as_str().unwrap().to_owned();
    assert!(message.contains("mail-mail-tls") && message.contains("cert-manager"), "{message}");
    assert!(stage.api.get(SET).is_none(), "no pod starts without its certificate");

    // As cert-manager makes it.
    let name = asked["spec"]["secretName"].as_str().unwrap();
    secret(&stage, name, "tls.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    secret(&stage, name, "tls.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    stage.settle().await;
    assert!(stage.api.get(SET).is_some());
}
