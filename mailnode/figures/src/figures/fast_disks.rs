//! Figure 3: what it gives to have fast disks in one machine of ten, for the ways to place mail.

use super::skew::{POLICIES, is_distinct};
use super::{Size, parallel};
use crate::mail::{self, Settings};
use crate::table::{Table, fixed};

pub fn tables(size: Size, seed: u64) -> Vec<(&'static str, Table)> {
    let nodes = if size == Size::Quick { 10 } else { 30 };
    let mut runs = Vec::new();
    for copies in [1, 2] {
        for &(name, policy) in POLICIES.iter().filter(|(_, policy)| is_distinct(*policy, copies)) {
            runs.extend([0, nodes / 10].map(|fast| (copies, name, policy, fast)));
        }
    }
    let reports = parallel(&runs, |&(copies, _, policy, fast)| {
        mail::run(Settings { policy, fast, seed, ..Settings::new(nodes, copies) })
    });
    let mut table = Table::new(&[
        "copies",
        "policy",
        "nodes",
        "fast",
        "messages_per_second",
        "gain_percent",
        "share_of_mail_on_fast",
        "busiest_processor",
        "p99_ms",
    ]);
    let mut without = 0.0;
    for ((copies, name, _, fast), report) in runs.into_iter().zip(reports) {
        if fast == 0 {
            without = report.rate();
        }
        let all = report.copies_by_machine.iter().sum::<u64>().max(1) as f64;
        let on_fast = report.copies_by_machine.iter().take(fast).sum::<u64>() as f64;
        table.row(&[
            &copies,
            &name,
            &nodes,
            &fast,
            &fixed(report.rate(), 0),
            &fixed((report.rate() / without - 1.0) * 100.0, 1),
            &fixed(on_fast / all, 3),
            &fixed(report.processor.most, 3),
            &report.latency(0.99),
        ]);
    }
    vec![("fast-disks", table)]
}
