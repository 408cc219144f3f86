//! One pass over one cluster: look, decide, apply, say.

use crate::certificates::{UnixSeconds, fingerprint};
use crate::children::statefulset::{Hashes, stateful_set};
use crate::children::{
    self, AUTOSCALER, CERTIFICATE, Child, Kind, NETWORK_POLICY, PROMETHEUS_RULE, SCALED_OBJECT,
    SERVICE_MONITOR, names,
};
use crate::crd::{MailCluster, MailClusterStatus, RetentionPolicy};
use crate::credentials::{self, Credentials};
use crate::error::Error;
use crate::gate::{self, Decision, Situation, Step, Waiting};
use crate::kubernetes::{Namespace, OptionalKinds};
use crate::metrics::Metrics;
use crate::node_api::{NodeApi, NodeError};
use crate::observe;
use crate::status::{self, Findings};
use crate::volumes;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::finalizer::{self, finalizer};
use kube::{Api, Client, Resource};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const FINALIZER: &str = "prickle.email/keep-or-remove-secrets";

/// When nothing is to be done, and nothing that we watch changes (Secrets are not watched).
const CALM: Duration = Duration::from_secs(300);
/// While something is under way that only the nodes know of.
const BUSY: Duration = Duration::from_secs(5);
/// While something is under way that a watch tells us of; in case it does not.
const WATCHED: Duration = Duration::from_secs(60);
/// Until a problem is looked at again, which may be in a Secret.
const BLOCKED: Duration = Duration::from_secs(15);

/// What all passes share.
pub struct Context {
    pub client: Client,
    pub recorder: Recorder,
    pub metrics: Metrics,
    /// Where the operator runs: the nodes' network policy lets it in.
    pub operator_namespace: String,
    pub kinds: OptionalKinds,
    /// Domains that were added in this life, by the cluster's uid.
    domains: Mutex<HashMap<String, HashSet<String>>>,
    /// Failures in a row, by the cluster's uid.
    failures: Mutex<HashMap<String, u32>>,
}

impl Context {
    pub fn new(client: Client, recorder: Recorder, metrics: Metrics, operator_namespace: String) -> Self {
        let (kinds, domains, failures) = Default::default();
        Self { client, recorder, metrics, operator_namespace, kinds, domains, failures }
    }

    async fn event(&self, cluster: &MailCluster, type_: EventType, reason: &str, note: String) {
        // Longer notes are refused (1 KiB).
        let note: String = note.chars().take(500).collect();
        // The recorder takes events that differ in nothing but their note for one, and keeps the note of the first: the
        // second of two drains would be told as the first again.
        let told_by = fingerprint(&[&note]);
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note),
            action: format!("Reconcile-{told_by}"),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &cluster.object_ref(&())).await {
            tracing::warn!(%error, reason, "event not published");
        }
    }
}

/// One pass; for the controller.
///
/// # Errors
/// All of them are retried, see [`pause_after`].
pub async fn reconcile(cluster: Arc<MailCluster>, context: Arc<Context>) -> Result<Action, Error> {
    let timer = context.metrics.seconds.start_timer();
    let namespace = Namespace { client: context.client.clone(), name: names::namespace(&cluster).to_owned() };
    let api: Api<MailCluster> = Api::namespaced(context.client.clone(), &namespace.name);
    let uid = cluster.metadata.uid.clone().unwrap_or_default();
    let about = cluster.clone();
    let outcome = finalizer(&api, FINALIZER, cluster, |event| async {
        match event {
            finalizer::Event::Apply(cluster) => apply(&context, &namespace, &api, &cluster).await,
            finalizer::Event::Cleanup(cluster) => cleanup(&context, &namespace, &cluster).await,
        }
    })
    .await;
    timer.observe_duration();
    let outcome = outcome.map_err(|error| match error {
        finalizer::Error::ApplyFailed(error) | finalizer::Error::CleanupFailed(error) => error,
        other => Error::Finalizer(other.to_string()),
    });
    match &outcome {
        Ok(_) => {
            context.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
            context.metrics.passes.with_label_values(&["ok"]).inc();
        }
        Err(error) => {
            context.metrics.passes.with_label_values(&[error.reason()]).inc();
            context.event(&about, EventType::Warning, error.reason(), error.to_string()).await;
        }
    }
    outcome
}

