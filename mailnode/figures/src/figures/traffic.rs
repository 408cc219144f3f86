//! Figure 6: what membership costs, by size of the cluster: writes that the API server sees, probes of a node, load
//! reports (which ride on messages that are sent anyway).

use super::{Size, parallel};
use crate::members::{self, World};
use crate::table::{Table, fixed};
use crate::{MILLISECOND, SECOND, Time, mail};

/// Of healthy life.
const SPAN: Time = 60 * SECOND;

struct Cost {
    traffic: members::Traffic,
    mail: mail::Report,
}

pub fn tables(size: Size, seed: u64) -> Vec<(&'static str, Table)> {
    let sizes = size.cut(&[1_000, 300, 100, 30, 10, 3]);
    let costs = parallel(&sizes, |&nodes| {
        let names: Vec<String> = (0..nodes).map(|at| format!("node-{at}")).collect();
        let mut world = World::new(&names, members::Settings::default(), seed, true);
        world.run_until(5 * SECOND);
        let before = world.traffic;
        world.run_until(5 * SECOND + SPAN);
        let standard = mail::Settings::new(nodes, 2);
        let mail = mail::run(mail::Settings {
            warm_up: 500 * MILLISECOND,
            end: 1_500 * MILLISECOND,
            seed,
            ..standard
        });
        Cost { traffic: world.traffic.since(&before), mail }
    });
    let mut table = Table::new(&[
        "nodes",
        "lease_renewals_per_second",
        "coordinator_writes_per_second",
        "lease_events_to_watchers_per_second",
        "probes_per_node_per_second",
        "probe_bytes_per_node_per_second",
        "load_reports_per_node_per_second",
        "load_report_bytes_per_node_per_second",
        "views_published",
    ]);
    let span = crate::seconds(SPAN);
    for (&nodes, cost) in sizes.iter().zip(&costs).rev() {
        let renewals = cost.traffic.renewals as f64 / span;
        let writes = cost.traffic.coordinator_writes as f64 / span;
        let probes = cost.traffic.probes as f64 / span / nodes as f64;
        let reports = cost.mail.reports as f64 / 1.5 / nodes as f64;
        table.row(&[
            &nodes,
            &fixed(renewals, 2),
            &fixed(writes, 2),
            &fixed((renewals + writes) * nodes as f64, 0),
            &fixed(probes, 2),
            // A question and an answer, sent and received.
            &fixed(probes * 4.0 * crate::hardware::FRAME as f64, 0),
            &fixed(reports, 0),
            &fixed(reports * 8.0, 0),
            &cost.traffic.published,
        ]);
    }
    vec![("traffic", table)]
}
