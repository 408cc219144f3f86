//! A directory of a real file system.

use super::{Disk, DiskFile, Space};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// At most this many parts go into one system call (IOV_MAX on Linux).
const MOST_PARTS: usize = 1024;
const LOCK: &str = "lock";

/// Holds a lock on the directory, so that two processes never write to one log.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    directory: File,
    _lock: File,
}

impl FileDisk {
    /// Opens the directory, which is made if there is none.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        std::fs::create_dir_all(&path)?;
        let lock = OpenOptions::new().create(true).write(true).truncate(false).open(path.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => Error::new(
                ErrorKind::WouldBlock,
                format!("{} is in use by another process; stop it first", path.display()),
            ),
        })?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let directory = File::open(&path)?;
        Ok(Self { path, directory, _lock: lock })
    }
}

impl Disk for FileDisk {
    fn create(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn list(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for item in std::fs::read_dir(&self.path)? {
            let item = item?;
            if item.file_type()?.is_file()
                && let Ok(name) = item.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_directory(&self) -> Result<()> {
        self.directory.sync_all()
    }

    fn space(&self) -> Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.directory)?;
        // What is reserved for root counts as used.
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        Ok(Space {
            total: (used + stat.f_bavail).saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn length(&self) -> Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn write_at(&self, mut offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        let mut parts = parts.to_vec();
        let mut rest = &mut parts[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let written = match rustix::io::pwritev(&self.0, &rest[..rest.len().min(MOST_PARTS)], offset) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.0.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn read_now(&self, offset: u64, into: &mut [u8]) -> Option<Result<usize>> {
        let wanted = into.len();
        let parts = &mut [IoSliceMut::new(into)];
        match rustix::io::preadv2(&self.0, parts, offset, ReadWriteFlags::NOWAIT) {
            // Fewer bytes: the rest is not in memory, or the file ends; the slow way finds out.
            Ok(read) if read == wanted => Some(Ok(read)),
            _ => None,
        }
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.0.set_len(length)
    }

    fn sync(&self) -> Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_in_parts_read_back_and_listed() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(directory.path().join("log")).unwrap();
        let file = disk.create("a").unwrap();
        file.write_at(0, &[IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")]).unwrap();
        file.sync().unwrap();
        disk.sync_directory().unwrap();
        let mut bytes = [0; 16];
        assert_eq!(file.read_at(4, &mut bytes).unwrap(), 3);
        assert_eq!(&bytes[..3], b"two");
        file.truncate(3).unwrap();
        assert_eq!(disk.open("a").unwrap().length().unwrap(), 3);
        assert!(disk.create("a").is_err());
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        assert!(disk.space().unwrap().available > 0);
    }

    #[test]
    fn many_parts_arrive_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(directory.path()).unwrap();
        let file = disk.create("a").unwrap();
        let numbers: Vec<[u8; 2]> = (0..3_000u16).map(u16::to_be_bytes).collect();
        let parts: Vec<IoSlice<'_>> = numbers.iter().map(|number| IoSlice::new(number)).collect();
        file.write_at(5, &parts).unwrap();
        let mut bytes = vec![0; 6_000];
        assert_eq!(file.read_at(5, &mut bytes).unwrap(), 6_000);
        assert_eq!(bytes, numbers.concat());
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(directory.path()).unwrap();
        assert_eq!(FileDisk::open(directory.path()).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(disk);
        FileDisk::open(directory.path()).unwrap();
    }
}