/// When a failed pass is repeated: after 1 s, then twice as long each time, up to five minutes.
pub fn pause_after(cluster: Arc<MailCluster>, error: &Error, context: Arc<Context>) -> Action {
    let uid = cluster.metadata.uid.clone().unwrap_or_default();
    let mut failures = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let times = failures.entry(uid).or_default();
    let pause = Duration::from_secs(1 << (*times).min(9)).min(CALM);
    *times = times.saturating_add(1);
    tracing::warn!(
        namespace = names::namespace(&cluster),
        cluster = names::of(&cluster),
        reason = error.reason(),
        %error,
        pause_seconds = pause.as_secs(),
        "pass failed"
    );
    Action::requeue(pause)
}

async fn apply(
    context: &Context,
    namespace: &Namespace,
    api: &Api<MailCluster>,
    cluster: &MailCluster,
) -> Result<Action, Error> {
    let existing = observe::stateful_set(namespace, cluster).await?;
    let pods = observe::pods(namespace, cluster).await?;
    let replicas = existing.as_ref().and_then(|set| set.spec.replicas).unwrap_or(cluster.spec.nodes);
    let mut findings = Findings { image: observe::common_image(&pods), problem: None };
    let newest = existing.as_ref().and_then(observe::newest_revision).unwrap_or_default().to_owned();
    let seen: Vec<gate::Pod> = pods.iter().filter_map(|pod| observe::pod(cluster, pod, &newest)).collect();

    let pass = Pass { context, namespace, cluster };
    let mut kind_missing = false;
    let prepared = if cluster.spec.paused {
        None
    } else {
        // What brings the Secret that the credentials wait for.
        kind_missing |= pass.apply_optional(|kind| kind == CERTIFICATE).await?;
        let rolled_out = rolled_out(existing.as_ref(), replicas, &seen);
        let highest = replicas.max(cluster.spec.nodes);
        let nodes: Vec<String> = (0..highest).map(|ordinal| names::node(cluster, ordinal)).collect();
        match credentials::ensure(namespace, cluster, &nodes, now_seconds(), rolled_out.as_deref()).await {
            Ok(credentials) => Some(credentials),
            Err(error @ Error::Refused(_)) => {
                findings.problem = Some(error.to_string());
                None
            }
            Err(error) => return Err(error),
        }
    };
    let token = credentials::known_token(namespace, cluster).await?;
    let node_api = token.map(|token| NodeApi::new(observe::admin_addresses(&pods), token));
    let report = match &node_api {
        Some(node_api) if !pods.is_empty() => observe::report(node_api).await,
        _ => Err("no node runs".into()),
    };
    let mut situation = observe::situation(cluster, replicas, seen, report);

    let decision = match &prepared {
        None => Decision { step: Step::Nothing, waiting: None },
        Some(credentials) => {
            pass.apply_children().await?;
            kind_missing |= pass.apply_optional(|kind| kind != CERTIFICATE).await?;
            pass.prune().await?;
            situation.drained = pass.look_at_volumes().await?;
            pass.stateful_set(
                existing.as_ref(),
                &mut situation,
                credentials,
                node_api.as_ref(),
                &mut findings,
            )
            .await?
        }
    };
    if let Some(node_api) = &node_api
        && situation.report.is_ok()
        && !cluster.spec.paused
    {
        add_domains(context, cluster, node_api).await?;
    }
    write_status(context, api, cluster, &situation, &decision, &findings).await?;
    let pause = next_look(&decision, &findings);
    Ok(Action::requeue(if kind_missing { pause.min(WATCHED) } else { pause }))
}

fn next_look(decision: &Decision, findings: &Findings) -> Duration {
    match (&decision.step, &decision.waiting) {
        _ if findings.problem.is_some() => BLOCKED,
        (Step::Nothing, None) => CALM,
        (
            _,
            Some(
                Waiting::TemplateUnseen
                | Waiting::PodMissing(_)
                | Waiting::PodTerminating(_)
                | Waiting::PodNotReady { .. },
            ),
        ) => WATCHED,
        _ => BUSY,
    }
}

