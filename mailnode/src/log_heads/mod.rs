//! Peers remember the newest head of each other's logs (DESIGN 7; POST's single-writer logs), so that a disk that was
//! rolled back, cut, forked or altered is found before it serves anything.
//!
//! - A node signs the head of its log, with the key of its certificate, and gives it to a few peers, which keep it.
//!   Only the node itself can sign it, and it believes only what it signed: a lying peer can withhold a head, not
//!   invent one.
//! - At its start it asks everybody for its own heads, and does nothing else before ([`admission`]). If its log is not
//!   what it signed, the log is put into *quarantine*: the node notes why, and starts again with an empty log that its
//!   peers refill. The old one is kept aside for people.
//! - A log has an id. An empty disk gets a new one, and tells peers before it is used, so that an older log that turns
//!   up again under the same node's name is known.
//! - While no peer is in service nothing is put aside: when a whole cluster lost the end of its logs (a power cut, and
//!   disks that lie), what is left is better than nothing. It is said, and counted.
//!
//! What peers keep is soft to a degree: newest heads are in memory, and written down every few minutes. What a node wrote
//! in the seconds since it last gave away its head can be rolled back unseen; comparison with the peers repairs it then.

mod admission;
mod keeping;
mod signed;
mod witness;

pub use admission::admit;
pub use keeping::{Kept, announce, sign_down};
pub use signed::{LogId, SignedHead, Signer};
pub use witness::{Witness, Witnessed};

use crate::locking::lock;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use storage::{Durability, Store, Write};
use tokio::sync::watch;

/// Why this log is not to be used any more.
const QUARANTINE_KEY: &[u8] = b"\xff\xffquarantine";
/// In the log that came after it: why, and when.
const HISTORY_KEY: &[u8] = b"\xff\xffquarantined";

/// A log that was put aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantine {
    pub reason: String,
    /// Unix seconds.
    pub at: i64,
}

/// One node's part in it.
pub struct LogHeads {
    signer: Arc<dyn Signer>,
    log: OnceLock<LogId>,
    /// False until the log was compared with what peers remember: until then nobody is served.
    open: AtomicBool,
    quarantined: watch::Sender<bool>,
    /// What came before this log.
    history: Option<Quarantine>,
    kept: Mutex<Kept>,
}

impl LogHeads {
    pub fn new(signer: Arc<dyn Signer>, store: &Store) -> Self {
        Self {
            signer,
            log: OnceLock::new(),
            open: AtomicBool::new(false),
            quarantined: watch::Sender::new(false),
            history: noted(store, HISTORY_KEY),
            kept: Mutex::new(Kept::remembered(store)),
        }
    }

    /// May peers be served?
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// The last log of this node that was put aside.
    pub const fn history(&self) -> Option<&Quarantine> {
        self.history.as_ref()
    }

    pub fn is_quarantined(&self) -> bool {
        *self.quarantined.borrow()
    }

    /// Resolves when this log is not to be used any more: the node is to be started again.
    pub async fn quarantined(&self) {
        let _ = self.quarantined.subscribe().wait_for(|quarantined| *quarantined).await;
    }
}

fn noted(store: &Store, key: &[u8]) -> Option<Quarantine> {
    let bytes = store.record(key).ok()??;
    postcard::from_bytes(&bytes).ok()
}

/// Why the log of this store is not to be used, if an earlier life said so.
pub fn is_to_be_put_aside(store: &Store) -> Option<Quarantine> {
    noted(store, QUARANTINE_KEY)
}

/// Notes in a new log why the one before was put aside.
///
/// # Errors
/// If the disk fails.
pub async fn note_history(store: &Store, quarantine: &Quarantine) -> storage::Result<()> {
    note(store, HISTORY_KEY, quarantine).await
}

async fn note(store: &Store, key: &[u8], quarantine: &Quarantine) -> storage::Result<()> {
    let value = postcard::to_stdvec(quarantine).unwrap_or_default();
    let record = Write::Record { key: key.to_vec(), value: Some(value.into()) };
    store.commit(vec![record], Durability::Synced).await.map(|_| ())
}
