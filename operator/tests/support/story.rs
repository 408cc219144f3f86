//! The stage of the tests: a server with CRD and rights as the manifests have them, played nodes, and ways to look.

use super::kubelet;
use super::nodes::FakeCluster;
use crate::apiserver::{ApiServer, OPERATOR_NAMESPACE};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope, pinned_kind};
use kube::{Client, ResourceExt};
use operator::controller::{self, Settings};
use operator::crd::{ConditionStatus, MailCluster};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

pub const NAMESPACE: &str = "post";

pub struct Story {
    pub admin: Client,
    pub as_operator: Client,
    pub clusters: Api<MailCluster>,
    pub sets: Api<StatefulSet>,
    pub pods: Api<Pod>,
    pub nodes: FakeCluster,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn documents(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join(path)).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

/// Waits until `look` says yes, at most 40 seconds, and says how long it took.
pub async fn eventually<F: Future<Output = bool>>(what: &str, look: impl FnMut() -> F) {
    within(Duration::from_secs(40), what, look).await;
}

/// The same with another bound.
pub async fn within<F: Future<Output = bool>>(bound: Duration, what: &str, mut look: impl FnMut() -> F) {
    let started = Instant::now();
    while !look().await {
        assert!(started.elapsed() < bound, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("{:>6} ms  {what}", started.elapsed().as_millis());
}

/// `look` stays true for two seconds.
pub async fn stays<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        assert!(look().await, "changed: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn apply(client: &Client, object: &Value) -> Result<(), kube::Error> {
    apply_with(client, object, PatchParams::apply("test").force()).await
}

pub async fn apply_with(client: &Client, object: &Value, parameters: PatchParams) -> Result<(), kube::Error> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, version) = match object["apiVersion"].as_str().unwrap().split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", object["apiVersion"].as_str().unwrap()),
    };
    let kind = GroupVersionKind::gvk(group, version, &text(&object["kind"]));
    let (resource, capabilities): (ApiResource, _) = pinned_kind(client, &kind).await?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE);
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    api.patch(&text(&object["metadata"]["name"]), &parameters, &Patch::Apply(object)).await.map(drop)
}

pub fn mail_cluster(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "prickle.email/v1alpha1",
        "kind": "MailCluster",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": spec,
    })
}

impl Story {
    pub async fn begin(server: &ApiServer) -> Self {
        let admin = server.admin().await;
        for namespace in [NAMESPACE, OPERATOR_NAMESPACE] {
            let namespace =
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
            apply(&admin, &namespace).await.unwrap();
        }
        for file in
            ["manifests/crd.yaml", "manifests/operator/rbac.yaml", "manifests/operator/deployment.yaml"]
        {
            for document in documents(file) {
                apply(&admin, &document).await.unwrap();
            }
        }
        let as_operator = server.operator().await;
        let nodes = FakeCluster::default();
        nodes.with(|inner| inner.can_drain = true);
        kubelet::play(admin.clone(), NAMESPACE, nodes.clone());
        let api = Self {
            clusters: Api::namespaced(admin.clone(), NAMESPACE),
            sets: Api::namespaced(admin.clone(), NAMESPACE),
            pods: Api::namespaced(admin.clone(), NAMESPACE),
            admin,
            as_operator,
            nodes,
        };
        eventually("the CRD is served", || async { api.clusters.list(&ListParams::default()).await.is_ok() })
            .await;
        api
    }

    pub async fn start_operator(&self, identity: &str) -> JoinHandle<Result<(), String>> {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        self.start_operator_at(identity, http, self.as_operator.clone())
    }

    pub fn start_operator_at(
        &self,
        identity: &str,
        http: SocketAddr,
        client: Client,
    ) -> JoinHandle<Result<(), String>> {
        let settings = Settings {
            namespaces: Vec::new(),
            own_namespace: OPERATOR_NAMESPACE.into(),
            identity: identity.into(),
            http,
        };
        tokio::spawn(controller::run(client, settings, std::future::pending()))
    }

    pub async fn cluster(&self) -> MailCluster {
        self.clusters.get("mail").await.unwrap()
    }

    pub async fn patch(&self, spec: Value) {
        let patch = json!({ "spec": spec });
        self.clusters.patch("mail", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// Status and reason of a condition of the newest generation.
    pub async fn condition(&self, kind: &str) -> Option<(ConditionStatus, String)> {
        let cluster = self.cluster().await;
        let generation = cluster.metadata.generation.unwrap();
        let conditions = cluster.status?.conditions;
        let condition = conditions.into_iter().find(|condition| condition.kind == kind)?;
        (condition.observed_generation == generation).then_some((condition.status, condition.reason))
    }

    pub async fn is(&self, kind: &str, status: ConditionStatus, reason: &str) -> bool {
        self.condition(kind).await == Some((status, reason.to_owned()))
    }

    pub async fn settled(&self) {
        eventually("settled", || async {
            self.is("Ready", ConditionStatus::True, "AllNodesReady").await
                && self.is("Progressing", ConditionStatus::False, "UpToDate").await
        })
        .await;
    }

    pub async fn replicas(&self) -> i32 {
        self.sets.get("mail").await.unwrap().spec.replicas.unwrap()
    }

    pub async fn uids(&self) -> BTreeSet<String> {
        let parameters = ListParams::default().labels("app.kubernetes.io/instance=mail");
        self.pods.list(&parameters).await.unwrap().items.iter().filter_map(ResourceExt::uid).collect()
    }
}
