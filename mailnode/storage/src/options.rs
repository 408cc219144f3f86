//! Settings of a store, with defaults for a mail node.

use crate::staging::Due;
use cluster::NodeId;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where the time comes from: Unix seconds of the wall clock. A simulator brings its own.
#[derive(Clone)]
pub struct Clock(pub Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    pub fn system() -> Self {
        Self(Arc::new(|| {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
        }))
    }

    pub(crate) fn unix_seconds(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    /// Whose disk this is. An entry whose replica set does not name it is no copy: it is remembered like
    /// a tombstone, so that nobody's older version makes a copy of it again, and keeps no body. None: all are
    /// copies. Must not change in the life of an index.
    pub node: Option<NodeId>,
    /// A segment is closed when it would pass this many bytes. A larger batch gets a segment of its own.
    pub segment_bytes: u32,
    /// Largest body, in bytes.
    pub max_blob_bytes: u32,
    /// Commits wait for room when this many bytes are queued.
    pub queue_bytes: u32,
    /// Most bytes that one flush commits, unless one commit alone is larger.
    pub group_bytes: u32,
    /// Longest wait of a lazy commit for the flush of another.
    pub lazy_delay: Duration,
    /// How long a body lives that no live entry here refers to. At least an hour in production, and longer than
    /// a body may be on its way without its entry.
    pub lease: Duration,
    /// How long a MIME part lives that nobody renewed; then it goes to the trash.
    pub part_lease: Duration,
    /// How long a part is in the trash at least. Then it goes when the node says so ([`crate::Store::doomed`]).
    pub trash: Duration,
    /// How long a node may be away and still know what is gone (DESIGN 4): tombstones are kept half as long again.
    pub tombstone_lifetime: Duration,
    /// Time between two passes that drop what is due. At most half of `lease`.
    pub collect_interval: Duration,
    /// Segments with a smaller share alive, in percent, are rewritten.
    pub compact_below_percent: u8,
    /// Bytes a second that compaction reads, at most.
    pub compact_bytes_per_second: u32,
    /// True: a writer thread groups commits, and a maintenance thread compacts and collects. False: every call
    /// does its work in the caller's thread and maintenance happens when asked for, so that a simulator is
    /// deterministic.
    pub threads: bool,
    pub clock: Clock,
}

impl Options {
    /// Tombstones that are older (Unix seconds) are forgotten.
    pub(crate) fn forgotten_before(&self, now: u64) -> u64 {
        now.saturating_sub((self.tombstone_lifetime * 3 / 2).as_secs())
    }

    /// Versions of entries elsewhere that are older (Unix seconds) are told to nobody, if one of the replicas knows of them. A witness that
    /// was away for as long as it may be has the time to tell them; and a tombstone that came just after them is not forgotten yet,
    /// by any clock.
    pub(crate) fn witnessed_since(&self, now: u64) -> u64 {
        now.saturating_sub((self.tombstone_lifetime * 5 / 4).as_secs())
    }

    /// Ends of leases that begin now.
    pub(crate) fn due(&self, now: u64) -> Due {
        let after = |lease: Duration| now.saturating_add(lease.as_secs()).max(1);
        Due { body: after(self.lease), part: after(self.part_lease) }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node: None,
            segment_bytes: 64 << 20,
            max_blob_bytes: 128 << 20,
            queue_bytes: 64 << 20,
            group_bytes: 8 << 20,
            lazy_delay: Duration::from_millis(100),
            lease: Duration::from_secs(48 * 3600),
            part_lease: Duration::from_secs(3 * 24 * 3600),
            trash: Duration::from_secs(7 * 24 * 3600),
            tombstone_lifetime: Duration::from_secs(7 * 24 * 3600),
            collect_interval: Duration::from_secs(6 * 3600),
            compact_below_percent: 50,
            compact_bytes_per_second: 32 << 20,
            threads: true,
            clock: Clock::system(),
        }
    }
}
