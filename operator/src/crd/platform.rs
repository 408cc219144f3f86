//! What a node gets of the Kubernetes cluster: resources, places, scaling, monitoring.

use super::{any_object, any_objects};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// CPU and memory of each node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourcesSpec {
    /// What is reserved.
    pub requests: BTreeMap<String, String>,
    /// What is never exceeded.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

impl Default for ResourcesSpec {
    fn default() -> Self {
        let requests = [("cpu", "250m"), ("memory", "256Mi")];
        Self {
            requests: requests.map(|(name, value)| (name.into(), value.into())).into(),
            limits: BTreeMap::new(),
        }
    }
}

/// Bounds that protect the nodes from clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LimitsSpec {
    /// Largest message in bytes.
    #[schemars(range(min = 1024, max = 268_435_456))]
    pub message_bytes: i64,
    /// Recipients of one SMTP transaction.
    #[schemars(range(min = 100, max = 100_000))]
    pub recipients: i32,
    /// Client connections of one node at one time.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: i32,
    /// A client that is silent for so many seconds is disconnected; IMAP wants at least 1800.
    #[schemars(range(min = 30, max = 86_400))]
    pub idle_seconds: i32,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        Self { message_bytes: 50 * 1024 * 1024, recipients: 1_000, connections: 10_000, idle_seconds: 1_860 }
    }
}

/// How nodes are spread over failure domains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ZonesSpec {
    /// Label of the Kubernetes nodes that names the zone. Copies of a message go to different zones. The mail nodes
    /// read it from their pod's label of the same name, which Kubernetes 1.35 and later set for the label
    /// topology.kubernetes.io/zone.
    #[schemars(length(min = 1, max = 300))]
    pub topology_key: String,
    /// What happens to a pod that would make zones uneven.
    pub when_unsatisfiable: WhenUnsatisfiable,
}

impl Default for ZonesSpec {
    fn default() -> Self {
        Self {
            topology_key: "topology.kubernetes.io/zone".into(),
            when_unsatisfiable: WhenUnsatisfiable::ScheduleAnyway,
        }
    }
}

/// What happens to a pod that would make zones uneven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenUnsatisfiable {
    ScheduleAnyway,
    DoNotSchedule,
}

/// Changes `nodes` by load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.maxNodes >= self.minNodes")
        .message("autoscaling.maxNodes must be at least autoscaling.minNodes: raise maxNodes"),
    validation = Rule::new("!(has(self.keda) && has(self.metrics) && self.metrics.size() > 0)")
        .message("autoscaling has metrics for the HorizontalPodAutoscaler or keda triggers, not both: KEDA makes a HorizontalPodAutoscaler of its own"),
)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingSpec {
    /// Never fewer nodes.
    #[schemars(range(min = 1, max = 500))]
    pub min_nodes: i32,
    /// Never more nodes.
    #[schemars(range(min = 1, max = 500))]
    pub max_nodes: i32,
    /// As in a HorizontalPodAutoscaler (autoscaling/v2). Without any: 70 % of the requested CPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub metrics: Vec<Value>,
    /// As in a HorizontalPodAutoscaler. Without it: up at once, down by one node in ten minutes, because each step
    /// down moves mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub behavior: Option<Value>,
    /// A ScaledObject of KEDA in place of a HorizontalPodAutoscaler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keda: Option<KedaSpec>,
}

/// A ScaledObject of KEDA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KedaSpec {
    /// Triggers as in a ScaledObject.
    #[schemars(schema_with = "any_objects")]
    pub triggers: Vec<Value>,
    /// Seconds between two looks at the triggers.
    #[serde(default = "thirty")]
    #[schemars(range(min = 1, max = 3600))]
    pub polling_interval: i32,
}

fn thirty() -> i32 {
    30
}

/// Objects for Prometheus, made where their kinds exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MonitoringSpec {
    /// Make a ServiceMonitor of the Prometheus operator.
    pub service_monitor: bool,
    /// Make a PrometheusRule with alerts.
    pub prometheus_rule: bool,
    /// Labels of both, by which Prometheus selects them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What pods get beside what the operator decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Labels; those of the operator win.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations; those of the operator win.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Labels that a Kubernetes node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated, as in a pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub tolerations: Vec<Value>,
    /// Affinity, as in a pod. Without it pods prefer machines that have no other node of this cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<Value>,
    /// Name of a PriorityClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// How long a node may take to end its sessions.
    #[schemars(range(min = 10, max = 3600))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<i64>,
}
