//! PodDisruptionBudget: whoever drains machines takes one node at a time.

use super::{Child, DISRUPTION_BUDGET, child, names};
use crate::crd::MailCluster;
use serde_json::json;

/// A pod that is not ready protects nothing, so it may always be evicted.
pub fn budget(cluster: &MailCluster) -> Child {
    let content = json!({
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": { "matchLabels": names::selector(cluster) },
        }
    });
    child(cluster, DISRUPTION_BUDGET, names::of(cluster), content)
}
