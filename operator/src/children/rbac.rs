//! What the nodes may do in Kubernetes: work with Leases of their namespace, nothing else.

use super::{Child, ROLE, ROLE_BINDING, SERVICE_ACCOUNT, child, names};
use crate::crd::MailCluster;
use serde_json::json;

pub fn service_account(cluster: &MailCluster) -> Child {
    child(
        cluster,
        SERVICE_ACCOUNT,
        &names::headless(cluster),
        json!({ "automountServiceAccountToken": false }),
    )
}

/// `create` cannot be limited to names, so all verbs are for the Leases of the namespace.
pub fn role(cluster: &MailCluster) -> Child {
    let rule = json!({
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["list", "watch", "create", "update", "patch", "delete"],
    });
    child(cluster, ROLE, &names::headless(cluster), json!({ "rules": [rule] }))
}

pub fn role_binding(cluster: &MailCluster) -> Child {
    let name = names::headless(cluster);
    let content = json!({
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": cluster.metadata.namespace }],
    });
    child(cluster, ROLE_BINDING, &name, content)
}