/// The certificates' hash with which all pods run, if all pods are there, ready and of the newest template.
fn rolled_out(existing: Option<&StatefulSet>, replicas: i32, pods: &[gate::Pod]) -> Option<String> {
    let good = |pod: &gate::Pod| pod.current && pod.ready && !pod.terminating;
    if pods.len() != usize::try_from(replicas).ok()? || !pods.iter().all(good) {
        return None;
    }
    let template = existing?.spec.template.metadata.as_ref()?;
    template.annotations.as_ref()?.get("prickle.email/certificates-hash").cloned()
}

fn now_seconds() -> UnixSeconds {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// One cluster, one pass.
struct Pass<'a> {
    context: &'a Context,
    namespace: &'a Namespace,
    cluster: &'a MailCluster,
}

impl Pass<'_> {
    /// All of which the kinds are there but the StatefulSet.
    async fn apply_children(&self) -> Result<(), Error> {
        let cluster = self.cluster;
        let mut all = vec![
            children::rbac::service_account(cluster),
            children::rbac::role(cluster),
            children::rbac::role_binding(cluster),
            children::config::config_map(cluster)?,
            children::services::headless(cluster),
            children::services::client(cluster),
            children::disruption::budget(cluster),
        ];
        if cluster.spec.network_policy.enabled {
            all.push(children::network_policy::policy(cluster, &self.context.operator_namespace));
        }
        all.extend(children::autoscaling::autoscaler(cluster));
        for child in &all {
            self.namespace.apply(child).await?;
        }
        Ok(())
    }

    /// True if a kind that is asked for does not exist (yet).
    async fn apply_optional(&self, chosen: impl Fn(Kind) -> bool) -> Result<bool, Error> {
        let cluster = self.cluster;
        let mut missing = false;
        for (kind, child) in self.optional() {
            let Some(child) = child.filter(|_| chosen(kind)) else { continue };
            if self.context.kinds.has(&self.context.client, kind).await? {
                self.namespace.apply(&child).await?;
            } else {
                missing = true;
                let note = format!(
                    "{} is asked for, but this Kubernetes has no such kind: install it first",
                    kind.kind
                );
                self.context.event(cluster, EventType::Warning, "KindMissing", note).await;
            }
        }
        Ok(missing)
    }

    /// Objects whose kinds may not exist.
    fn optional(&self) -> [(Kind, Option<Child>); 4] {
        [
            (SERVICE_MONITOR, children::monitoring::service_monitor(self.cluster)),
            (PROMETHEUS_RULE, children::monitoring::prometheus_rule(self.cluster)),
            (CERTIFICATE, children::certificate::certificate(self.cluster)),
            (SCALED_OBJECT, children::autoscaling::scaled_object(self.cluster)),
        ]
    }

    /// Removes what the spec does not ask for any more, if it was ours.
    async fn prune(&self) -> Result<(), Error> {
        let cluster = self.cluster;
        let mut unwanted = Vec::new();
        if !cluster.spec.network_policy.enabled {
            unwanted.push((NETWORK_POLICY, names::of(cluster).to_owned()));
        }
        if children::autoscaling::autoscaler(cluster).is_none() {
            unwanted.push((AUTOSCALER, names::of(cluster).to_owned()));
        }
        for (kind, child) in self.optional() {
            if child.is_none() && self.context.kinds.has(&self.context.client, kind).await? {
                let name = if kind == CERTIFICATE {
                    names::mail_certificate(cluster)
                } else {
                    names::of(cluster).to_owned()
                };
                unwanted.push((kind, name));
            }
        }
        for (kind, name) in unwanted {
            if self.namespace.delete_owned(kind, &name, cluster).await? {
                let note = format!("{} {name} is not wanted any more", kind.kind);
                self.context.event(cluster, EventType::Normal, "Removed", note).await;
            }
        }
        Ok(())
    }

    /// Replaces what is lost; the nodes whose disks remember a drain.
    async fn look_at_volumes(&self) -> Result<Vec<String>, Error> {
        let claims = volumes::claims(self.namespace, self.cluster).await?;
        for lost in volumes::lost(&claims) {
            volumes::replace(self.namespace, &lost).await?;
            if !lost.terminating {
                let claim = lost.claim;
                let note =
                    format!("the disk of {claim} is gone; its node starts with an empty one and is refilled");
                self.context.event(self.cluster, EventType::Warning, "VolumeReplaced", note).await;
            }
        }
        Ok(volumes::drained(&claims))
    }

    /// Applies the StatefulSet and takes the one step that the gate allows.
    async fn stateful_set(
        &self,
        existing: Option<&StatefulSet>,
        situation: &mut Situation,
        credentials: &Credentials,
        node_api: Option<&NodeApi>,
        findings: &mut Findings,
    ) -> Result<Decision, Error> {
        let cluster = self.cluster;
        let config = serde_json::to_string(&children::config::node_yaml(cluster)).unwrap_or_default();
        let hashes = Hashes { config: fingerprint(&[&config]), certificates: credentials.hash.clone() };
        let mut size = cluster.spec.storage.size.as_str();
        let unseen = Decision { step: Step::Nothing, waiting: Some(Waiting::TemplateUnseen) };
        if let Some(existing) = existing {
            if existing.metadata.deletion_timestamp.is_some() {
                return Ok(unseen);
            }
            match volumes::grow(self.namespace, cluster, existing).await {
                Ok(false) => {}
                Ok(true) => {
                    let note = format!("volumes grow to {size}");
                    self.context.event(cluster, EventType::Normal, "VolumesGrow", note).await;
                    return Ok(unseen);
                }
                Err(Error::Refused(why)) => {
                    findings.problem = Some(why);
                    size = volumes::template_size(existing).unwrap_or(size);
                }
                Err(error) => return Err(error),
            }
        }
        let apply = async |replicas: i32| -> Result<StatefulSet, Error> {
            let child = stateful_set(cluster, replicas, size, &hashes);
            observe::typed(self.namespace.apply(&child).await?)
        };
        let applied = apply(situation.replicas).await?;
        if existing.is_none() {
            let note = format!("{} nodes", situation.replicas);
            self.context.event(cluster, EventType::Normal, "Created", note).await;
        }
        // Until its controller has seen the template, nobody knows which pods are of the newest one.
        let newest = observe::newest_revision(&applied).unwrap_or_default().to_owned();
        if newest.is_empty() {
            let growing = situation.wanted > situation.replicas;
            if !growing {
                let waiting = Some(Waiting::PodMissing(0)).filter(|_| situation.pods.is_empty());
                return Ok(Decision {
                    step: Step::Nothing,
                    waiting: waiting.or(Some(Waiting::TemplateUnseen)),
                });
            }
        } else {
            let pods = observe::pods(self.namespace, cluster).await?;
            situation.pods = pods.iter().filter_map(|pod| observe::pod(cluster, pod, &newest)).collect();
        }
        let decision = gate::next(situation);
        match &decision.step {
            Step::Nothing => {}
            Step::ScaleTo(nodes) => {
                let from = situation.replicas;
                // Before it goes: nobody would know afterwards.
                for ordinal in *nodes..from {
                    volumes::note_drained(self.namespace, &names::node(cluster, ordinal), true).await?;
                }
                apply(*nodes).await?;
                self.context
                    .event(cluster, EventType::Normal, "Scaling", format!("from {from} to {nodes} nodes"))
                    .await;
            }
            Step::Restart { pod, uid } => {
                let parameters = DeleteParams::default();
                self.namespace.delete(observe::POD, pod, Some(uid.clone()), parameters).await?;
                let note = format!("{pod} is restarted with the newest template");
                self.context.event(cluster, EventType::Normal, "Restarting", note).await;
            }
            Step::Drain(node) => self.ask(node_api, node, true).await?,
            Step::CancelDrain(node) => self.ask(node_api, node, false).await?,
        }
        Ok(decision)
    }

    async fn ask(&self, node_api: Option<&NodeApi>, node: &str, drain: bool) -> Result<(), Error> {
        let Some(node_api) = node_api else { return Ok(()) };
        let (answer, reason, note) = if drain {
            (
                node_api.drain(node).await,
                "Draining",
                format!("{node} was asked to move its mail to the others"),
            )
        } else {
            (node_api.cancel_drain(node).await, "DrainCancelled", format!("{node} stays"))
        };
        answer?;
        if !drain {
            volumes::note_drained(self.namespace, node, false).await?;
        }
        self.context.event(self.cluster, EventType::Normal, reason, note).await;
        Ok(())
    }
}

