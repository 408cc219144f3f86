//! Figure 2: throughput by how unequal users are, for the ways to place mail.

use super::{Size, parallel};
use crate::SECOND;
use crate::mail::{self, Settings};
use crate::table::{Table, fixed};
use crate::workload::Skew;
use cluster::Policy;

/// Placement policies by name.
pub const POLICIES: &[(&str, Policy)] = &[
    ("static", Policy::Static),
    ("random", Policy::Random),
    ("spread-1", Policy::Spread(1)),
    ("spread-2", Policy::Spread(2)),
    ("spread-4", Policy::Spread(4)),
];

/// With two copies a spread of one is one of two.
pub fn is_distinct(policy: Policy, copies: usize) -> bool {
    !matches!(policy, Policy::Spread(spread) if spread < copies)
}

#[derive(Clone, Copy)]
struct Run {
    copies: usize,
    name: &'static str,
    policy: Policy,
    exponent: f64,
}

pub fn tables(size: Size, seed: u64) -> Vec<(&'static str, Table)> {
    let (nodes, exponents): (usize, &[f64]) = match size {
        Size::Full { .. } => (30, &[0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]),
        Size::Quick => (6, &[0.0, 1.0]),
    };
    let mut runs = Vec::new();
    for copies in [1, 2] {
        for &(name, policy) in POLICIES.iter().filter(|(_, policy)| is_distinct(*policy, copies)) {
            runs.extend(exponents.iter().map(|&exponent| Run { copies, name, policy, exponent }));
        }
    }
    let reports = parallel(&runs, |run| {
        let standard = Settings::new(nodes, run.copies);
        mail::run(Settings {
            policy: run.policy,
            skew: Skew::Zipf(run.exponent),
            warm_up: 4 * SECOND,
            end: 9 * SECOND,
            seed,
            ..standard
        })
    });
    let mut table = Table::new(&[
        "copies",
        "policy",
        "skew",
        "share_of_busiest_user",
        "messages_per_second",
        "p99_ms",
        "mean_disk_busy",
        "replaced_replicas",
        "nodes_with_mail_of_a_user",
    ]);
    for (run, report) in runs.iter().zip(reports) {
        let users = Settings::new(nodes, run.copies).users * nodes;
        let weights: f64 = (1..=users).map(|rank| (rank as f64).powf(-run.exponent)).sum();
        table.row(&[
            &run.copies,
            &run.name,
            &run.exponent,
            &fixed(1.0 / weights, 5),
            &fixed(report.rate(), 0),
            &report.latency(0.99),
            &fixed(report.disk.mean, 3),
            &report.replaced,
            &fixed(report.fragments, 2),
        ]);
    }
    vec![("skew", table)]
}
