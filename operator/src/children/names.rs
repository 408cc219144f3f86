//! What things are called. Everything that belongs to the MailCluster `mail` begins with `mail`.

use crate::crd::MailCluster;
use serde_json::{Value, json};

pub const NAME_LABEL: &str = "app.kubernetes.io/name";
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
pub const APPLICATION: &str = "prickle-mailnode";

/// A PersistentVolumeClaim with this annotation "true" is replaced together with its pod: its disk is gone for good.
pub const REPLACE_ANNOTATION: &str = "prickle.email/replace";

/// A PersistentVolumeClaim with this annotation "true" belongs to a node that we drained and took away. The disk remembers
/// the drain: a node that comes back with it is told that it may stay.
pub const DRAINED_ANNOTATION: &str = "prickle.email/drained";

/// A MailCluster's annotation with a time in Unix seconds: logs that were put into quarantine until then were looked at.
pub const QUARANTINE_SEEN_ANNOTATION: &str = "prickle.email/quarantine-seen";

pub fn of(cluster: &MailCluster) -> &str {
    cluster.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(cluster: &MailCluster) -> &str {
    cluster.metadata.namespace.as_deref().unwrap_or_default()
}

/// Labels that select the pods of one cluster; they never change.
pub fn selector(cluster: &MailCluster) -> Value {
    json!({ NAME_LABEL: APPLICATION, INSTANCE_LABEL: of(cluster) })
}

/// The same as a label selector in text.
pub fn selector_text(cluster: &MailCluster) -> String {
    format!("{NAME_LABEL}={APPLICATION},{INSTANCE_LABEL}={}", of(cluster))
}

/// Labels of every object.
pub fn labels(cluster: &MailCluster) -> Value {
    let mut labels = selector(cluster);
    labels["app.kubernetes.io/managed-by"] = super::MANAGER.into();
    labels
}

/// Pod, node and certificate of the same ordinal have the same name.
pub fn node(cluster: &MailCluster, ordinal: i32) -> String {
    format!("{}-{ordinal}", of(cluster))
}

/// The headless Service, under which each node has a name.
pub fn headless(cluster: &MailCluster) -> String {
    format!("{}-nodes", of(cluster))
}

pub fn config(cluster: &MailCluster) -> String {
    format!("{}-config", of(cluster))
}

/// ConfigMap with the certificate of the cluster's CA, for nodes and clients.
pub fn ca(cluster: &MailCluster) -> String {
    format!("{}-ca", of(cluster))
}

/// Secret with the CA's keys; no pod mounts it.
pub fn ca_key(cluster: &MailCluster) -> String {
    format!("{}-ca-key", of(cluster))
}

/// Secret with each node's certificate and key.
pub fn node_certificates(cluster: &MailCluster) -> String {
    format!("{}-node-tls", of(cluster))
}

/// Secret with the certificate of the mail protocols.
pub fn mail_certificate(cluster: &MailCluster) -> String {
    match &cluster.spec.tls.secret {
        Some(secret) => secret.name.clone(),
        None => format!("{}-mail-tls", of(cluster)),
    }
}

/// Secret with the token of the admin API.
pub fn admin_token(cluster: &MailCluster) -> String {
    format!("{}-admin", of(cluster))
}

/// Secret from which the keys of the bodies are made.
pub fn cluster_secret(cluster: &MailCluster) -> String {
    cluster.spec.cluster_secret_name.clone().unwrap_or_else(|| format!("{}-cluster-secret", of(cluster)))
}

/// The claim of a node's volume, as the StatefulSet names it.
pub fn volume_claim(cluster: &MailCluster, ordinal: i32) -> String {
    format!("data-{}", node(cluster, ordinal))
}

/// The number at the end of a pod's name.
pub fn ordinal(cluster: &MailCluster, pod: &str) -> Option<i32> {
    pod.strip_prefix(of(cluster))?.strip_prefix('-')?.parse().ok()
}
