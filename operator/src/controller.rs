//! The process: waits to lead, then watches MailClusters, their children, pods and volume claims, and runs passes over them.

use crate::children::{
    AUTOSCALER, CONFIG_MAP, DISRUPTION_BUDGET, Kind, MANAGER, NETWORK_POLICY, ROLE, ROLE_BINDING, SERVICE,
    SERVICE_ACCOUNT, STATEFUL_SET, names,
};
use crate::crd::MailCluster;
use crate::http;
use crate::kubernetes::Namespace;
use crate::leader::Candidate;
use crate::metrics::Metrics;
use crate::observe::{POD, VOLUME_CLAIM};
use crate::reconcile::{Context, pause_after, reconcile};
use futures_util::StreamExt;
use futures_util::future::join_all;
use kube::api::DynamicObject;
use kube::runtime::controller::{Config, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Passes at one time; a pass waits for the API server and for nodes most of its time.
const CONCURRENCY: u16 = 8;
/// Changes within this time are one.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Children that are watched, so that changes by others are undone at once.
const WATCHED: [Kind; 9] = [
    STATEFUL_SET,
    SERVICE,
    CONFIG_MAP,
    SERVICE_ACCOUNT,
    ROLE,
    ROLE_BINDING,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
    AUTOSCALER,
];

/// How the process was started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespaces to look after; all if empty.
    pub namespaces: Vec<String>,
    /// Where the operator itself runs.
    pub own_namespace: String,
    /// Unique among operators, such as the pod's name.
    pub identity: String,
    pub http: SocketAddr,
}

/// Runs until `stop` resolves or the leadership is lost.
///
/// # Errors
/// If the HTTP address is taken or the leadership was lost: the process should end, and be started again.
pub async fn run(client: Client, settings: Settings, stop: impl Future<Output = ()>) -> Result<(), String> {
    let metrics = Metrics::new().map_err(|error| error.to_string())?;
    let ready = Arc::new(AtomicBool::new(false));
    let own = Namespace { client: client.clone(), name: settings.own_namespace.clone() };
    let mut candidate = Candidate::new(own, MANAGER, &settings.identity);
    let work = async {
        tracing::info!(identity = settings.identity, "waiting to lead");
        candidate.lead(|| ready.store(true, Ordering::Relaxed)).await;
        ready.store(true, Ordering::Relaxed);
        metrics.leading.set(1);
        tracing::info!(identity = settings.identity, "leading");
        tokio::select! {
            () = controllers(&client, &settings, metrics.clone()) => "the watches ended",
            () = candidate.keep() => "the leadership was lost",
        }
    };
    let outcome = tokio::select! {
        () = stop => Ok(()),
        why = work => Err(why.to_owned()),
        served = http::serve(settings.http, metrics.clone(), ready.clone()) => {
            Err(format!("HTTP on {}: {served:?}", settings.http))
        }
    };
    if outcome.is_ok() {
        candidate.resign().await;
    }
    outcome
}

async fn controllers(client: &Client, settings: &Settings, metrics: Metrics) {
    let reporter = Reporter { controller: MANAGER.into(), instance: Some(settings.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let context = Arc::new(Context::new(client.clone(), recorder, metrics, settings.own_namespace.clone()));
    let scopes: Vec<Option<&str>> = match settings.namespaces.as_slice() {
        [] => vec![None],
        some => some.iter().map(|name| Some(name.as_str())).collect(),
    };
    join_all(scopes.into_iter().map(|scope| controller(client, scope, context.clone()))).await;
}

fn api(client: &Client, scope: Option<&str>, kind: Kind) -> Api<DynamicObject> {
    match scope {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind.resource()),
        None => Api::all_with(client.clone(), &kind.resource()),
    }
}

async fn controller(client: &Client, scope: Option<&str>, context: Arc<Context>) {
    let clusters: Api<MailCluster> = match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"));
    let nodes = watcher::Config::default().labels(&format!("{}={}", names::NAME_LABEL, names::APPLICATION));
    let config = Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE);
    let mut controller = Controller::new(clusters, watcher::Config::default()).with_config(config);
    for kind in WATCHED {
        controller = controller.owns_with(api(client, scope, kind), kind.resource(), ours.clone());
    }
    controller
        .watches_with(api(client, scope, POD), POD.resource(), ours, cluster_of)
        // Their StatefulSet made them: they have the labels by which it selects, and not our name.
        .watches_with(api(client, scope, VOLUME_CLAIM), VOLUME_CLAIM.resource(), nodes, cluster_of)
        .run(reconcile, pause_after, context)
        .for_each(|outcome| async move {
            match outcome {
                Ok((cluster, _)) => {
                    tracing::debug!(namespace = cluster.namespace, cluster = cluster.name, "pass")
                }
                Err(kube::runtime::controller::Error::ReconcilerFailed(..)) => {}
                Err(error) => tracing::warn!(%error, "watch"),
            }
        })
        .await;
}

/// Of a pod or a volume claim.
fn cluster_of(part: DynamicObject) -> Option<ObjectRef<MailCluster>> {
    let name = part.labels().get(names::INSTANCE_LABEL)?.clone();
    Some(ObjectRef::new(&name).within(&part.namespace()?))
}
