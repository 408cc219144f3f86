//! A node's log, read from its files while the node does not run. Nothing is changed.

use super::CliError;
use crate::disk::log_directory;
use crate::log_heads::Witness;
use clap::{Args, Subcommand};
use cluster::NodeId;
use rpc::pki::Certificate;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use storage::{Disk, FileDisk, Seen};

#[derive(Args)]
pub struct Where {
    /// The node's `dataDirectory`, or one that was put aside below it (`quarantined-...`, `outdated-...`).
    #[arg(long)]
    data: PathBuf,
}

#[derive(Subcommand)]
pub enum LogCommand {
    /// Check every record and the chain of hashes through all of them. Exit code 1 if anything is wrong.
    Verify {
        #[command(flatten)]
        at: Where,
        /// The node's certificate: then the signatures in the log are checked, too.
        #[arg(long, requires = "name")]
        certificate: Option<PathBuf>,
        /// The node's name.
        #[arg(long)]
        name: Option<String>,
    },
    /// Show the records, without bodies, keys and values: a line each.
    Dump {
        #[command(flatten)]
        at: Where,
        /// Begin with the group of this number.
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
}

fn open(data: &Path) -> Result<FileDisk, CliError> {
    let log = log_directory(data);
    let wrong = |error: &dyn std::fmt::Display| CliError(format!("{}: {error}", log.display()));
    if !log.is_dir() {
        return Err(wrong(&"there is no log here; name a node's dataDirectory"));
    }
    FileDisk::open(&log).map_err(|error| wrong(&error))
}

pub fn run(command: LogCommand) -> Result<(), CliError> {
    match command {
        LogCommand::Verify { at, certificate, name } => {
            let witness = match certificate {
                Some(file) => Some(witness(&file, name.as_deref().unwrap_or_default())?),
                None => None,
            };
            verify(&open(&at.data)?, witness)
        }
        LogCommand::Dump { at, from } => dump(&open(&at.data)?, from),
    }
}

fn witness(certificate: &Path, name: &str) -> Result<Witness, CliError> {
    let pem = rpc::pki::read_file(certificate).map_err(CliError::new)?;
    let wrong = |error| CliError::new(format!("{}: {error}", certificate.display()));
    Ok(Witness::new(Certificate::from_pem(&pem).map_err(wrong)?, NodeId::of_name(name)))
}

fn verify(disk: &impl Disk, mut witness: Option<Witness>) -> Result<(), CliError> {
    let mut watch = |seen: Seen<'_>| {
        if let Some(witness) = &mut witness {
            witness.see(seen);
        }
    };
    let found = storage::verify_files(disk, &mut watch).map_err(CliError::new)?;
    println!("segments         {:>14}", found.segments);
    println!("groups           {:>14}", found.groups);
    println!("records          {:>14}", found.records);
    println!("bytes            {:>14}", found.bytes);
    println!("corrupt records  {:>14}", found.corrupt_records);
    println!("wrong bodies     {:>14}", found.wrong_names);
    println!("broken links     {:>14}", found.broken_links);
    println!("torn bytes       {:>14}   at the end: cut off at the next start", found.torn_bytes);
    println!(
        "head             {:>14}   what peers compare with when the node starts",
        found.head.to_string()
    );
    let signed = witness.map(|witness| witness.found());
    if let Some(signed) = signed {
        println!("signatures       {:>14}   agree, up to group {}", signed.agree, signed.up_to);
        println!("contradicted     {:>14}", signed.contradicted);
        println!("by other keys    {:>14}   or damaged", signed.unknown);
        println!("of removed ones  {:>14}   groups that compaction has removed since", signed.removed);
    }
    let contradicted = signed.is_some_and(|signed| signed.contradicted > 0);
    if found.is_sound() && !contradicted {
        Ok(())
    } else {
        Err(CliError::new("the log is not what was written"))
    }
}

fn dump(disk: &impl Disk, from: u64) -> Result<(), CliError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut failure = None;
    let shown = storage::dump(disk, from, &mut |line| match writeln!(out, "{line}") {
        Ok(()) => true,
        Err(error) => {
            failure = Some(error);
            false
        }
    });
    shown.map_err(CliError::new)?;
    match failure.or_else(|| out.flush().err()) {
        // Who looks at the beginning only closes the pipe.
        Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::new(error)),
        _ => Ok(()),
    }
}
