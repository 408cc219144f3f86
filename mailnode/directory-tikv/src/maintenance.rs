//! What nothing else does in a cluster of TiKV alone: locks of clients that died are resolved, TiKV's safe point
//! moves (so that it collects old versions), tombstones of ours are removed after a week. One node calls
//! [`Tikv::maintain`] every few minutes; two at once do no harm.

use crate::database::{PAGE, Tikv};
use crate::session::{CallError, options};
use crate::stored::Stored;
use directory::DatabaseError;
use std::time::Duration;
use tikv_client::transaction::ResolveLocksOptions;
use tikv_client::{KvPair, Timestamp};
use tokio::time::{Instant, timeout_at};

/// Older versions than that are not read by anybody: the longest operation takes 60 seconds.
const SAFE_POINT: Duration = Duration::from_secs(10 * 60);
/// No writer remembers a version from before the deletion for so long.
const TOMBSTONES: Duration = Duration::from_secs(7 * 24 * 3600);
/// One call.
const LIMIT: Duration = Duration::from_secs(60);
/// Pages of records looked at in one call; the next call goes on after them.
const PAGES: usize = 40;

/// What a call did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintained {
    /// The safe point of TiKV was moved by this call; false if it already was further on, or is not ours to move.
    pub safe_point_moved: bool,
    pub tombstones: usize,
}

/// Where the search for tombstones is.
#[derive(Debug, Default)]
pub struct Position(Vec<u8>);

impl Tikv {
    /// Resolves dead locks, moves the safe point, removes old tombstones in the next stretch of keys. Takes 60
    /// seconds at most.
    ///
    /// # Errors
    /// If TiKV does not answer in time; what was done stays done.
    pub async fn maintain(&self, position: &mut Position) -> Result<Maintained, DatabaseError> {
        let deadline = Instant::now() + LIMIT;
        match timeout_at(deadline, self.try_maintain(position, deadline, SAFE_POINT, TOMBSTONES)).await {
            Ok(outcome) => outcome.map_err(|error| DatabaseError::Unavailable(error.to_string())),
            Err(_) => Err(DatabaseError::Unavailable("TiKV does not answer in time".into())),
        }
    }

    /// With other ages, for tests.
    #[doc(hidden)]
    pub async fn maintain_with(
        &self,
        position: &mut Position,
        safe_point: Duration,
        tombstones: Duration,
    ) -> Result<Maintained, DatabaseError> {
        let deadline = Instant::now() + LIMIT;
        let outcome = self.try_maintain(position, deadline, safe_point, tombstones).await;
        outcome.map_err(|error| DatabaseError::Unavailable(error.to_string()))
    }

    async fn try_maintain(
        &self,
        position: &mut Position,
        deadline: Instant,
        safe_point: Duration,
        tombstones: Duration,
    ) -> Result<Maintained, CallError> {
        let client = self.session.client(deadline).await?;
        let now = self.session.bounded(deadline, client.current_timestamp()).await?;
        let before = Timestamp { physical: now.physical - millis(safe_point), ..now.clone() };
        let failed = |error: tikv_client::Error| CallError::Away(crate::session::kind(&error));
        let safe_point_moved = if self.session.config().collect {
            // Resolves all locks first, everywhere: nothing may be below the safe point.
            client.gc(before).await.map_err(failed)?
        } else {
            let ours = self.session.names.all();
            client.cleanup_locks(ours, &before, ResolveLocksOptions::default()).await.map_err(failed)?;
            false
        };
        let tombstones = self.remove_tombstones(position, deadline, &now, millis(tombstones)).await?;
        Ok(Maintained { safe_point_moved, tombstones })
    }

    async fn remove_tombstones(
        &self,
        position: &mut Position,
        deadline: Instant,
        now: &Timestamp,
        age: i64,
    ) -> Result<usize, CallError> {
        let oldest = u64::try_from(now.physical - age).unwrap_or_default();
        let mut removed = 0;
        for _ in 0..PAGES {
            let mut range = self.session.names.all();
            range.start = range.start.max(std::mem::take(&mut position.0));
            let page = self.page(range, now, deadline).await?;
            for KvPair(name, bytes) in &page {
                let old = |stored: &Stored| stored.value.is_none() && stored.millis < oldest;
                let is_record = self.session.names.parse(name.into()).is_some();
                if is_record
                    && let Ok(stored) = Stored::decode(&bytes.clone().into())
                    && old(&stored)
                {
                    removed += usize::from(self.remove(name.into(), &stored, deadline).await?);
                }
            }
            match page.last() {
                Some(last) if page.len() >= PAGE as usize => {
                    position.0 = last.key().clone().into();
                    position.0.push(0);
                }
                _ => return Ok(removed),
            }
        }
        Ok(removed)
    }

    /// False if it was written again meanwhile. What is not known to have been removed is looked at the next time.
    async fn remove(&self, name: &[u8], tombstone: &Stored, deadline: Instant) -> Result<bool, CallError> {
        let client = self.session.client(deadline).await?;
        let mut transaction = self.session.bounded(deadline, client.begin_with_options(options())).await?;
        let current = self.session.bounded(deadline, transaction.get(name.to_vec())).await?;
        if current.as_deref() != Some(&tombstone.encode()[..]) {
            return Ok(false);
        }
        self.session.bounded(deadline, transaction.delete(name.to_vec())).await?;
        match self.session.bounded(deadline, transaction.commit()).await {
            Ok(_) => Ok(true),
            Err(CallError::Refused) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}
