//! Runs histories: `sim --seed 7` replays one with its trace, `sim --seeds 0..2000` runs many on all cores.

use clap::Parser;
use sim::history::{Options, Verdict, run};
use sim::trace::Print;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Deterministic simulation of whole Prickle clusters.
#[derive(Parser)]
struct Arguments {
    /// Replay this history and print what happens.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run these histories (`FROM..TO`, without TO), and say which fail.
    #[arg(long, value_parser = range)]
    seeds: Option<(u64, u64)>,
    /// Begin no new history after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Threads; default: one a core.
    #[arg(long)]
    threads: Option<usize>,
    /// With --seed: also print what the nodes log, by this filter (such as `mailnode=debug`).
    #[arg(long)]
    log: Option<String>,
    /// With --seed: also print the hash of every message.
    #[arg(long)]
    messages: bool,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let parts = text.split_once("..").ok_or("such as 0..1000")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok((number(parts.0)?, number(parts.1)?))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(filter) = &arguments.log {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_target(false).init();
    }
    match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => {
            let print = if arguments.messages { Print::Everything } else { Print::Told };
            let verdict = run(seed, Options { print, ..Options::default() });
            println!("{}; trace {}", verdict.summary, verdict.hash);
            report(&verdict)
        }
        (None, Some((from, to))) => many(from, to, &arguments),
        (None, None) => many(0, 100, &arguments),
    }
}

fn report(verdict: &Verdict) -> ExitCode {
    for violation in &verdict.violations {
        println!("seed {}: {violation}", verdict.seed);
    }
    if verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn many(from: u64, to: u64, arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    let limit = arguments.seconds.map(Duration::from_secs);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(from);
    let failed = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.unwrap_or(cores) {
            scope.spawn(|| {
                while limit.is_none_or(|limit| begun.elapsed() < limit) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let verdict = run(seed, Options::default());
                    done.fetch_add(1, Ordering::Relaxed);
                    if !verdict.violations.is_empty() {
                        report(&verdict);
                        println!("  {}", verdict.summary);
                        println!("  replay: cargo run --profile sim -p sim -- --seed {seed}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let (done, seconds) = (done.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
    let failed = failed.into_inner();
    println!(
        "{done} histories in {seconds:.1} s ({:.0} a minute), {failed} failed",
        done as f64 * 60.0 / seconds
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
