//! A log as a person reads it, from the files alone: nothing is opened for writing, no index is needed. Bodies, keys
//! and the values of records are not shown: they are secret, or long.

use crate::error::{Error, Result};
use crate::record::{Record, SEGMENT_HEADER};
use crate::scan::{Found, Group, PlacedItem, SegmentReader};
use crate::segments::{file_name, parse_file_name};
use crate::{disk::Disk, heads::Head};
use cluster::BlobKind;
use std::fmt::Write;

/// The numbers of a log's segments, ascending.
pub fn numbers(disk: &dyn Disk) -> Result<Vec<u64>> {
    let names = disk.list().map_err(Error::read)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| parse_file_name(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Shows each line of the log from a group on, until `show` says false.
///
/// # Errors
/// If the disk fails, or a newer version of Prickle wrote it. What is damaged is a line.
pub fn dump(disk: &dyn Disk, from: u64, show: &mut dyn FnMut(&str) -> bool) -> Result<()> {
    for number in numbers(disk)? {
        let reader = SegmentReader::new(number, disk.open(&file_name(number)).map_err(Error::read)?)?;
        if !show(&format!("segment {number} of {} bytes", reader.length)) {
            return Ok(());
        }
        let mut offset = SEGMENT_HEADER as u64;
        while offset < reader.length {
            match reader.group(offset)? {
                Found::Group(group) => {
                    if group.header.sequence >= from && !shown(&group, offset, show)? {
                        return Ok(());
                    }
                    offset = group.end;
                }
                _ => {
                    let next = reader.search(offset + 8, 0)?;
                    let end = next.unwrap_or(reader.length);
                    if !show(&format!("  {} bytes at {offset} are no group", end - offset)) {
                        return Ok(());
                    }
                    offset = end;
                }
            }
        }
    }
    Ok(())
}

fn shown(group: &Group, offset: u64, show: &mut dyn FnMut(&str) -> bool) -> Result<bool> {
    let header = &group.header;
    let head = Head { sequence: header.sequence, chain: group.chain };
    let line = format!("  group {head} at {offset}, time {}, {} records", header.time, header.records);
    if !show(&line) {
        return Ok(false);
    }
    for item in &group.items {
        if !show(&format!("    {}", described(group, item)?)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn described(group: &Group, item: &PlacedItem) -> Result<String> {
    let Some((record, _)) = group.record(item)? else { return Ok("damaged record".into()) };
    Ok(match record {
        Record::Blob(id, BlobKind::Body) => format!("body {id:?} of {} bytes", item.item.body_length),
        Record::Blob(id, BlobKind::Part) => format!("part {id:?} of {} bytes", item.item.body_length),
        Record::Blob(id, BlobKind::Manifest(parts)) => {
            format!("body {id:?} of {} bytes, without its parts {parts:?}", item.item.body_length)
        }
        Record::Leases(ids) => format!("leases of {} parts", ids.len()),
        Record::Entry(record) => {
            let entry = record.entry;
            let mut line = format!("entry {} of {}, {} bytes", entry.id, entry.user, entry.blob.size);
            let _ = match entry.expunged {
                Some(at) => write!(line, ", expunged at {}", at.unix_millis()),
                None => write!(line, ", folder {}, body {:?}", entry.location.folder.0, entry.blob.id),
            };
            if let Some(uid) = entry.location.uid {
                let _ = write!(line, ", UID {}", uid.number);
            }
            let flags = entry.flags.iter().filter(|(_, register)| register.value).map(|(flag, _)| flag);
            let flags: Vec<String> = flags.map(|flag| format!("{flag:?}")).collect();
            let _ = write!(line, ", flags [{}], on {:?}", flags.join(" "), entry.replicas.value);
            if !record.pending.is_empty() {
                let _ = write!(line, ", waited for by {:?}", record.pending);
            }
            line
        }
        Record::Retire(record) => format!("retire {} entries for {}", record.entries.len(), record.peer),
        Record::Forget(record) => format!("forget entry {} of {}", record.entry, record.user),
        Record::Value(record) => {
            let key = String::from_utf8_lossy(&record.key).escape_debug().to_string();
            match record.value {
                Some(value) => format!("value of {key:?}, {} bytes", value.len()),
                None => format!("value of {key:?} removed"),
            }
        }
        Record::Removed(record) => {
            let head = Head { sequence: record.sequence, chain: record.chain };
            format!("segment {} compacted away, it ended with group {head}", record.segment)
        }
        Record::Skipped => "record of a newer version, which may be skipped".into(),
    })
}
