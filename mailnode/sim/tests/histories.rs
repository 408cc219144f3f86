//! Histories that must hold, and that each seed is one history.

use sim::faults::Kinds;
use sim::history::{Options, Verdict, run};

fn assert_holds(verdict: &Verdict) {
    assert!(
        verdict.violations.is_empty(),
        "replay: cargo run --profile sim -p sim -- --seed {}\n{:?}\n{}",
        verdict.seed,
        verdict.violations,
        verdict.last.join("\n")
    );
}

#[test]
fn a_seed_is_one_history() {
    for seed in [11, 12] {
        let (one, two) = (run(seed, Options::default()), run(seed, Options::default()));
        assert_eq!(one.hash, two.hash, "seed {seed}: two runs differ");
        assert!(!one.hash.is_empty());
    }
    assert_ne!(run(11, Options::default()).hash, run(13, Options::default()).hash);
}

#[test]
fn without_faults_every_promise_is_kept() {
    for seed in 0..2 {
        assert_holds(&run(seed, Options { kinds: Some(Kinds::None), ..Options::default() }));
    }
}

#[test]
fn what_was_found_once_stays_fixed() {
    let seeds = include_str!("../regressions.txt").lines().filter(|line| !line.starts_with('#'));
    for line in seeds {
        let seed = line.split_whitespace().next().and_then(|word| word.parse().ok());
        assert_holds(&run(seed.unwrap_or_else(|| panic!("not a seed: {line}")), Options::default()));
    }
}