/// Adds the domains that this process has not added yet. One that the nodes refuse is reported, and does not keep
/// the others out.
async fn add_domains(context: &Context, cluster: &MailCluster, node_api: &NodeApi) -> Result<(), Error> {
    let uid = cluster.metadata.uid.clone().unwrap_or_default();
    let missing: Vec<&String> = {
        let domains = context.domains.lock().unwrap_or_else(PoisonError::into_inner);
        let known = domains.get(&uid);
        cluster
            .spec
            .domains
            .iter()
            .filter(|domain| known.is_none_or(|known| !known.contains(*domain)))
            .collect()
    };
    for domain in missing {
        match node_api.add_domain(domain).await {
            Ok(()) => {
                let mut domains = context.domains.lock().unwrap_or_else(PoisonError::into_inner);
                domains.entry(uid.clone()).or_default().insert(domain.clone());
            }
            Err(NodeError::Status { status: 422, .. }) => {
                let note = format!("{domain} is not a domain name that the nodes accept");
                context.event(cluster, EventType::Warning, "DomainRefused", note).await;
            }
            Err(error) => {
                tracing::info!(%error, domain, "domain not added yet");
                break;
            }
        }
    }
    Ok(())
}

async fn write_status(
    context: &Context,
    api: &Api<MailCluster>,
    cluster: &MailCluster,
    situation: &Situation,
    decision: &Decision,
    findings: &Findings,
) -> Result<(), Error> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let new = status::status(cluster, situation, decision, findings, &now);
    let old = cluster.status.clone().unwrap_or_default();
    context.metrics.observe(cluster, &new);
    if new == old {
        return Ok(());
    }
    if new.waiting_for != old.waiting_for
        && let Some(waiting) = &new.waiting_for
        && reason_changed(&old, &new)
    {
        let kind = if findings.problem.is_some() { EventType::Warning } else { EventType::Normal };
        context.event(cluster, kind, "Waiting", waiting.clone()).await;
    }
    for new in new.quarantined.iter().filter(|new| !old.quarantined.contains(new)) {
        let note = format!("the log of {} was put aside, and the node is refilled: {}", new.node, new.reason);
        context.event(cluster, EventType::Warning, "LogQuarantined", note).await;
    }
    let patch = json!({ "status": with_nulls(&new) });
    api.patch_status(names::of(cluster), &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(Error::kubernetes("status"))?;
    Ok(())
}

