//! What the operator answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator knows of the cluster, and what it waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MailClusterStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: i64,
    /// Pods that exist.
    pub nodes: i32,
    /// Pods that are ready: members of the mail cluster that take and serve mail.
    pub ready_nodes: i32,
    /// Pods that run the newest configuration and image.
    pub updated_nodes: i32,
    /// Label selector of the pods, for autoscalers.
    pub selector: String,
    /// Image that all nodes run; absent while they run different ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Number of the membership view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Messages with fewer reachable copies than they should have; absent while no node answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_replicated_entries: Option<i64>,
    /// The node that the operator asked to move its mail away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining: Option<String>,
    /// Nodes whose logs were found rolled back, cut or altered and put aside (docs/operations.md), and when.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node"]))]
    pub quarantined: Vec<Quarantine>,
    /// What the operator waits for before its next step; absent if there is nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Ready, Progressing, Degraded, ScalingDown, Quarantined.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A log that a node put aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Quarantine {
    /// Name of the node.
    pub node: String,
    /// When, in Unix seconds.
    pub at: i64,
    /// What was wrong with the log.
    pub reason: String,
}

/// One aspect of the state, as Kubernetes defines conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Ready, Progressing, Degraded, ScalingDown or Quarantined.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: ConditionStatus,
    /// One word for machines.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// The generation of the spec that this condition is about.
    pub observed_generation: i64,
    /// When the status changed last, RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
}

/// True, False or Unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}
