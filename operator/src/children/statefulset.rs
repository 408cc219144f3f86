//! The StatefulSet: parallel start, one volume a node, pods that fit the `restricted` pod security standard.
//!
//! Its update strategy is OnDelete: a pod gets the new template when the operator deletes it, which it does one by
//! one behind the gate (module `gate`). `replicas`, too, is what the gate allows, not what the spec wants.

use super::config::{DATA, ETC, HTTP_PORT, RPC_PORT, listeners};
use super::{Child, STATEFUL_SET, child, names, outbound};
use crate::crd::MailCluster;
use serde_json::{Value, json};

/// A user and group without rights; the image needs no entry for it.
const USER: i64 = 65532;
/// Time for sessions to end when nothing else is said.
const GRACE_SECONDS: i64 = 60;
/// Between the moment a pod is to end and its SIGTERM: Services stop sending clients meanwhile.
const FAREWELL_SECONDS: i64 = 5;

/// Hashes of what pods read at their start; a change restarts them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashes {
    pub config: String,
    pub certificates: String,
}

/// `size`: of the volumes; a StatefulSet cannot change it, see module `volumes`.
pub fn stateful_set(cluster: &MailCluster, replicas: i32, size: &str, hashes: &Hashes) -> Child {
    let storage = &cluster.spec.storage;
    let mut claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": "data", "labels": names::selector(cluster) },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": size } },
        }
    });
    if let Some(class) = &storage.class_name {
        claim["spec"]["storageClassName"] = class.as_str().into();
    }
    let content = json!({
        "spec": {
            "replicas": replicas,
            "serviceName": names::headless(cluster),
            "podManagementPolicy": "Parallel",
            "updateStrategy": { "type": "OnDelete" },
            "persistentVolumeClaimRetentionPolicy": storage.retention,
            "selector": { "matchLabels": names::selector(cluster) },
            "volumeClaimTemplates": [claim],
            "template": template(cluster, hashes),
        }
    });
    child(cluster, STATEFUL_SET, names::of(cluster), content)
}

fn template(cluster: &MailCluster, hashes: &Hashes) -> Value {
    let spec = &cluster.spec;
    let mut labels = json!(spec.pod.labels);
    super::merge(&mut labels, names::labels(cluster));
    let mut annotations = json!(spec.pod.annotations);
    super::merge(
        &mut annotations,
        json!({
            "prickle.email/config-hash": hashes.config,
            "prickle.email/certificates-hash": hashes.certificates,
        }),
    );
    let mut pod = json!({
        "serviceAccountName": names::headless(cluster),
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": spec.pod.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS),
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "affinity": spec.pod.affinity.clone().unwrap_or_else(|| apart(cluster)),
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": spec.zones.topology_key,
            "whenUnsatisfiable": spec.zones.when_unsatisfiable,
            "labelSelector": { "matchLabels": names::selector(cluster) },
        }],
        "containers": [container(cluster)],
        "volumes": volumes(cluster),
    });
    if !spec.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] =
            spec.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>().into();
    }
    if !spec.pod.node_selector.is_empty() {
        pod["nodeSelector"] = json!(spec.pod.node_selector);
    }
    if !spec.pod.tolerations.is_empty() {
        pod["tolerations"] = json!(spec.pod.tolerations);
    }
    if let Some(class) = &spec.pod.priority_class_name {
        pod["priorityClassName"] = class.as_str().into();
    }
    json!({ "metadata": { "labels": labels, "annotations": annotations }, "spec": pod })
}

/// Two nodes on one machine would die together: avoided where possible.
fn apart(cluster: &MailCluster) -> Value {
    json!({
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": { "matchLabels": names::selector(cluster) },
                }
            }]
        }
    })
}

