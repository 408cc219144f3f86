//! Figure 1: deliveries acknowledged in a second, by number of nodes, for one and two copies.

use super::{Size, parallel};
use crate::SECOND;
use crate::mail::{self, Settings};
use crate::table::{Table, fixed};

pub fn tables(size: Size, seed: u64) -> Vec<(&'static str, Table)> {
    let nodes = size.cut(&[1, 2, 3, 5, 10, 15, 20, 25, 30, 100, 300, 1_000]);
    let mut runs: Vec<(usize, usize)> =
        [1, 2].iter().flat_map(|&copies| nodes.iter().map(move |&nodes| (nodes, copies))).collect();
    runs.retain(|&(nodes, copies)| nodes >= copies);
    // The longest first, so that all cores have work to the end.
    runs.sort_by_key(|&(nodes, copies)| std::cmp::Reverse(nodes * copies));
    let settings = |&(nodes, copies): &(usize, usize)| {
        let standard = Settings { seed, ..Settings::new(nodes, copies) };
        match nodes {
            0..=100 => standard,
            // So many machines are measured well enough in a short time.
            101..=300 => Settings { warm_up: SECOND, end: 3 * SECOND, users: 200, ..standard },
            _ => Settings { warm_up: SECOND / 2, end: 3 * SECOND / 2, users: 100, ..standard },
        }
    };
    let reports = parallel(&runs, |run| mail::run(settings(run)));
    let mut rows: Vec<_> = runs.into_iter().zip(reports).collect();
    rows.sort_by_key(|(run, _)| (run.1, run.0));
    let mut table = Table::new(&[
        "copies",
        "nodes",
        "messages_per_second",
        "per_node",
        "p50_ms",
        "p99_ms",
        "messages_per_flush",
        "disk_busy",
        "processor_busy",
        "megabits_per_node",
        "nodes_with_mail_of_a_user",
    ]);
    for ((nodes, copies), report) in rows {
        table.row(&[
            &copies,
            &nodes,
            &fixed(report.rate(), 0),
            &fixed(report.rate() / nodes as f64, 1),
            &report.latency(0.5),
            &report.latency(0.99),
            &fixed(report.copies_by_machine.iter().sum::<u64>() as f64 / report.flushes.max(1) as f64, 1),
            &fixed(report.disk.mean, 3),
            &fixed(report.processor.mean, 3),
            &fixed(report.network.mean / 1e6, 1),
            &fixed(report.fragments, 2),
        ]);
    }
    vec![("throughput", table)]
}
