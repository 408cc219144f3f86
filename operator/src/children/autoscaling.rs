//! HorizontalPodAutoscaler or KEDA's ScaledObject. Both scale the MailCluster, never the StatefulSet, so that every
//! step down goes through the operator's gate: mail is moved before a node goes.

use super::{AUTOSCALER, Child, SCALED_OBJECT, child, names};
use crate::crd::{AutoscalingSpec, GROUP, MailCluster};
use serde_json::{Value, json};

fn target(cluster: &MailCluster) -> Value {
    json!({ "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "MailCluster", "name": names::of(cluster) })
}

/// Up at once, by half as many nodes again; down by one node in ten minutes, as each step down moves mail.
fn behavior(autoscaling: &AutoscalingSpec) -> Value {
    autoscaling.behavior.clone().unwrap_or_else(|| {
        json!({
            "scaleUp": { "policies": [{ "type": "Percent", "value": 50, "periodSeconds": 60 }] },
            "scaleDown": {
                "stabilizationWindowSeconds": 1800,
                "policies": [{ "type": "Pods", "value": 1, "periodSeconds": 600 }],
            },
        })
    })
}

/// None without autoscaling, or if KEDA makes it.
pub fn autoscaler(cluster: &MailCluster) -> Option<Child> {
    let autoscaling = cluster.spec.autoscaling.as_ref().filter(|autoscaling| autoscaling.keda.is_none())?;
    let metrics = if autoscaling.metrics.is_empty() {
        let target = json!({ "type": "Utilization", "averageUtilization": 70 });
        json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }])
    } else {
        json!(autoscaling.metrics)
    };
    let content = json!({
        "spec": {
            "scaleTargetRef": target(cluster),
            "minReplicas": autoscaling.min_nodes,
            "maxReplicas": autoscaling.max_nodes,
            "metrics": metrics,
            "behavior": behavior(autoscaling),
        }
    });
    Some(child(cluster, AUTOSCALER, names::of(cluster), content))
}

/// None unless KEDA is asked for.
pub fn scaled_object(cluster: &MailCluster) -> Option<Child> {
    let autoscaling = cluster.spec.autoscaling.as_ref()?;
    let keda = autoscaling.keda.as_ref()?;
    let content = json!({
        "spec": {
            "scaleTargetRef": target(cluster),
            "minReplicaCount": autoscaling.min_nodes,
            "maxReplicaCount": autoscaling.max_nodes,
            "pollingInterval": keda.polling_interval,
            "advanced": { "horizontalPodAutoscalerConfig": { "behavior": behavior(autoscaling) } },
            "triggers": keda.triggers,
        }
    });
    Some(child(cluster, SCALED_OBJECT, names::of(cluster), content))
}
