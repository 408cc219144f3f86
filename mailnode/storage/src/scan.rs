//! Reading groups from a segment file, whatever state it is in. Memory is bounded by the file's length.

use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::record::{Chain, GROUP_HEADER, GroupHeader, ITEM, Item, Record, SEGMENT_HEADER, SegmentHeader};
use std::sync::Arc;

const SEARCH_CHUNK: usize = 1 << 20;

/// A segment file as far as it can be read.
pub struct SegmentReader {
    pub number: u64,
    pub file: Arc<dyn DiskFile>,
    pub length: u64,
}

/// A group whose header and items are whole.
#[derive(Debug)]
pub struct Group {
    pub header: GroupHeader,
    pub end: u64,
    pub chain: Chain,
    pub items: Vec<PlacedItem>,
    metas: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
pub struct PlacedItem {
    pub item: Item,
    /// Of the body in the file.
    pub body_at: u64,
    meta_at: usize,
}

/// What is at an offset of a segment.
#[derive(Debug)]
pub enum Found {
    Group(Group),
    /// A group whose items cannot be read.
    Damaged {
        header: GroupHeader,
        end: u64,
    },
    /// No group starts here.
    Nothing,
}

impl SegmentReader {
    pub fn new(number: u64, file: Arc<dyn DiskFile>) -> Result<Self> {
        let length = file.length().map_err(Error::read)?;
        Ok(Self { number, file, length })
    }

    /// None if it was never written whole or is damaged.
    pub fn header(&self) -> Result<Option<SegmentHeader>> {
        let Some(bytes) = self.bytes::<SEGMENT_HEADER>(0)? else { return Ok(None) };
        Ok(SegmentHeader::parse(&bytes)?.filter(|header| header.number == self.number))
    }

    pub fn group(&self, offset: u64) -> Result<Found> {
        let Some(header) = self.group_header(offset)? else { return Ok(Found::Nothing) };
        let end = header.length().and_then(|length| offset.checked_add(length));
        let Some(end) = end.filter(|&end| end <= self.length) else {
            return Ok(Found::Damaged { header, end: self.length });
        };
        let tail_at = offset + GROUP_HEADER as u64 + header.bodies;
        let mut tail = vec![0; header.metas as usize + header.items_length() as usize];
        let read = self.file.read_at(tail_at, &mut tail).map_err(Error::read)?;
        let whole = read == tail.len();
        let chain = header.chain(&tail);
        let items_bytes = tail.split_off((header.metas as usize).min(tail.len()));
        if !whole || crc32c::crc32c(&items_bytes) != header.items_crc {
            return Ok(Found::Damaged { header, end });
        }
        let mut items = Vec::with_capacity(header.records as usize);
        let (mut meta_at, mut body_at) = (0, offset + GROUP_HEADER as u64);
        for bytes in items_bytes.chunks_exact(ITEM) {
            let Some(item) = Item::parse(bytes) else { return Ok(Found::Damaged { header, end }) };
            items.push(PlacedItem { item, body_at, meta_at });
            meta_at += item.meta_length as usize;
            body_at += u64::from(item.body_length);
        }
        if meta_at != tail.len() || body_at != tail_at {
            return Ok(Found::Damaged { header, end });
        }
        Ok(Found::Group(Group { header, end, chain, items, metas: tail }))
    }

    fn group_header(&self, offset: u64) -> Result<Option<GroupHeader>> {
        let bytes = self.bytes::<GROUP_HEADER>(offset)?;
        Ok(bytes.and_then(|bytes| GroupHeader::parse(&bytes, self.number, offset)))
    }

    /// Where the next group starts, at or after `from`, with a sequence of at least `sequence`.
    pub fn search(&self, from: u64, sequence: u64) -> Result<Option<u64>> {
        let mut at = from.next_multiple_of(8).max(SEGMENT_HEADER as u64);
        if at + (GROUP_HEADER as u64) > self.length {
            return Ok(None);
        }
        if self.group_header(at)?.is_some_and(|header| header.sequence >= sequence) {
            return Ok(Some(at));
        }
        let mut chunk = vec![0; SEARCH_CHUNK.min(self.length as usize).next_multiple_of(8)];
        while at + (GROUP_HEADER as u64) <= self.length {
            let read = self.file.read_at(at, &mut chunk).map_err(Error::read)?;
            for (step, word) in chunk.get(..read).unwrap_or_default().chunks(8).enumerate() {
                let offset = at + step as u64 * 8;
                if GroupHeader::starts_like(word)
                    && self.group_header(offset)?.is_some_and(|header| header.sequence >= sequence)
                {
                    return Ok(Some(offset));
                }
            }
            if read < chunk.len() {
                break;
            }
            at += read as u64;
        }
        Ok(None)
    }

    /// The body of a record; None if it is not what was written.
    pub fn body(&self, item: &PlacedItem) -> Result<Option<Vec<u8>>> {
        let mut body = vec![0; item.item.body_length as usize];
        let read = self.file.read_at(item.body_at, &mut body).map_err(Error::read)?;
        let right = read == body.len() && crc32c::crc32c(&body) == item.item.body_crc;
        Ok(right.then_some(body))
    }

    fn bytes<const N: usize>(&self, offset: u64) -> Result<Option<[u8; N]>> {
        if offset.checked_add(N as u64).is_none_or(|end| end > self.length) {
            return Ok(None);
        }
        let mut bytes = [0; N];
        let read = self.file.read_at(offset, &mut bytes).map_err(Error::read)?;
        Ok((read == N).then_some(bytes))
    }
}

impl Group {
    /// None if the meta is not what was written.
    ///
    /// # Errors
    /// If a newer version of Prickle wrote the record.
    pub fn record(&self, item: &PlacedItem) -> Result<Option<(Record, &[u8])>> {
        let end = item.meta_at + item.item.meta_length as usize;
        let meta = self.metas.get(item.meta_at..end).unwrap_or_default();
        if crc32c::crc32c(meta) != item.item.meta_crc {
            return Ok(None);
        }
        Ok(Record::decode(&item.item, meta)?.map(|record| (record, meta)))
    }
}
