//! How long a store takes to start: after a clean end, after the process was killed, and without its index.
//!
//! `cargo run --release -p storage --example restart [-- <directory> [entries]]`
//!
//! A child process fills the store (bodies of 1 KiB, 1,000 users) and aborts without closing it. The pages are in the file system's cache,
//! so this is the time of the program, not of the disk. Each start includes the digests that anti-entropy keeps in memory.

mod common;

use bytes::Bytes;
use cluster::{BlobId, NodeId};
use common::entry;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;
use storage::{Durability, FileDisk, FjallIndex, Options, Recovery, Store, Write};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CACHE: u64 = 64 << 20;
const BATCH: u64 = 500;

fn open(directory: &Path) -> Result<(Store, Recovery)> {
    let disk = FileDisk::open(directory.join("log"))?;
    let index = FjallIndex::open(directory.join("index"), CACHE)?;
    let options = Options { node: Some(NodeId(1)), ..Options::default() };
    Ok(Store::open(disk, index, options)?)
}

fn message(number: u64) -> [Write; 2] {
    let mut body = vec![(number % 251) as u8; 1_024];
    body[..8].copy_from_slice(&number.to_le_bytes());
    let (id, size) = (BlobId::of(&body), body.len() as u64);
    let entry = entry(number, 1_000, id, size);
    [Write::Blob { id, parts: Bytes::from(body) }, Write::Entry { entry, pending: Vec::new() }]
}

fn fill(directory: &Path, from: u64, to: u64) -> Result<Store> {
    let (store, _) = open(directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for first in (from..to).step_by(BATCH as usize) {
        let writes = (first..to.min(first + BATCH)).flat_map(message).collect();
        runtime.block_on(store.commit(writes, Durability::Synced))?;
    }
    Ok(store)
}

fn start(directory: &Path, what: &str) -> Result<Store> {
    let begun = Instant::now();
    let (store, recovery) = open(directory)?;
    println!(
        "| {what} | {:.2} | {} | {} | {} |",
        begun.elapsed().as_secs_f64(),
        recovery.groups_replayed,
        recovery.records_replayed,
        recovery.index_rebuilt
    );
    Ok(store)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let base = arguments.first().map_or_else(|| std::env::temp_dir().join("prickle-restart"), PathBuf::from);
    let entries: u64 = arguments.get(1).map_or(Ok(1_000_000), |text| text.parse())?;
    if arguments.get(2).is_some_and(|word| word == "fill") {
        let (from, to) = (arguments[3].parse()?, arguments[4].parse()?);
        let _store = fill(&base, from, to)?;
        std::process::abort();
    }
    if base.exists() {
        return Err(format!("{} is there already: name an empty place", base.display()).into());
    }
    std::fs::create_dir_all(&base)?;
    let child = |from: u64, to: u64| {
        let program = std::env::current_exe()?;
        std::process::Command::new(program)
            .args([
                base.display().to_string(),
                entries.to_string(),
                "fill".into(),
                from.to_string(),
                to.to_string(),
            ])
            .status()
    };
    child(0, entries)?;
    println!(
        "| start with {entries} entries | seconds | groups replayed | records replayed | index rebuilt |"
    );
    println!("| --- | --- | --- | --- | --- |");
    start(&base, "killed while it wrote")?.close();
    start(&base, "after a clean end")?.close();
    child(entries, entries + 20_000)?;
    start(&base, "killed after 20,000 more")?.close();
    std::fs::remove_dir_all(base.join("index"))?;
    start(&base, "without its index")?.close();
    std::fs::remove_dir_all(&base)?;
    Ok(())
}
