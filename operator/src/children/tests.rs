//! Every object against Kubernetes' own types, and against golden files (`tests/golden/`; PRICKLE_BLESS=1 rewrites
//! them).

use super::statefulset::{Hashes, stateful_set};
use super::*;
use crate::certificates::{Authorities, MailCertificate, NodeCertificates, Previous};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;

pub(crate) fn cluster(spec: Value) -> MailCluster {
    serde_json::from_value(json!({
        "apiVersion": "prickle.email/v1alpha1",
        "kind": "MailCluster",
        "metadata": { "name": "mail", "namespace": "post", "uid": "11111111-2222-3333-4444-555555555555" },
        "spec": spec,
    }))
    .unwrap()
}

fn smallest() -> MailCluster {
    cluster(json!({ "image": "prickle:1" }))
}

/// Every field of the spec that changes an object.
fn fullest() -> MailCluster {
    cluster(json!({
        "image": "prickle:1",
        "nodes": 5,
        "imagePullSecrets": ["pull"],
        "hostName": "mail.example.org",
        "storage": { "size": "100Gi", "className": "fast", "retention": { "whenDeleted": "Delete", "whenScaled": "Delete" } },
        "replication": { "factor": 3, "minCopies": 2 },
        "userDatabase": { "tikv": { "pdEndpoints": ["pd.tikv.svc:2379"], "tlsSecretName": "tikv-client" } },
        "listeners": { "lmtp": true, "pop3": true },
        "service": {
            "type": "LoadBalancer",
            "annotations": { "example.org/pool": "mail" },
            "loadBalancerClass": "example.org/lb",
            "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "preserveClientAddress": true,
        },
        "tls": { "certManager": { "issuerRef": { "name": "public", "kind": "ClusterIssuer" } } },
        "clusterSecretName": "given",
        "encryption": { "requireSignedAccounts": true },
        "resources": { "requests": { "cpu": "1" }, "limits": { "memory": "2Gi" } },
        "outbound": {
            "nameServers": ["192.0.2.53:53"],
            "retrySeconds": [60, 600],
            "expireSeconds": 86_400,
            "connections": 50,
            "connectionsPerDestination": 5,
            "messages": 1000,
            "relay": {
                "host": "smtp.example.net", "port": 587, "tls": "required", "caSecretName": "relay-ca",
                "login": { "name": "post", "secretName": "relay-login" },
            },
            "dkim": [
                { "domain": "example.org", "selector": "s1", "secretName": "dkim" },
                { "domain": "example.net", "selector": "s2", "secretName": "dkim" },
            ],
        },
        "zones": { "whenUnsatisfiable": "DoNotSchedule" },
        "autoscaling": { "minNodes": 3, "maxNodes": 9 },
        "monitoring": { "serviceMonitor": true, "prometheusRule": true, "labels": { "release": "prometheus" } },
        "networkPolicy": {
            "clients": [{ "ipBlock": { "cidr": "192.0.2.0/24" } }],
            "monitoring": [{ "namespaceSelector": { "matchLabels": { "team": "watch" } } }],
        },
        "pod": {
            "labels": { "team": "post", "app.kubernetes.io/name": "mine" },
            "annotations": { "a": "b" },
            "nodeSelector": { "disk": "ssd" },
            "tolerations": [{ "key": "mail", "operator": "Exists" }],
            "affinity": { "nodeAffinity": {} },
            "priorityClassName": "high",
            "terminationGracePeriodSeconds": 120,
        },
    }))
}

fn hashes() -> Hashes {
    Hashes { config: "c".into(), certificates: "d".into() }
}

/// Kubernetes' type keeps all that we say: no field is misspelt, none has the wrong type.
fn fits<T: DeserializeOwned + Serialize>(child: &Child) {
    let typed: T = serde_json::from_value(child.body.clone()).unwrap();
    let mut kept = serde_json::to_value(typed).unwrap();
    let mut said = child.body.clone();
    without_empty(&mut kept);
    without_empty(&mut said);
    assert_eq!(kept, said, "{} {}", child.resource.kind, child.name);
}

/// Empty maps are left out by some types and kept by others.
fn without_empty(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(without_empty);
            fields.retain(|_, value| {
                !value.is_null() && value.as_object().is_none_or(|fields| !fields.is_empty())
            });
        }
        Value::Array(items) => items.iter_mut().for_each(without_empty),
        _ => {}
    }
}

#[test]
fn every_object_is_what_kubernetes_expects() {
    for cluster in [smallest(), fullest()] {
        fits::<StatefulSet>(&stateful_set(&cluster, 3, "10Gi", &hashes()));
        fits::<Service>(&services::headless(&cluster));
        fits::<Service>(&services::client(&cluster));
        fits::<ServiceAccount>(&rbac::service_account(&cluster));
        fits::<Role>(&rbac::role(&cluster));
        fits::<RoleBinding>(&rbac::role_binding(&cluster));
        fits::<ConfigMap>(&config::config_map(&cluster).unwrap());
        fits::<PodDisruptionBudget>(&disruption::budget(&cluster));
        fits::<NetworkPolicy>(&network_policy::policy(&cluster, "prickle-system"));
    }
    fits::<HorizontalPodAutoscaler>(&autoscaling::autoscaler(&fullest()).unwrap());
}

