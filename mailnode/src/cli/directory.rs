//! All accounts in a file of JSON lines, out of a cluster and into one, whatever user database it has; and checks.
//!
//! Everything goes through the admin API of one node. An import may be cut off and repeated.

use super::CliError;
use super::client::{Client, escape};
use crate::admin::transfer::{LINES, Lines, Outcome, Page, Report};
use clap::Subcommand;
use directory::accounts::transfer::{Counts, FORMAT, Header, Line};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A line of a file: an account's record has at most 256 KiB, which are more as JSON.
const LINE: u64 = 4 * 1024 * 1024;
/// Bytes of lines in one request, about.
const BATCH: usize = 1024 * 1024;
/// How often what failed for now is tried again, and how long it is waited for before.
const TRIES: u32 = 15;
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Subcommand)]
pub enum DirectoryCommand {
    /// Write all domains, aliases and accounts as JSON lines. Password hashes are among them: keep the file secret.
    Export {
        /// A new file, readable to its owner only; standard output if absent.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Make the domains, aliases and accounts of a file. Nothing that is there is changed; may be repeated.
    Import {
        /// `-` is standard input.
        file: PathBuf,
    },
    /// Look at all records and say what does not fit together; with a file, also what differs from it.
    Check { file: Option<PathBuf> },
}

pub fn run(client: &Client, command: DirectoryCommand) -> Result<(), CliError> {
    match command {
        DirectoryCommand::Export { out: None } => export(client, std::io::stdout().lock()),
        DirectoryCommand::Export { out: Some(path) } => {
            let wrong = |error| CliError::new(format!("{}: {error}", path.display()));
            let file = File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(wrong)?;
            let done = export(client, &file).and_then(|()| file.sync_all().map_err(wrong));
            if done.is_err() {
                // Half an export is of no use to anybody.
                let _ = std::fs::remove_file(&path);
            }
            done
        }
        DirectoryCommand::Import { file } => import(client, &file),
        DirectoryCommand::Check { file } => check(client, file.as_deref()),
    }
}

fn export(client: &Client, out: impl Write) -> Result<(), CliError> {
    let mut out = BufWriter::new(out);
    let mut write = |line: &Line| -> Result<(), CliError> {
        serde_json::to_writer(&mut out, line).map_err(CliError::new)?;
        out.write_all(b"\n").map_err(CliError::new)
    };
    let mut counts = Counts::default();
    write(&Line::Header(Header { format: FORMAT }))?;
    let mut from = String::new();
    loop {
        let page: Page = client.get(&format!("/v1/directory/export?from={}", escape(&from)))?;
        for line in &page.lines {
            counts.add(line);
            write(line)?;
        }
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    write(&Line::End(counts))?;
    out.flush().map_err(CliError::new)?;
    eprintln!("{counts}");
    Ok(())
}

/// Reads a file of lines, each checked, header first and end last.
struct Reader<R> {
    input: R,
    number: usize,
    counts: Counts,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    const fn new(input: R) -> Self {
        Self { input, number: 0, counts: Counts { domains: 0, aliases: 0, lists: 0, users: 0 }, ended: false }
    }

    fn wrong(&self, what: impl std::fmt::Display) -> CliError {
        CliError::new(format!("line {}: {what}", self.number))
    }

    /// The next record with its length. None at the end, which must be there.
    fn next(&mut self) -> Result<Option<(Line, usize)>, CliError> {
        loop {
            let mut text = Vec::new();
            self.number += 1;
            let read = (&mut self.input).take(LINE).read_until(b'\n', &mut text).map_err(CliError::new)?;
            if read == 0 && self.ended {
                return Ok(None);
            }
            if read == 0 {
                return Err(self.wrong("the file was cut off: its end is missing"));
            }
            if text.last() != Some(&b'\n') && read as u64 == LINE {
                return Err(self.wrong("too long"));
            }
            // Not the parser's own text: it could show a password hash.
            let line: Line = serde_json::from_slice(&text)
                .map_err(|error| self.wrong(format!("not understood at column {}", error.column())))?;
            match (&line, self.number) {
                _ if self.ended => return Err(self.wrong("something follows the end")),
                (Line::Header(Header { format: FORMAT }), 1) => {}
                (Line::Header(Header { format }), 1) => {
                    return Err(self.wrong(format!("format {format}; this program knows {FORMAT}")));
                }
                (_, 1) => return Err(self.wrong("the header is missing")),
                (Line::Header(_), _) => return Err(self.wrong("a second header")),
                (Line::End(counts), _) if *counts == self.counts => self.ended = true,
                (Line::End(counts), _) => {
                    let found = self.counts;
                    return Err(self.wrong(format!("there should be {counts}, there are {found}")));
                }
                _ => {
                    self.counts.add(&line);
                    return Ok(Some((line, text.len())));
                }
            }
        }
    }
}

/// Hands all records of a file over in batches, those of one kind at a time: domains must be there before what is
/// in them. What fails for now is tried again.
fn each_batch(
    client: &Client,
    path: &str,
    file: &Path,
    mut told: impl FnMut(&Line, &Outcome),
) -> Result<Counts, CliError> {
    let input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        let wrong = |error| CliError::new(format!("{}: {error}", file.display()));
        Box::new(File::open(file).map_err(wrong)?)
    };
    let mut reader = Reader::new(BufReader::new(input));
    let (mut batch, mut bytes) = (Vec::new(), 0);
    loop {
        let next = reader.next()?;
        let last_of_kind = match (&next, batch.last()) {
            (Some((line, _)), Some(before)) => std::mem::discriminant(line) != std::mem::discriminant(before),
            _ => next.is_none(),
        };
        if last_of_kind || batch.len() >= LINES || bytes >= BATCH {
            send(client, path, std::mem::take(&mut batch), &mut told)?;
            bytes = 0;
        }
        let Some((line, length)) = next else { return Ok(reader.counts) };
        batch.push(line);
        bytes += length;
    }
}

fn send(
    client: &Client,
    path: &str,
    mut lines: Vec<Line>,
    told: &mut impl FnMut(&Line, &Outcome),
) -> Result<(), CliError> {
    for tried in 1.. {
        if lines.is_empty() {
            break;
        }
        let outcomes: Vec<Outcome> = client.ask("POST", path, &Lines { lines: lines.clone() })?;
        if outcomes.len() != lines.len() {
            return Err(CliError::new("the node did not answer for each line"));
        }
        let mut again = Vec::new();
        for (line, outcome) in lines.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Temporary(reason) if tried >= TRIES => {
                    let name = line.name();
                    return Err(CliError::new(format!(
                        "{name}: {reason}; repeat it, nothing is lost by that"
                    )));
                }
                Outcome::Temporary(_) => again.push(line),
                outcome => told(&line, &outcome),
            }
        }
        lines = again;
        if !lines.is_empty() {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

fn import(client: &Client, file: &Path) -> Result<(), CliError> {
    let (mut made, mut present, mut refused) = (0_u64, 0_u64, 0_u64);
    let counts = each_batch(client, "/v1/directory/import", file, |line, outcome| match outcome {
        Outcome::Made => made += 1,
        Outcome::Present => present += 1,
        Outcome::Refused(reason) | Outcome::Temporary(reason) => {
            refused += 1;
            eprintln!("{}: {reason}", line.name());
        }
    })?;
    println!("{counts}: {made} made, {present} there already, {refused} refused");
    if refused > 0 { Err(CliError::new(format!("{refused} lines were refused"))) } else { Ok(()) }
}

fn check(client: &Client, file: Option<&Path>) -> Result<(), CliError> {
    let (mut records, mut problems) = (0, 0_u64);
    let mut from = String::new();
    loop {
        let page: Report = client.get(&format!("/v1/directory/check?from={}", escape(&from)))?;
        records += page.records;
        problems += page.problems.len() as u64;
        page.problems.iter().for_each(|found| println!("{}: {}", found.record, found.problem));
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    println!("{records} records looked at, {problems} problems");
    if let Some(file) = file {
        let mut differences = 0_u64;
        let counts = each_batch(client, "/v1/directory/compare", file, |line, outcome| {
            if let Outcome::Refused(reason) = outcome {
                differences += 1;
                println!("{}: {reason}", line.name());
            }
        })?;
        println!("{counts} compared, {differences} differ");
        problems += differences;
    }
    if problems > 0 { Err(CliError::new(format!("{problems} problems"))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<usize, String> {
        let mut reader = Reader::new(text.as_bytes());
        let mut count = 0;
        while reader.next().map_err(|error| error.to_string())?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    const HEADER: &str = "{\"header\":{\"format\":3}}\n";
    const DOMAIN: &str = "{\"domain\":{\"name\":\"example.org\"}}\n";
    const END: &str = "{\"end\":{\"domains\":1,\"aliases\":0,\"lists\":0,\"users\":0}}\n";

    #[test]
    fn a_file_has_its_header_its_end_and_all_that_was_counted() {
        assert_eq!(read(&[HEADER, DOMAIN, END].concat()), Ok(1));
        let refused = |parts: &[&str]| read(&parts.concat()).unwrap_err();
        assert!(refused(&[DOMAIN, END]).contains("line 1: the header"));
        assert!(refused(&[HEADER, DOMAIN]).contains("line 3: the file was cut off"));
        assert!(refused(&[HEADER, DOMAIN, DOMAIN, END]).contains("there are 2 domains"));
        assert!(refused(&[HEADER, DOMAIN, END, DOMAIN]).contains("follows the end"));
        assert!(refused(&[HEADER, DOMAIN, HEADER, END]).contains("second header"));
        assert!(refused(&["{\"header\":{\"format\":4}}\n", END]).contains("format 4"));
        assert!(refused(&[""]).contains("cut off"));
    }

    #[test]
    fn what_is_not_understood_is_told_without_showing_it() {
        let secret = "{\"user\":{\"credentials\":{\"Password\":\"$argon2id$hash\"},\"id\":5}}\n";
        let refused = read(&[HEADER, secret].concat()).unwrap_err();
        assert!(refused.contains("line 2") && !refused.contains("argon2"), "{refused}");
        let long = "x".repeat(LINE as usize + 1);
        assert!(read(&[HEADER, &long].concat()).unwrap_err().contains("too long"));
    }
}