fn container(cluster: &MailCluster) -> Value {
    let spec = &cluster.spec;
    let mut ports = vec![
        json!({ "name": "rpc", "containerPort": RPC_PORT, "protocol": "TCP" }),
        json!({ "name": "http", "containerPort": HTTP_PORT, "protocol": "TCP" }),
    ];
    ports.extend(listeners(cluster).map(
        |listener| json!({ "name": listener.name, "containerPort": listener.pod_port, "protocol": "TCP" }),
    ));
    let from_pod = |path: &str| json!({ "fieldRef": { "fieldPath": path } });
    let advertise =
        format!("$(PRICKLE_NAME).{}.{}.svc:{RPC_PORT}", names::headless(cluster), names::namespace(cluster));
    let zone = format!("metadata.labels['{}']", spec.zones.topology_key);
    json!({
        "name": "mailnode",
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "args": ["serve", "--config", format!("{ETC}/config/node.yaml")],
        "env": [
            { "name": "PRICKLE_NAME", "valueFrom": from_pod("metadata.name") },
            { "name": "PRICKLE_ZONE", "valueFrom": from_pod(&zone) },
            { "name": "PRICKLE_ADVERTISE", "value": advertise },
            // For `kubectl exec POD -- mailnode user add ...`.
            { "name": "PRICKLE_SERVER", "value": format!("http://127.0.0.1:{HTTP_PORT}") },
            { "name": "PRICKLE_TOKEN_FILE", "value": format!("{ETC}/secrets/admin/token") },
        ],
        "ports": ports,
        "resources": spec.resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        // The log is replayed before the first answer: up to ten minutes. Asked every second, because nothing else is asked
        // before it has answered, and a rolling update waits for each node.
        "startupProbe": probe("/healthz", 1, 600),
        "livenessProbe": probe("/healthz", 10, 6),
        "readinessProbe": probe("/readyz", 2, 2),
        "lifecycle": { "preStop": { "sleep": { "seconds": FAREWELL_SECONDS } } },
        "volumeMounts": mounts(cluster),
    })
}

fn probe(path: &str, period: i32, failures: i32) -> Value {
    json!({
        "httpGet": { "path": path, "port": "http" },
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    })
}

fn mounts(cluster: &MailCluster) -> Vec<Value> {
    let read_only =
        |volume: &str, path: String| json!({ "name": volume, "mountPath": path, "readOnly": true });
    // A pod sees its own key alone. Such mounts are not refreshed, but a new certificate restarts the pod anyway.
    let own = |file: &str| {
        json!({
            "name": "node-tls",
            "mountPath": format!("{ETC}/node/tls.{file}"),
            "subPathExpr": format!("$(PRICKLE_NAME).{file}"),
            "readOnly": true,
        })
    };
    let mut mounts = vec![
        json!({ "name": "data", "mountPath": DATA }),
        read_only("config", format!("{ETC}/config")),
        read_only("ca", format!("{ETC}/ca")),
        own("crt"),
        own("key"),
        read_only("mail-tls", format!("{ETC}/mail")),
        read_only("cluster-secret", format!("{ETC}/secrets/cluster")),
        read_only("admin-token", format!("{ETC}/secrets/admin")),
    ];
    if tikv_secret(cluster).is_some() {
        mounts.push(read_only("tikv-tls", format!("{ETC}/tikv")));
    }
    mounts.extend(outbound::volume(cluster).map(|(_, mount)| mount));
    mounts
}

fn tikv_secret(cluster: &MailCluster) -> Option<&String> {
    cluster.spec.user_database.tikv.as_ref()?.tls_secret_name.as_ref()
}

fn volumes(cluster: &MailCluster) -> Vec<Value> {
    let config = |volume: &str, name: String| json!({ "name": volume, "configMap": { "name": name } });
    let secret = |volume: &str, name: String| json!({ "name": volume, "secret": { "secretName": name, "defaultMode": 0o440 } });
    let mut volumes = vec![
        config("config", names::config(cluster)),
        config("ca", names::ca(cluster)),
        secret("node-tls", names::node_certificates(cluster)),
        secret("mail-tls", names::mail_certificate(cluster)),
        secret("cluster-secret", names::cluster_secret(cluster)),
        secret("admin-token", names::admin_token(cluster)),
    ];
    if let Some(name) = tikv_secret(cluster) {
        volumes.push(secret("tikv-tls", name.clone()));
    }
    volumes.extend(outbound::volume(cluster).map(|(volume, _)| volume));
    volumes
}
