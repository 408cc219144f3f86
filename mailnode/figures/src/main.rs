//! `figures`: makes the numbers of the papers' figures (`make figures` draws them).

use clap::Parser;
use figures::figures::{ALL, Size};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Parser)]
#[command(about = "Makes the numbers of the papers' figures from Prickle's own cores")]
struct Arguments {
    /// Where the CSV files go.
    #[arg(long, default_value = "docs/figures")]
    out: PathBuf,
    /// Everything follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Small clusters and short runs.
    #[arg(long)]
    quick: bool,
    /// Leave out clusters of more nodes than this.
    #[arg(long, default_value_t = 1_000)]
    largest: usize,
    /// Only these; all if none is named.
    names: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(unknown) = arguments.names.iter().find(|name| ALL.iter().all(|figure| figure.name != *name)) {
        let known: Vec<&str> = ALL.iter().map(|figure| figure.name).collect();
        eprintln!("no figure is called {unknown}; there are {}", known.join(", "));
        return ExitCode::FAILURE;
    }
    let size = if arguments.quick { Size::Quick } else { Size::Full { largest: arguments.largest } };
    for figure in ALL {
        if !arguments.names.is_empty() && !arguments.names.iter().any(|name| name == figure.name) {
            continue;
        }
        let begun = Instant::now();
        for (name, table) in (figure.make)(size, arguments.seed) {
            let path = arguments.out.join(format!("{name}.csv"));
            if let Err(error) = std::fs::write(&path, table.text()) {
                eprintln!("{} cannot be written: {error}", path.display());
                return ExitCode::FAILURE;
            }
            println!("{} after {:.1} s", path.display(), begun.elapsed().as_secs_f64());
        }
    }
    ExitCode::SUCCESS
}