#[test]
fn secrets_are_what_kubernetes_expects_and_only_the_cluster_secret_has_no_owner() {
    let cluster = smallest();
    let ca = Authorities::advance(None, "mail", 1_800_000_000, false, Previous::Forgotten).unwrap();
    let nodes = ["mail-0".to_owned()];
    let node_tls = NodeCertificates::renew(None, &ca, &nodes, 1_800_000_000, 90).unwrap();
    let names = secrets::mail_names(&cluster);
    let mail = MailCertificate::renew(None, &ca, &names, 1_800_000_000, 90).unwrap();
    let owned = [
        secrets::ca_key(&cluster, &ca),
        secrets::node_certificates(&cluster, &node_tls),
        secrets::mail_certificate(&cluster, &mail),
        secrets::admin_token(&cluster, "0123456789abcdef"),
    ];
    for child in &owned {
        fits::<Secret>(child);
        assert_eq!(child.body["metadata"]["ownerReferences"][0]["kind"], "MailCluster", "{}", child.name);
    }
    fits::<ConfigMap>(&secrets::ca(&cluster, &ca));
    let secret = secrets::cluster_secret(&cluster, "x");
    fits::<Secret>(&secret);
    assert!(secret.body["metadata"].get("ownerReferences").is_none());
    // The CA's key is for the operator alone.
    let set = stateful_set(&cluster, 3, "10Gi", &hashes());
    assert!(!set.body.to_string().contains(&names::ca_key(&cluster)));
}

fn golden(name: &str, children: &[Child]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let documents: Vec<String> =
        children.iter().map(|child| serde_yaml::to_string(&child.body).unwrap()).collect();
    let text = documents.join("---\n");
    if std::env::var_os("PRICKLE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{name} differs; look at it with PRICKLE_BLESS=1 and git diff");
}

#[test]
fn the_objects_are_those_of_the_golden_files() {
    for (name, cluster) in [("smallest.yaml", smallest()), ("fullest.yaml", fullest())] {
        let mut all = vec![
            config::config_map(&cluster).unwrap(),
            services::headless(&cluster),
            services::client(&cluster),
            rbac::service_account(&cluster),
            rbac::role(&cluster),
            rbac::role_binding(&cluster),
            disruption::budget(&cluster),
            network_policy::policy(&cluster, "prickle-system"),
            stateful_set(&cluster, cluster.spec.nodes, &cluster.spec.storage.size, &hashes()),
        ];
        all.extend(autoscaling::autoscaler(&cluster));
        all.extend(certificate::certificate(&cluster));
        all.extend(monitoring::service_monitor(&cluster));
        all.extend(monitoring::prometheus_rule(&cluster));
        golden(name, &all);
    }
}

#[test]
fn keda_takes_the_place_of_the_autoscaler_and_both_scale_the_mail_cluster() {
    let keda = cluster(json!({
        "image": "prickle:1",
        "autoscaling": { "minNodes": 2, "maxNodes": 4, "keda": { "triggers": [{ "type": "cpu" }] } },
    }));
    assert_eq!(autoscaling::autoscaler(&keda), None);
    let scaled = autoscaling::scaled_object(&keda).unwrap();
    assert_eq!(scaled.body["spec"]["scaleTargetRef"]["kind"], "MailCluster");
    let autoscaler = autoscaling::autoscaler(&fullest()).unwrap();
    assert_eq!(autoscaler.body["spec"]["scaleTargetRef"]["kind"], "MailCluster");
    assert_eq!(autoscaling::scaled_object(&fullest()), None);
}

#[test]
fn pods_fit_the_restricted_pod_security_standard() {
    let set = stateful_set(&fullest(), 3, "10Gi", &hashes());
    let pod = &set.body["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in pod["containers"].as_array().unwrap() {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    }
    assert!(!pod.to_string().contains("hostPath") && !pod.to_string().contains("hostPort"));
}

#[test]
fn a_persons_labels_do_not_hide_the_pods_from_their_services() {
    let set = stateful_set(&fullest(), 3, "10Gi", &hashes());
    let labels = &set.body["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["team"], "post");
    assert_eq!(labels[names::NAME_LABEL], names::APPLICATION);
}

#[test]
fn names_of_pods_are_read_back() {
    let cluster = smallest();
    assert_eq!(names::ordinal(&cluster, "mail-12"), Some(12));
    assert_eq!(names::ordinal(&cluster, "mail-x"), None);
    assert_eq!(names::ordinal(&cluster, "other-1"), None);
}
