//! This node's disk: which log it starts with.

use crate::clock::wall_seconds;
use crate::config::Config;
use crate::healing;
use crate::log_heads;
use crate::membership;
use crate::running::StartError;
use cluster::NodeId;
use lease::LeaseService;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use storage::{FileDisk, FjallIndex, Store};

/// Blocks of the index kept in memory, in bytes.
const INDEX_CACHE: u64 = 64 << 20;

/// Where the segments of the log are.
pub fn log_directory(data: &Path) -> PathBuf {
    data.join("log")
}

/// Opens this node's log, or an empty one in its place if what is there must not be used any more.
///
/// # Errors
/// Names what is wrong with the directory.
pub async fn open<L: LeaseService>(config: &Config, id: NodeId, leases: &L) -> Result<Store, StartError> {
    let directory = &config.data_directory;
    let lifetime = Duration::from_secs(config.healing.tombstone_lifetime_seconds);
    let options =
        storage::Options { node: Some(id), tombstone_lifetime: lifetime, ..config.storage.options() };
    let store = open_log(directory, options.clone())?;
    usable(store, id, lifetime, leases, |store, why| {
        store.close();
        drop(store);
        let aside = move_aside(directory, why)
            .map_err(|error| StartError(format!("dataDirectory: {}: {error}", directory.display())))?;
        tracing::warn!(aside = %aside.display(), "the old log is kept aside; remove it when nobody needs it");
        open_log(directory, options)
    })
    .await
}

/// This store, or if its log must not be used any more the empty one that `replace` gives for it, to be refilled by peers.
/// `replace` is told in one word why.
///
/// # Errors
/// Those of `replace`; and if it cannot be told whether the log may be used.
pub async fn usable<L: LeaseService>(
    store: Store,
    me: NodeId,
    lifetime: Duration,
    leases: &L,
    replace: impl FnOnce(Store, &str) -> Result<Store, StartError>,
) -> Result<Store, StartError> {
    let wrong = |error: &dyn std::fmt::Display| StartError::new("dataDirectory", error);
    if let Some(quarantine) = log_heads::is_to_be_put_aside(&store) {
        let store = replace(store, "quarantined")?;
        log_heads::note_history(&store, &quarantine).await.map_err(|error| wrong(&error))?;
        return Ok(store);
    }
    let view = membership::remembered(&store);
    let outdated = healing::outdated::check(&store, me, &view, lifetime, leases).await;
    if !outdated.map_err(|error| wrong(&error))? {
        return Ok(store);
    }
    tracing::error!(
        "this disk was away for longer than the tombstone lifetime and the cluster went on without it: it starts \
         empty and is refilled"
    );
    replace(store, "outdated")
}

fn open_log(directory: &Path, options: storage::Options) -> Result<Store, StartError> {
    let wrong = |error: &dyn std::fmt::Display| StartError::new("dataDirectory", error);
    std::fs::create_dir_all(directory)
        .map_err(|error| StartError(format!("dataDirectory: {}: {error}", directory.display())))?;
    let disk = FileDisk::open(log_directory(directory)).map_err(|error| wrong(&error))?;
    let index = FjallIndex::open(directory.join("index"), INDEX_CACHE).map_err(|error| wrong(&error))?;
    let (store, recovery) = Store::open(disk, index, options).map_err(|error| wrong(&error))?;
    tracing::info!(?recovery, "log recovered");
    Ok(store)
}

/// Moves log and index of a closed store out of the way; returns where they are.
fn move_aside(data: &Path, why: &str) -> io::Result<PathBuf> {
    let aside = data.join(format!("{why}-{}", wall_seconds()));
    std::fs::create_dir_all(&aside)?;
    for part in ["log", "index"] {
        if data.join(part).exists() {
            std::fs::rename(data.join(part), aside.join(part))?;
        }
    }
    std::fs::File::open(data)?.sync_all()?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_log_is_moved_aside_and_kept() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("log")).unwrap();
        std::fs::write(data.path().join("log/x"), b"mail").unwrap();
        let aside = move_aside(data.path(), "outdated").unwrap();
        assert!(!data.path().join("log").exists());
        assert_eq!(std::fs::read(aside.join("log/x")).unwrap(), b"mail");
    }
}
