//! ServiceMonitor and PrometheusRule of the Prometheus operator.

use super::{Child, PROMETHEUS_RULE, SERVICE_MONITOR, child, names};
use crate::crd::MailCluster;
use serde_json::{Value, json};

/// None unless asked for.
pub fn service_monitor(cluster: &MailCluster) -> Option<Child> {
    let monitoring = &cluster.spec.monitoring;
    if !monitoring.service_monitor {
        return None;
    }
    let content = json!({
        "metadata": { "labels": monitoring.labels },
        "spec": {
            "selector": { "matchLabels": names::selector(cluster) },
            "namespaceSelector": { "matchNames": [names::namespace(cluster)] },
            "endpoints": [{ "port": "http", "path": "/metrics", "interval": "15s" }],
        }
    });
    Some(child(cluster, SERVICE_MONITOR, names::of(cluster), content))
}

/// None unless asked for. Each alert says what to look at first.
pub fn prometheus_rule(cluster: &MailCluster) -> Option<Child> {
    let monitoring = &cluster.spec.monitoring;
    if !monitoring.prometheus_rule {
        return None;
    }
    let service = names::headless(cluster);
    let job = format!("namespace=\"{}\",service=\"{service}\"", names::namespace(cluster));
    let rules = [
        alert(
            "PrickleNodeDown",
            &format!("up{{{job}}} == 0"),
            ("2m", "warning"),
            "A mail node does not answer",
            "Mail is served by the others. See `kubectl describe mailcluster` and the pod's events.",
        ),
        alert(
            "PrickleMailNotStored",
            &format!("sum(rate(prickle_delivery_failures_total{{{job}}}[5m])) > 0"),
            ("5m", "critical"),
            "Messages cannot be stored on enough nodes; senders are told to try again",
            "Fewer nodes than replication.minCopies take mail: look for full disks and nodes that are not ready.",
        ),
        alert(
            "PrickleUpdatesPending",
            &format!("min_over_time(prickle_pending_updates{{{job}}}[30m]) > 0"),
            ("30m", "warning"),
            "A node has not acknowledged updates for 30 minutes",
            "A node is away or cut off: see `mailnode cluster status` on any node.",
        ),
        alert(
            "PrickleDamagedRecords",
            &format!("increase(prickle_log_corrupt_records_total{{{job}}}[1h]) > 0"),
            ("0m", "warning"),
            "A node found damaged records on its disk",
            "Check the disk. If it is bad, annotate its claim with prickle.email/replace=true.",
        ),
        alert(
            "PrickleLogQuarantined",
            &format!("time() - prickle_log_quarantine_timestamp_seconds{{{job}}} < 86400"),
            ("0m", "critical"),
            "A node's log was found rolled back, cut or altered; it was put aside and the node refilled",
            "See the condition Quarantined of the MailCluster. Who or what changed that disk? Then mark it as seen, as the condition says.",
        ),
        alert(
            "PrickleViewsDiffer",
            &format!("max(prickle_view_epoch{{{job}}}) - min(prickle_view_epoch{{{job}}}) > 0"),
            ("5m", "warning"),
            "Nodes disagree about who is a member",
            "A node is cut off from the others or from the Kubernetes API.",
        ),
    ];
    let content = json!({
        "metadata": { "labels": monitoring.labels },
        "spec": { "groups": [{ "name": format!("prickle-{}", names::of(cluster)), "rules": rules }] }
    });
    Some(child(cluster, PROMETHEUS_RULE, names::of(cluster), content))
}

fn alert(
    name: &str,
    expression: &str,
    (hold, severity): (&str, &str),
    summary: &str,
    runbook: &str,
) -> Value {
    json!({
        "alert": name,
        "expr": expression,
        "for": hold,
        "labels": { "severity": severity },
        "annotations": { "summary": summary, "description": runbook },
    })
}
