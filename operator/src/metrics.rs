//! The operator's own metrics, prefix `prickle_operator_`.

use crate::children::names;
use crate::crd::{MailCluster, MailClusterStatus};
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Clones share the numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Passes by outcome: `ok`, or the reason of the error.
    pub passes: IntCounterVec,
    pub seconds: Histogram,
    pub leading: IntGauge,
    nodes: IntGaugeVec,
}

impl Metrics {
    /// # Errors
    /// Only if two metrics have one name, which a test excludes.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let passes = IntCounterVec::new(
            Opts::new("prickle_operator_reconciles_total", "Passes over a MailCluster by outcome."),
            &["outcome"],
        )?;
        let seconds = Histogram::with_opts(
            HistogramOpts::new("prickle_operator_reconcile_seconds", "Duration of a pass.")
                .buckets(vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0]),
        )?;
        let leading = IntGauge::new("prickle_operator_leading", "1 while this process is the leader.")?;
        let nodes = IntGaugeVec::new(
            Opts::new("prickle_operator_cluster_nodes", "Nodes of each MailCluster by state."),
            &["namespace", "cluster", "state"],
        )?;
        registry.register(Box::new(passes.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(leading.clone()))?;
        registry.register(Box::new(nodes.clone()))?;
        Ok(Self { registry, passes, seconds, leading, nodes })
    }

    /// Takes over what a status says.
    pub fn observe(&self, cluster: &MailCluster, status: &MailClusterStatus) {
        for (state, count) in
            [("wanted", cluster.spec.nodes), ("ready", status.ready_nodes), ("updated", status.updated_nodes)]
        {
            let labels = [names::namespace(cluster), names::of(cluster), state];
            self.nodes.with_label_values(&labels).set(count.into());
        }
    }

    /// The cluster is gone.
    pub fn forget(&self, cluster: &MailCluster) {
        for state in ["wanted", "ready", "updated"] {
            // Not there is as good.
            let _ = self.nodes.remove_label_values(&[names::namespace(cluster), names::of(cluster), state]);
        }
    }

    /// The text format.
    ///
    /// # Errors
    /// If a metric cannot be written as text.
    pub fn render(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let metrics = Metrics::new().unwrap();
        metrics.passes.with_label_values(&["ok"]).inc();
        let text = metrics.render().unwrap();
        assert!(text.contains("prickle_operator_reconciles_total{outcome=\"ok\"} 1"));
    }
}
