//! `mailnode bench` without the node.

use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: bench::Options,
}

fn main() -> std::process::ExitCode {
    match bench::run(&Cli::parse().options) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
