//! Two Services: a headless one that gives each node a name for its peers, and the one that clients use.

use super::config::{HTTP_PORT, RPC_PORT, listeners};
use super::{Child, SERVICE, child, names};
use crate::crd::{MailCluster, ServiceType};
use serde_json::{Value, json};

fn port(name: &str, port: u16, target: &str) -> Value {
    json!({ "name": name, "port": port, "targetPort": target, "protocol": "TCP" })
}

/// Nodes must find each other before they are ready: that is how they become ready.
pub fn headless(cluster: &MailCluster) -> Child {
    let content = json!({
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": names::selector(cluster),
            "ports": [port("rpc", RPC_PORT, "rpc"), port("http", HTTP_PORT, "http")],
        }
    });
    child(cluster, SERVICE, &names::headless(cluster), content)
}

/// Sends clients to any ready node.
pub fn client(cluster: &MailCluster) -> Child {
    let service = &cluster.spec.service;
    let ports: Vec<Value> =
        listeners(cluster).map(|listener| port(listener.name, listener.port, listener.name)).collect();
    let mut content = json!({
        "metadata": { "annotations": service.annotations },
        "spec": {
            "type": service.service_type,
            "selector": names::selector(cluster),
            "ports": ports,
        }
    });
    let spec = &mut content["spec"];
    if service.service_type != ServiceType::ClusterIP {
        let policy = if service.preserve_client_address { "Local" } else { "Cluster" };
        spec["externalTrafficPolicy"] = policy.into();
    }
    if service.service_type == ServiceType::LoadBalancer {
        if let Some(class) = &service.load_balancer_class {
            spec["loadBalancerClass"] = class.as_str().into();
        }
        if !service.load_balancer_source_ranges.is_empty() {
            spec["loadBalancerSourceRanges"] = json!(service.load_balancer_source_ranges);
        }
    }
    child(cluster, SERVICE, names::of(cluster), content)
}
