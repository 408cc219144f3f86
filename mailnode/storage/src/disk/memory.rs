//! A disk in memory that crashes, tears, flips and fills up on demand, from a seed.

use super::{Disk, DiskFile, Space};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a crash leaves of the bytes that were written and not synced, and of names not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Nothing.
    LoseUnsynced,
    /// All: only the process died.
    KeepAll,
    /// Of each file's unsynced writes a random part: whole ones, the beginning of one, or later ones without
    /// earlier ones, as a disk that reorders does.
    Tear { seed: u64 },
}

/// An injected failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This call of write, sync, create, rename, remove or sync_directory (counted from 0 since the disk was
    /// made) and all later ones fail: the machine is going down. Of a write that fails half is done.
    DownAt(u64),
    /// This sync fails once; later ones claim success, as kernels do.
    SyncAt(u64),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// Unsynced writes and truncations, in order.
    journal: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, part: usize) {
        match self {
            Self::Write(offset, data) => {
                let (offset, data) = (*offset as usize, &data[..part.min(data.len())]);
                if bytes.len() < offset + data.len() {
                    bytes.resize(offset + data.len(), 0);
                }
                bytes[offset..offset + data.len()].copy_from_slice(data);
            }
            Self::Truncate(length) => bytes.truncate(*length as usize),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    calls: u64,
    fault: Option<Fault>,
    capacity: Option<u64>,
}

impl State {
    /// Counts a call that changes the disk.
    fn step(&mut self, is_sync: bool) -> Result<()> {
        let call = self.calls;
        self.calls += 1;
        match self.fault {
            Some(Fault::DownAt(at)) if call >= at => Err(Error::other("injected: the disk is down")),
            Some(Fault::SyncAt(at)) if call == at && is_sync => Err(Error::other("injected: sync failed")),
            _ => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|&inode| self.inodes[inode].now.len() as u64).sum()
    }
}

/// Clones are one disk. See [`MemoryDisk::after`] for what a crash leaves.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

impl MemoryDisk {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as the next process finds it. This one goes on as before.
    pub fn after(&self, crash: Crash) -> Self {
        let state = self.lock();
        let mut random = match crash {
            Crash::Tear { seed } => seed,
            _ => 0,
        };
        let names = match crash {
            Crash::KeepAll => state.names.clone(),
            Crash::Tear { .. } if next(&mut random) & 1 == 0 => state.names.clone(),
            _ => state.durable_names.clone(),
        };
        let survive = |inode: &Inode| {
            let mut bytes = inode.durable.clone();
            match crash {
                Crash::LoseUnsynced => {}
                Crash::KeepAll => bytes.clone_from(&inode.now),
                Crash::Tear { .. } => {
                    for change in &inode.journal {
                        match (next(&mut random) % 4, change) {
                            (0, _) => {}
                            (1, Change::Write(_, data)) => {
                                change.apply(&mut bytes, next(&mut random) as usize % (data.len() + 1));
                            }
                            _ => change.apply(&mut bytes, usize::MAX),
                        }
                    }
                }
            }
            Inode { durable: bytes.clone(), now: bytes, journal: Vec::new() }
        };
        let state = State {
            inodes: state.inodes.iter().map(survive).collect(),
            names: names.clone(),
            durable_names: names,
            capacity: state.capacity,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Calls so far that changed the disk.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    pub fn inject(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// Writes that would make all files together longer fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Flips one bit of a file. False if there is no such byte.
    pub fn flip(&self, name: &str, offset: u64, bit: u8) -> bool {
        let mut state = self.lock();
        let Some(&inode) = state.names.get(name) else { return false };
        let inode = &mut state.inodes[inode];
        let mask = 1 << (bit % 8);
        let Some(byte) = inode.now.get_mut(offset as usize) else { return false };
        *byte ^= mask;
        if let Some(byte) = inode.durable.get_mut(offset as usize) {
            *byte ^= mask;
        }
        true
    }

    /// The bytes of a file as they are now.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state.names.get(name).map(|&inode| state.inodes[inode].now.clone())
    }

    fn handle(&self, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(MemoryFile { disk: self.clone(), inode })
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Disk for MemoryDisk {
    fn create(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.step(false)?;
        if state.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.names.insert(name.to_owned(), inode);
        drop(state);
        Ok(self.handle(inode))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        let inode = self.lock().names.get(name).copied().ok_or(ErrorKind::NotFound)?;
        Ok(self.handle(inode))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut state = self.lock();
        state.step(false)?;
        let inode = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let mut state = self.lock();
        state.step(false)?;
        state.names.remove(name).ok_or(ErrorKind::NotFound)?;
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn sync_directory(&self) -> Result<()> {
        let mut state = self.lock();
        state.step(true)?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn space(&self) -> Result<Space> {
        let state = self.lock();
        let total = state.capacity.unwrap_or(u64::MAX / 2);
        Ok(Space { total, available: total.saturating_sub(state.used()) })
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    inode: usize,
}

impl DiskFile for MemoryFile {
    fn length(&self) -> Result<u64> {
        Ok(self.disk.lock().inodes[self.inode].now.len() as u64)
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        let mut data: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let mut state = self.disk.lock();
        let mut outcome = state.step(false);
        let grows = (offset + data.len() as u64).saturating_sub(state.inodes[self.inode].now.len() as u64);
        if state.capacity.is_some_and(|capacity| state.used() + grows > capacity) {
            outcome = Err(ErrorKind::StorageFull.into());
        }
        if outcome.is_err() {
            data.truncate(data.len() / 2);
        }
        let inode = &mut state.inodes[self.inode];
        let change = Change::Write(offset, data);
        change.apply(&mut inode.now, usize::MAX);
        inode.journal.push(change);
        outcome
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize> {
        let state = self.disk.lock();
        let bytes = state.inodes[self.inode].now.get(offset as usize..).unwrap_or_default();
        let length = bytes.len().min(into.len());
        into[..length].copy_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn read_now(&self, offset: u64, into: &mut [u8]) -> Option<Result<usize>> {
        Some(self.read_at(offset, into))
    }

    fn truncate(&self, length: u64) -> Result<()> {
        let mut state = self.disk.lock();
        state.step(false)?;
        let inode = &mut state.inodes[self.inode];
        inode.now.truncate(length as usize);
        inode.journal.push(Change::Truncate(length));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.disk.lock();
        let outcome = state.step(true);
        let inode = &mut state.inodes[self.inode];
        if outcome.is_ok() {
            let Inode { journal, durable, .. } = inode;
            journal.drain(..).for_each(|change| change.apply(durable, usize::MAX));
        } else if matches!(state.fault, Some(Fault::SyncAt(_))) {
            // The pages are marked clean although they never reached the disk: no later sync writes them.
            let inode = &mut state.inodes[self.inode];
            inode.journal.clear();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &MemoryDisk) -> Arc<dyn DiskFile> {
        let file = disk.create("a").unwrap();
        disk.sync_directory().unwrap();
        file.write_at(0, &[IoSlice::new(b"safe")]).unwrap();
        file.sync().unwrap();
        file.write_at(4, &[IoSlice::new(b"lost")]).unwrap();
        file
    }

    #[test]
    fn a_crash_loses_what_was_not_synced_and_only_that() {
        let disk = MemoryDisk::new();
        written(&disk);
        disk.create("unsynced name").unwrap();
        let after = disk.after(Crash::LoseUnsynced);
        assert_eq!(after.contents("a").unwrap(), b"safe");
        assert_eq!(after.list().unwrap(), ["a"]);
        assert_eq!(disk.after(Crash::KeepAll).contents("a").unwrap(), b"safelost");
    }

    #[test]
    fn a_torn_write_leaves_a_part() {
        let disk = MemoryDisk::new();
        written(&disk);
        let lengths: std::collections::BTreeSet<usize> =
            (0..64).map(|seed| disk.after(Crash::Tear { seed }).contents("a").unwrap().len()).collect();
        assert!(lengths.contains(&4) && lengths.contains(&8) && lengths.len() > 3, "{lengths:?}");
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_the_next() {
        let disk = MemoryDisk::new();
        let file = written(&disk);
        disk.inject(Some(Fault::SyncAt(disk.calls())));
        assert!(file.sync().is_err());
        assert_eq!(disk.after(Crash::LoseUnsynced).contents("a").unwrap(), b"safe");
    }

    #[test]
    fn a_full_disk_takes_part_of_a_write() {
        let disk = MemoryDisk::new();
        let file = written(&disk);
        disk.set_capacity(Some(10));
        let error = file.write_at(8, &[IoSlice::new(b"12345678")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(file.length().unwrap(), 12);
        assert_eq!(disk.space().unwrap(), Space { total: 10, available: 0 });
    }
}
