//! `node.yaml`, the same for all nodes. What differs from node to node (name, zone, address) comes from the pod's
//! environment: PRICKLE_NAME, PRICKLE_ZONE, PRICKLE_ADVERTISE.

use super::{CONFIG_MAP, Child, child, names, outbound};
use crate::crd::{ListenersSpec, MailCluster};
use serde_json::{Map, Value, json};

pub const RPC_PORT: u16 = 7001;
pub const HTTP_PORT: u16 = 8001;

/// A protocol: its name in the configuration, the port in the pod (not privileged), the port of the Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: &'static str,
    pub pod_port: u16,
    pub port: u16,
}

/// Whether the spec offers it.
type Offered = fn(&ListenersSpec) -> bool;

const LISTENERS: [(Listener, Offered); 8] = [
    (Listener { name: "smtp", pod_port: 2525, port: 25 }, |on| on.smtp),
    (Listener { name: "submission", pod_port: 2587, port: 587 }, |on| on.submission),
    (Listener { name: "submissions", pod_port: 2465, port: 465 }, |on| on.submissions),
    (Listener { name: "lmtp", pod_port: 2424, port: 24 }, |on| on.lmtp),
    (Listener { name: "imap", pod_port: 2143, port: 143 }, |on| on.imap),
    (Listener { name: "imaps", pod_port: 2993, port: 993 }, |on| on.imaps),
    (Listener { name: "pop3", pod_port: 2110, port: 110 }, |on| on.pop3),
    (Listener { name: "pop3s", pod_port: 2995, port: 995 }, |on| on.pop3s),
];

/// The protocols that are offered.
pub fn listeners(cluster: &MailCluster) -> impl Iterator<Item = Listener> {
    let on = cluster.spec.listeners;
    LISTENERS.into_iter().filter(move |(_, enabled)| enabled(&on)).map(|(listener, _)| listener)
}

/// Directories in the container.
pub const DATA: &str = "/var/lib/prickle";
pub const ETC: &str = "/etc/prickle";

/// The content of node.yaml.
pub fn node_yaml(cluster: &MailCluster) -> Value {
    let spec = &cluster.spec;
    let mut ports = Map::new();
    ports.insert("rpc".into(), format!("0.0.0.0:{RPC_PORT}").into());
    ports.insert("http".into(), format!("0.0.0.0:{HTTP_PORT}").into());
    ports.extend(
        listeners(cluster)
            .map(|listener| (listener.name.into(), format!("0.0.0.0:{}", listener.pod_port).into())),
    );
    let mut yaml = json!({
        "dataDirectory": format!("{DATA}/data"),
        "cluster": {
            "name": names::of(cluster),
            "secretFile": format!("{ETC}/secrets/cluster/secret"),
            "leases": { "kubernetes": { "namespace": names::namespace(cluster), "prefix": names::of(cluster) } },
            "tls": {
                "ca": format!("{ETC}/ca/ca.crt"),
                "certificate": format!("{ETC}/node/tls.crt"),
                "key": format!("{ETC}/node/tls.key"),
            },
        },
        "replication": { "factor": spec.replication.factor, "minCopies": spec.replication.min_copies },
        "healing": { "replaceAfterSeconds": spec.replication.replace_after_seconds },
        "spread": spec.spread,
        "userDatabase": user_database(cluster),
        "listeners": ports,
        "tls": {
            "certificate": format!("{ETC}/mail/tls.crt"),
            "key": format!("{ETC}/mail/tls.key"),
        },
        "admin": { "tokenFile": format!("{ETC}/secrets/admin/token") },
        "limits": spec.limits,
        "outbound": outbound::section(cluster),
        "log": { "filter": spec.log_filter, "format": "json" },
    });
    if let Some(name) = &spec.host_name {
        yaml["hostName"] = name.as_str().into();
    }
    // Said only where it holds: nodes of versions that do not know it refuse it.
    if spec.encryption.require_signed_accounts {
        yaml["cluster"]["requireSignedAccounts"] = true.into();
    }
    yaml
}

fn user_database(cluster: &MailCluster) -> Value {
    let database = &cluster.spec.user_database;
    let Some(tikv) = &database.tikv else {
        return json!({ "embedded": database.embedded.unwrap_or_default() });
    };
    let mut yaml = json!({ "tikv": { "pdEndpoints": tikv.pd_endpoints, "keyPrefix": tikv.key_prefix } });
    if tikv.tls_secret_name.is_some() {
        let file = |name: &str| format!("{ETC}/tikv/{name}");
        yaml["tikv"]["tls"] =
            json!({ "ca": file("ca.crt"), "certificate": file("tls.crt"), "key": file("tls.key") });
    }
    yaml
}

/// # Errors
/// If the configuration cannot be written as YAML.
pub fn config_map(cluster: &MailCluster) -> Result<Child, serde_yaml::Error> {
    let text = serde_yaml::to_string(&node_yaml(cluster))?;
    Ok(child(cluster, CONFIG_MAP, &names::config(cluster), json!({ "data": { "node.yaml": text } })))
}
