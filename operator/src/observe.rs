//! Looks at what there is: the StatefulSet, its pods, and what the nodes say.

use crate::children::{Kind, STATEFUL_SET, config, names};
use crate::crd::MailCluster;
use crate::error::Error;
use crate::gate::{Pod, Report, Situation};
use crate::kubernetes::Namespace;
use crate::node_api::NodeApi;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{DynamicObject, ListParams};
use serde::de::DeserializeOwned;
use std::net::IpAddr;

pub const POD: Kind = Kind::new("", "v1", "Pod", "pods");
pub const VOLUME_CLAIM: Kind = Kind::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims");

type KubePod = k8s_openapi::api::core::v1::Pod;

/// A dynamic object as what it is.
pub fn typed<T: DeserializeOwned>(object: DynamicObject) -> Result<T, Error> {
    let wrong = |error: serde_json::Error| {
        Error::Refused(format!("the API server sent what is not understood: {error}"))
    };
    serde_json::to_value(object).and_then(serde_json::from_value).map_err(wrong)
}

pub async fn stateful_set(
    namespace: &Namespace,
    cluster: &MailCluster,
) -> Result<Option<StatefulSet>, Error> {
    namespace.get(STATEFUL_SET, names::of(cluster)).await?.map(typed).transpose()
}

/// The cluster's pods, at most 1,000.
pub async fn pods(namespace: &Namespace, cluster: &MailCluster) -> Result<Vec<KubePod>, Error> {
    let parameters = ListParams::default().labels(&names::selector_text(cluster)).limit(1000);
    let list = namespace.api(POD).list(&parameters).await.map_err(Error::kubernetes("pods"))?;
    list.items.into_iter().map(typed).collect()
}

/// Revision of the newest template, once the StatefulSet's controller has seen it.
pub fn newest_revision(stateful_set: &StatefulSet) -> Option<&str> {
    let status = stateful_set.status.as_ref()?;
    let seen = status.observed_generation >= stateful_set.metadata.generation;
    status.update_revision.as_deref().filter(|_| seen)
}

fn is_ready(pod: &KubePod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Kubernetes' word for why a pod does not run.
fn trouble(pod: &KubePod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let state = container.state.as_ref()?;
        let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
        waiting.or_else(|| state.terminated.as_ref().and_then(|terminated| terminated.reason.clone()))
    });
    let starts = |reason: &String| reason != "ContainerCreating" && reason != "PodInitializing";
    let unschedulable = || {
        let mut conditions = status.conditions.iter().flatten();
        let failed =
            conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
        failed.and_then(|condition| condition.reason.clone())
    };
    waiting.filter(starts).or_else(unschedulable)
}

pub fn pod(cluster: &MailCluster, pod: &KubePod, newest: &str) -> Option<Pod> {
    let name = pod.metadata.name.clone()?;
    let revision = pod.metadata.labels.as_ref().and_then(|labels| labels.get("controller-revision-hash"));
    let ready = is_ready(pod);
    Some(Pod {
        ordinal: names::ordinal(cluster, &name)?,
        uid: pod.metadata.uid.clone()?,
        current: revision.is_some_and(|revision| revision == newest),
        ready,
        terminating: pod.metadata.deletion_timestamp.is_some(),
        trouble: if ready { None } else { trouble(pod) },
        name,
    })
}

/// Where the nodes' admin APIs are, ready nodes first.
pub fn admin_addresses(pods: &[KubePod]) -> Vec<String> {
    let mut running: Vec<&KubePod> =
        pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    running.sort_by_key(|pod| !is_ready(pod));
    let address = |pod: &&KubePod| -> Option<String> {
        let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        Some(std::net::SocketAddr::new(ip, config::HTTP_PORT).to_string())
    };
    running.iter().filter_map(address).collect()
}

/// Asks the nodes; why not, if none answers.
pub async fn report(api: &NodeApi) -> Result<Report, String> {
    api.report().await.map_err(|error| error.to_string())
}

pub fn situation(
    cluster: &MailCluster,
    replicas: i32,
    pods: Vec<Pod>,
    report: Result<Report, String>,
) -> Situation {
    let draining = cluster.status.as_ref().and_then(|status| status.draining.clone());
    Situation { wanted: cluster.spec.nodes, replicas, pods, report, draining, drained: Vec::new() }
}

/// Image of all pods, if it is one.
pub fn common_image(pods: &[KubePod]) -> Option<String> {
    let mut images = pods.iter().map(|pod| {
        pod.spec.as_ref().and_then(|spec| spec.containers.first()).and_then(|first| first.image.clone())
    });
    let first = images.next()??;
    images.all(|image| image.as_ref() == Some(&first)).then_some(first)
}
