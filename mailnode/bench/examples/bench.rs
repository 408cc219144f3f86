//! `mailnode bench` without the node.

use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: bench::Options,
}

fn main() -> Result<(), bench::BenchError> {
    bench::run(&Cli::parse().options)
}
