//! NetworkPolicy: clients reach the mail ports, only nodes reach nodes, only the operator, the nodes and whoever
//! is named reach the admin API. What nodes may connect to is not limited: they deliver mail anywhere.

use super::config::{HTTP_PORT, RPC_PORT, listeners};
use super::{Child, NETWORK_POLICY, child, names};
use crate::crd::MailCluster;
use serde_json::{Value, json};

/// `operator_namespace`: where the operator runs.
pub fn policy(cluster: &MailCluster, operator_namespace: &str) -> Child {
    let spec = &cluster.spec.network_policy;
    let nodes = json!({ "podSelector": { "matchLabels": names::selector(cluster) } });
    let operator = json!({
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": operator_namespace } },
        "podSelector": { "matchLabels": { names::NAME_LABEL: super::MANAGER } },
    });
    let mut admins = vec![nodes.clone(), operator];
    admins.extend(spec.monitoring.iter().cloned());
    let tcp = |port: u16| json!({ "protocol": "TCP", "port": port });
    let mail: Vec<Value> = listeners(cluster).map(|listener| tcp(listener.pod_port)).collect();
    let mut clients = json!({ "ports": mail });
    if !spec.clients.is_empty() {
        clients["from"] = json!(spec.clients);
    }
    let content = json!({
        "spec": {
            "podSelector": { "matchLabels": names::selector(cluster) },
            "policyTypes": ["Ingress"],
            "ingress": [
                clients,
                { "from": [nodes], "ports": [tcp(RPC_PORT)] },
                { "from": admins, "ports": [tcp(HTTP_PORT)] },
            ],
        }
    });
    child(cluster, NETWORK_POLICY, names::of(cluster), content)
}