/// A count that ticks is no news.
fn reason_changed(old: &MailClusterStatus, new: &MailClusterStatus) -> bool {
    let reasons = |status: &MailClusterStatus| -> Vec<(String, String)> {
        let pairs = status.conditions.iter();
        pairs.map(|condition| (condition.kind.clone(), condition.reason.clone())).collect()
    };
    reasons(old) != reasons(new)
}

/// A merge patch keeps what it does not name: what is absent now must be named.
fn with_nulls(status: &MailClusterStatus) -> serde_json::Value {
    let mut value = json!(status);
    for field in ["version", "epoch", "underReplicatedEntries", "draining", "quarantined", "waitingFor"] {
        if value.get(field).is_none() {
            value[field] = serde_json::Value::Null;
        }
    }
    value
}

/// The MailCluster is being deleted. Kubernetes removes the children by their owner, and the volumes as the
/// StatefulSet says; we only keep or remove the secret that unlocks them. No node is asked, so nothing can hang.
async fn cleanup(context: &Context, namespace: &Namespace, cluster: &MailCluster) -> Result<Action, Error> {
    let uid = cluster.metadata.uid.clone().unwrap_or_default();
    context.domains.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
    context.metrics.forget(cluster);
    let note = match cluster.spec.storage.retention.when_deleted {
        RetentionPolicy::Delete => {
            credentials::forget(namespace, cluster).await?;
            "volumes and the cluster secret are removed".to_owned()
        }
        RetentionPolicy::Retain => format!(
            "volumes and Secret {} are kept: a MailCluster of the same name has all mail again",
            names::cluster_secret(cluster)
        ),
    };
    context.event(cluster, EventType::Normal, "Deleted", note).await;
    Ok(Action::await_change())
}
