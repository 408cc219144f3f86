//! The head of the chain: how much of a log there is, in 40 bytes. Others remember it, so that a log that was rolled
//! back, cut, forked or altered is found when it is compared with what they saw (DESIGN 7; POST's single-writer logs).

use crate::error::{Error, Result};
use crate::record::Chain;
use crate::scan::{Found, SegmentReader};
use crate::shared::Shared;
use crate::{disk::Disk, record::SEGMENT_HEADER, segments::file_name};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The last group of a log that is on disk. `sequence` 0: nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub sequence: u64,
    pub chain: Chain,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.sequence)?;
        self.chain.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a log is, seen from a head that somebody remembers of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It has that group, and so all before.
    Contains,
    /// It ends before: it was rolled back or cut.
    Shorter,
    /// It has another group there: it was altered, or went on from an older state.
    Other,
    /// The group was compacted away, or cannot be read.
    Unknown,
}

pub fn head(shared: &Shared) -> Head {
    let writer = shared.writer();
    Head { sequence: writer.sequence.saturating_sub(1), chain: writer.chain }
}

pub fn compare(shared: &Shared, remembered: Head) -> Result<Comparison> {
    if remembered.sequence == 0 {
        return Ok(Comparison::Contains);
    }
    let _alone = shared.maintenance();
    let now = head(shared);
    if remembered.sequence > now.sequence {
        return Ok(Comparison::Shorter);
    }
    let found = if remembered.sequence == now.sequence {
        Some(now.chain)
    } else {
        chain_at(&*shared.disk, &shared.segments.numbers(), remembered.sequence)?
    };
    Ok(match found {
        Some(chain) if chain == remembered.chain => Comparison::Contains,
        Some(_) => Comparison::Other,
        None => Comparison::Unknown,
    })
}

/// The chain up to a group that is not the last one.
fn chain_at(disk: &dyn Disk, segments: &[u64], sequence: u64) -> Result<Option<Chain>> {
    for &number in segments.iter().rev() {
        let reader = SegmentReader::new(number, disk.open(&file_name(number)).map_err(Error::read)?)?;
        let Some(header) = reader.header()? else { continue };
        if header.sequence == sequence + 1 {
            return Ok(Some(header.previous));
        }
        if header.sequence > sequence {
            continue;
        }
        let mut offset = SEGMENT_HEADER as u64;
        while let Found::Group(group) = reader.group(offset)? {
            if group.header.sequence == sequence {
                return Ok(Some(group.chain));
            }
            offset = group.end;
        }
        return Ok(None);
    }
    Ok(None)
}
