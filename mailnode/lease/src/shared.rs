//! Leases as JSON files in a directory that several processes of one machine share: `member-NAME.json` each,
//! and `coordinator.json`, whose compare-and-set happens under an advisory lock on `lock`.
//!
//! A file is replaced as a whole (written beside it, then renamed), so a reader never sees half of one. Nothing
//! is flushed: after a power cut all holders are gone, too. A file that cannot be understood is left out with a
//! warning; it is not ours to delete.

use crate::{CoordinatorLease, LeaseError, LeaseService, MemberLease};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Clone)]
pub struct SharedDirectory(Arc<PathBuf>);

const PREFIX: &str = "member-";
const SUFFIX: &str = ".json";

fn away(error: impl std::fmt::Display) -> LeaseError {
    LeaseError::Unavailable(error.to_string())
}

impl SharedDirectory {
    /// Makes the directory if it is not there.
    ///
    /// # Errors
    /// Of the file system.
    pub fn new(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self(Arc::new(directory.to_owned())))
    }

    fn member_file(&self, name: &str) -> PathBuf {
        self.0.join(format!("{PREFIX}{name}{SUFFIX}"))
    }

    fn coordinator_file(&self) -> PathBuf {
        self.0.join("coordinator.json")
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, LeaseError> {
        let me = self.clone();
        tokio::task::spawn_blocking(move || work(&me)).await.map_err(away)?.map_err(away)
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&beside, serde_json::to_vec_pretty(value)?)?;
    fs::rename(&beside, path)
}

/// None if there is no such file, or nothing that can be understood.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice(&text) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "not a Lease; left out");
            Ok(None)
        }
    }
}

impl LeaseService for SharedDirectory {
    async fn renew(&self, lease: &MemberLease) -> Result<(), LeaseError> {
        let lease = lease.clone();
        self.blocking(move |me| write(&me.member_file(&lease.name), &lease)).await
    }

    async fn members(&self) -> Result<Vec<MemberLease>, LeaseError> {
        self.blocking(|me| {
            let mut leases: Vec<MemberLease> = Vec::new();
            for file in fs::read_dir(&*me.0)? {
                let name = file?.file_name();
                let Some(name) = name.to_str() else { continue };
                let member = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
                let Some(member) = member else { continue };
                leases.extend(
                    read::<MemberLease>(&me.member_file(member))?.filter(|lease| lease.name == member),
                );
            }
            leases.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(leases)
        })
        .await
    }

    async fn release(&self, name: &str) -> Result<(), LeaseError> {
        let file = self.member_file(name);
        self.blocking(move |_| match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    async fn coordinator(&self) -> Result<Option<CoordinatorLease>, LeaseError> {
        self.blocking(|me| read(&me.coordinator_file())).await
    }

    async fn write_coordinator(&self, expected: u64, lease: CoordinatorLease) -> Result<(), LeaseError> {
        let written = self.blocking(move |me| {
            let lock = fs::File::create(me.0.join("lock"))?;
            lock.lock()?;
            let known: Option<CoordinatorLease> = read(&me.coordinator_file())?;
            if known.map_or(0, |known| known.version) != expected {
                return Ok(false);
            }
            write(&me.coordinator_file(), &CoordinatorLease { version: expected + 1, ..lease })?;
            Ok(true)
        });
        if written.await? { Ok(()) } else { Err(LeaseError::Conflict) }
    }
}
