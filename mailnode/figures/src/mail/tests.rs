use super::*;

fn small(nodes: usize, copies: usize) -> Settings {
    Settings { users: 50, connections: 8, warm_up: SECOND, end: 3 * SECOND, ..Settings::new(nodes, copies) }
}

#[test]
fn one_seed_gives_one_result_and_another_seed_another() {
    let (first, second) = (run(small(4, 2)), run(small(4, 2)));
    assert!(first.delivered > 100, "{}", first.delivered);
    assert_eq!((first.delivered, first.retrieved), (second.delivered, second.retrieved));
    assert_eq!(first.delivered_by_second, second.delivered_by_second);
    let other = run(Settings { seed: 2, ..small(4, 2) });
    assert_ne!((first.delivered, first.retrieved), (other.delivered, other.retrieved));
}

#[test]
fn each_message_is_on_as_many_disks_as_copies_were_asked_for() {
    for copies in [1, 2] {
        let mut simulation = Simulation::new(small(4, copies));
        simulation.run();
        for mailbox in &simulation.mailboxes {
            for mail in &mailbox.mails {
                let mut holders = mail.holders.clone();
                holders.sort_unstable();
                holders.dedup();
                assert_eq!(holders.len(), copies);
                assert!(
                    holders.iter().all(|&at| mailbox.map.contains(simulation.machines[usize::from(at)].id))
                );
            }
        }
        let report = simulation.finish();
        assert_eq!((report.failed, report.unreadable), (0, 0));
    }
}

#[test]
fn what_is_delivered_is_retrieved_and_mailboxes_stay_as_full_as_they_were() {
    let mut simulation = Simulation::new(Settings { end: 20 * SECOND, ..small(2, 1) });
    let waiting = |simulation: &Simulation| -> usize {
        simulation.mailboxes.iter().map(|mailbox| mailbox.mails.len()).sum()
    };
    let before = waiting(&simulation);
    simulation.run();
    let (after, report) = (waiting(&simulation), simulation.finish());
    assert!((before / 2..before * 2).contains(&after), "{before} then {after}");
    assert!(report.retrieved * 10 > report.delivered * 7, "{} of {}", report.retrieved, report.delivered);
}

fn outage(copies: usize) -> Simulation {
    let outage = Outage { machines: 1, from: 5 * SECOND, to: 15 * SECOND };
    let settings = Settings { outage: Some(outage), end: 25 * SECOND, ..small(6, copies) };
    let mut simulation = Simulation::new(settings);
    simulation.run();
    simulation
}

#[test]
fn a_dead_machine_costs_a_moment_and_the_update_log_is_empty_when_it_is_back() {
    let simulation = outage(2);
    assert!(simulation.machines.iter().all(|machine| machine.up && machine.log.is_empty()));
    let report = simulation.finish();
    assert!(report.redelivered > 0, "tombstones were kept for it");
    assert_eq!(report.unreadable, 0, "each message had another replica");
    let mean = |seconds: std::ops::Range<usize>| {
        let count = seconds.len() as f64;
        seconds.map(|at| f64::from(report.delivered_by_second[at])).sum::<f64>() / count
    };
    let (before, during, after) = (mean(1..5), mean(8..15), mean(18..25));
    assert!(during > before * 0.7, "{before} then {during}");
    assert!(after > before * 0.85, "{before} then {after}");
}

#[test]
fn without_replicas_mail_on_a_dead_machine_waits_for_its_return() {
    let report = outage(1).finish();
    assert!(report.unreadable > 0);
    assert!(report.redelivered < 20, "{}: nothing but calls that it did not answer", report.redelivered);
}

#[test]
fn mail_goes_to_the_fast_disks() {
    let settings = Settings { fast: 1, copies: 1, policy: Policy::Spread(4), ..small(6, 1) };
    let report = run(Settings { connections: 24, ..settings });
    let slowest = report.copies_by_machine[1..].iter().max().copied().unwrap_or_default();
    assert!(report.copies_by_machine[0] > slowest * 3 / 2, "{:?}", report.copies_by_machine);
}
