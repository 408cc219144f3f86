//! What the run cost: CPU time of the server's processes and of the driver from /proc, fsyncs from the metrics
//! of Prickle's nodes.

use crate::error::BenchError;
use std::collections::HashMap;
use std::time::Duration;
use ureq::Agent;

/// Unit of the times in /proc/PID/stat: 100 on every architecture that Rust's Linux targets have (proc_pid_stat(5)).
const TICKS_PER_SECOND: f64 = 100.0;
const FSYNCS: &str = "prickle_log_fsyncs_total";
/// Largest metrics page.
const PAGE: u64 = 4 * 1024 * 1024;

pub(crate) struct Meter {
    pids: Vec<u32>,
    metrics: Vec<String>,
    agent: Agent,
}

#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub server_cpu_seconds: Option<f64>,
    pub driver_cpu_seconds: f64,
    pub fsyncs: Option<f64>,
}

impl Usage {
    pub(crate) fn since(&self, before: &Self) -> Self {
        let difference = |now: Option<f64>, then: Option<f64>| Some(now? - then?);
        Self {
            server_cpu_seconds: difference(self.server_cpu_seconds, before.server_cpu_seconds),
            driver_cpu_seconds: self.driver_cpu_seconds - before.driver_cpu_seconds,
            fsyncs: difference(self.fsyncs, before.fsyncs),
        }
    }
}

impl Meter {
    pub(crate) fn new(pids: &[u32], metrics: &[String]) -> Self {
        let agent = Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build().into();
        Self { pids: pids.to_vec(), metrics: metrics.to_vec(), agent }
    }

    pub(crate) fn read(&self) -> Result<Usage, BenchError> {
        let processes = processes();
        let server_cpu_seconds =
            if self.pids.is_empty() { None } else { Some(tree_cpu(&processes, &self.pids)?) };
        let mut fsyncs = None;
        for url in &self.metrics {
            *fsyncs.get_or_insert(0.0) += self.scrape(url)?;
        }
        let driver = processes.get(&std::process::id()).map_or(0.0, |process| process.cpu_seconds);
        Ok(Usage { server_cpu_seconds, driver_cpu_seconds: driver, fsyncs })
    }

    fn scrape(&self, url: &str) -> Result<f64, BenchError> {
        let wrong = |error: String| BenchError::Option(format!("--metrics {url}: {error}"));
        let mut response = self.agent.get(url).call().map_err(|error| wrong(error.to_string()))?;
        let page = response.body_mut().with_config().limit(PAGE).read_to_string();
        let page = page.map_err(|error| wrong(error.to_string()))?;
        metric(&page, FSYNCS).ok_or_else(|| wrong(format!("has no {FSYNCS}")))
    }
}

/// The value of a metric without labels.
fn metric(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

struct Process {
    parent: u32,
    /// Its own and that of its children that have ended.
    cpu_seconds: f64,
}

fn processes() -> HashMap<u32, Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return HashMap::new() };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // It may have ended since; then its parent has its time.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parse(&stat)?))
        })
        .collect()
}

/// /proc/PID/stat: the name in parentheses may contain anything, so fields are counted from its end.
fn parse(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)? + field(16)? + field(17)?;
    Some(Process { parent: u32::try_from(field(4)?).ok()?, cpu_seconds: ticks as f64 / TICKS_PER_SECOND })
}

/// The processes and all their descendants.
fn tree_cpu(processes: &HashMap<u32, Process>, roots: &[u32]) -> Result<f64, BenchError> {
    if let Some(gone) = roots.iter().find(|root| !processes.contains_key(root)) {
        return Err(BenchError::Option(format!("--pid {gone}: there is no such process")));
    }
    let belongs = |pid: u32| {
        let ancestors = std::iter::successors(Some(pid), |pid| Some(processes.get(pid)?.parent));
        ancestors.take(64).any(|pid| roots.contains(&pid))
    };
    Ok(processes.iter().filter(|(pid, _)| belongs(**pid)).map(|(_, process)| process.cpu_seconds).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_a_name_with_parentheses_and_spaces() {
        let process = parse("7 (a ) b) S 3 7 7 0 -1 4194560 1 2 0 0 100 50 25 5 20 0 1 0").unwrap();
        assert_eq!(process.parent, 3);
        assert!((process.cpu_seconds - 1.8).abs() < 1e-9);
    }

    #[test]
    fn children_count_and_strangers_do_not() {
        let process = |parent| Process { parent, cpu_seconds: 1.0 };
        let processes = HashMap::from([
            (1, process(0)),
            (5, process(1)),
            (6, process(5)),
            (7, process(6)),
            (8, process(1)),
        ]);
        assert_eq!(tree_cpu(&processes, &[5]).unwrap(), 3.0);
        assert_eq!(tree_cpu(&processes, &[5, 6]).unwrap(), 3.0);
        assert!(tree_cpu(&processes, &[9]).is_err());
    }

    #[test]
    fn the_driver_sees_the_time_that_it_burns() {
        let meter = Meter::new(&[std::process::id()], &[]);
        let before = meter.read().unwrap();
        let begun = std::time::Instant::now();
        let mut sum = 0_u64;
        while begun.elapsed() < Duration::from_millis(200) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let used = meter.read().unwrap().since(&before);
        assert!(used.driver_cpu_seconds > 0.0);
        assert!(used.server_cpu_seconds.unwrap() >= used.driver_cpu_seconds);
    }

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let page = "# TYPE prickle_log_fsyncs_total counter\nprickle_log_fsyncs_total_x 3\nprickle_log_fsyncs_total 17\n";
        assert_eq!(metric(page, FSYNCS), Some(17.0));
        assert_eq!(metric("prickle_log_fsyncs_total_x 3", FSYNCS), None);
    }
}
