//! From a MailCluster to the Kubernetes objects that make it real. Pure functions, one module a kind.
//!
//! An object is JSON that holds exactly the fields that the operator decides; server-side apply leaves all other
//! fields to whoever set them, undoes changes of ours, and removes what we no longer say. Tests check each
//! against the Kubernetes types, so that no field can be misspelt, and against a golden file.

pub mod autoscaling;
pub mod certificate;
pub mod config;
pub mod disruption;
pub mod monitoring;
pub mod names;
pub mod network_policy;
pub mod outbound;
pub mod rbac;
pub mod secrets;
pub mod services;
pub mod statefulset;

use crate::crd::{GROUP, MailCluster};
use kube::api::ApiResource;
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

/// Field manager of server-side apply.
pub const MANAGER: &str = "prickle-operator";

/// An object to apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    pub resource: ApiResource,
    pub name: String,
    pub body: Value,
}

/// What a child is, beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
}

impl Kind {
    pub const fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self { group, version, kind, plural }
    }

    pub fn resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group, self.version, self.kind);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }
}

pub const CONFIG_MAP: Kind = Kind::new("", "v1", "ConfigMap", "configmaps");
pub const SECRET: Kind = Kind::new("", "v1", "Secret", "secrets");
pub const SERVICE: Kind = Kind::new("", "v1", "Service", "services");
pub const SERVICE_ACCOUNT: Kind = Kind::new("", "v1", "ServiceAccount", "serviceaccounts");
pub const ROLE: Kind = Kind::new("rbac.authorization.k8s.io", "v1", "Role", "roles");
pub const ROLE_BINDING: Kind = Kind::new("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings");
pub const STATEFUL_SET: Kind = Kind::new("apps", "v1", "StatefulSet", "statefulsets");
pub const DISRUPTION_BUDGET: Kind = Kind::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets");
pub const NETWORK_POLICY: Kind = Kind::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies");
pub const AUTOSCALER: Kind =
    Kind::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers");
pub const SCALED_OBJECT: Kind = Kind::new("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects");
pub const SERVICE_MONITOR: Kind =
    Kind::new("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors");
pub const PROMETHEUS_RULE: Kind =
    Kind::new("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules");
pub const CERTIFICATE: Kind = Kind::new("cert-manager.io", "v1", "Certificate", "certificates");

/// Makes a child of `cluster`: labels and the owner reference are the same for all.
pub fn child(cluster: &MailCluster, kind: Kind, name: &str, content: Value) -> Child {
    let mut body = named(cluster, kind, name, content);
    body["metadata"]["ownerReferences"] = json!([{
        "apiVersion": format!("{GROUP}/v1alpha1"),
        "kind": "MailCluster",
        "name": cluster.metadata.name,
        "uid": cluster.metadata.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    }]);
    Child { resource: kind.resource(), name: name.to_owned(), body }
}

/// The same without an owner: it outlives the MailCluster.
pub fn orphan(cluster: &MailCluster, kind: Kind, name: &str, content: Value) -> Child {
    Child { resource: kind.resource(), name: name.to_owned(), body: named(cluster, kind, name, content) }
}

fn named(cluster: &MailCluster, kind: Kind, name: &str, content: Value) -> Value {
    let api_version = if kind.group.is_empty() {
        kind.version.to_owned()
    } else {
        format!("{}/{}", kind.group, kind.version)
    };
    let mut body = json!({
        "apiVersion": api_version,
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "namespace": cluster.metadata.namespace,
            "labels": names::labels(cluster),
        },
    });
    merge(&mut body, content);
    body
}

/// Puts the fields of `from` into `into`, objects field by field.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
pub(crate) mod tests;
