//! Figure 4: 1, 3 and 6 of 30 machines die at 300 s and return at 600 s, with and without replication.

use super::{Size, parallel};
use crate::mail::{self, Outage, Report, Settings};
use crate::table::{Table, fixed};
use crate::{SECOND, Time, seconds};

/// Seconds of one row of the timeline.
const BIN: usize = 5;

struct Scale {
    nodes: usize,
    dead: &'static [usize],
    from: Time,
    to: Time,
    end: Time,
}

pub fn tables(size: Size, seed: u64) -> Vec<(&'static str, Table)> {
    let scale = match size {
        Size::Full { .. } => {
            Scale { nodes: 30, dead: &[1, 3, 6], from: 300 * SECOND, to: 600 * SECOND, end: 900 * SECOND }
        }
        Size::Quick => {
            Scale { nodes: 10, dead: &[1, 3], from: 20 * SECOND, to: 40 * SECOND, end: 60 * SECOND }
        }
    };
    let runs: Vec<(usize, usize)> =
        [2, 1].iter().flat_map(|&copies| scale.dead.iter().map(move |&dead| (copies, dead))).collect();
    let reports = parallel(&runs, |&(copies, machines)| {
        let outage = Outage { machines, from: scale.from, to: scale.to };
        mail::run(Settings {
            outage: Some(outage),
            // Enough to keep the disks busy; more would only make the run longer.
            connections: 6,
            warm_up: scale.from / 3,
            end: scale.end,
            seed,
            ..Settings::new(scale.nodes, copies)
        })
    });
    let mut timeline =
        Table::new(&["copies", "dead", "second", "delivered_per_second", "retrieved_per_second"]);
    let mut summary = Table::new(&[
        "copies",
        "dead",
        "before",
        "lowest_second",
        "seconds_below_90_percent_of_outage_level",
        "during",
        "lowest_second_after_return",
        "seconds_to_95_percent_after_return",
        "after",
        "updates_redelivered",
        "seconds_to_redeliver",
        "not_readable_meanwhile",
        "failed_operations",
    ]);
    for ((copies, dead), report) in runs.iter().zip(&reports) {
        rows(&mut timeline, *copies, *dead, report);
        summarise(&mut summary, *copies, *dead, report, &scale);
    }
    vec![("failures", timeline), ("failures-summary", summary)]
}

fn rows(table: &mut Table, copies: usize, dead: usize, report: &Report) {
    let bins = report.delivered_by_second.chunks_exact(BIN).zip(report.retrieved_by_second.chunks_exact(BIN));
    for (at, (delivered, retrieved)) in bins.enumerate() {
        table.row(&[&copies, &dead, &(at * BIN), &fixed(mean(delivered), 0), &fixed(mean(retrieved), 0)]);
    }
}

fn mean(of: &[u32]) -> f64 {
    of.iter().map(|&count| f64::from(count)).sum::<f64>() / of.len().max(1) as f64
}

fn summarise(table: &mut Table, copies: usize, dead: usize, report: &Report, scale: &Scale) {
    let by_second = &report.delivered_by_second;
    let at = |time: Time| (time / SECOND) as usize;
    let (from, to, end) = (at(scale.from), at(scale.to), at(scale.end));
    let before = mean(&by_second[from / 2..from]);
    let during = mean(&by_second[from + (to - from) / 2..to]);
    let after = mean(&by_second[to + (end - to) / 2..end]);
    let lowest = |range: &[u32]| range.iter().min().copied().unwrap_or_default();
    let low = by_second[from..to].iter().filter(|&&count| f64::from(count) < during * 0.9).count();
    let back = by_second[to..end].iter().position(|&count| f64::from(count) >= before * 0.95);
    let redelivered = seconds(report.redelivered_at.saturating_sub(scale.to));
    table.row(&[
        &copies,
        &dead,
        &fixed(before, 0),
        &lowest(&by_second[from..to]),
        &low,
        &fixed(during, 0),
        &lowest(&by_second[to..end]),
        &back.map_or_else(|| "never".to_owned(), |seconds| seconds.to_string()),
        &fixed(after, 0),
        &report.redelivered,
        &fixed(redelivered, 1),
        &report.unreadable,
        &report.failed,
    ]);
}
