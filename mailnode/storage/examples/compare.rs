//! Compares ways to keep mail on one disk under our write pattern, with every group really flushed.
//!
//! `cargo run --release -p storage --example compare [-- <directory> [seconds per run]]`
//!
//! Part 1: how the log file is laid out before it is appended to (a growing file costs a journal commit).
//! Part 2: (a) log + fjall index, (b) log + redb index, (c) fjall alone, (d) redb alone.
//! Part 3: (e) the store as it is, with as many clients as the groups above are large.
//! The figures and the choice that follows from them are in docs/decisions/storage-engine.md.

mod common;

use bytes::Bytes;
use cluster::{BlobId, NodeId};
use common::entry;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use redb::ReadableDatabase;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use storage::{Durability, FileDisk, FjallIndex, Options, Store, Write};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const GROUPS: [usize; 3] = [1, 8, 32];
const SEGMENT: u64 = 64 << 20;
const TABLE: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("index");

/// One message as the store sees it: a body, an entry, and the index rows that lead to them.
struct Message {
    body: Vec<u8>,
    entry: Vec<u8>,
    entry_key: [u8; 35],
    blob_key: [u8; 33],
    pending_key: [u8; 41],
}

/// Bodies are log-normal with a mean of 4.7 KB: sigma 1, so the median is 4.7 KB / e^0.5.
fn messages(count: usize) -> Vec<Message> {
    let mut random = StdRng::seed_from_u64(7);
    (0..count)
        .map(|_| {
            let (a, b): (f64, f64) = (random.random_range(f64::EPSILON..1.0), random.random());
            let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
            let length = ((4_700.0 / 0.5f64.exp()) * normal.exp()).clamp(200.0, 200_000.0) as usize;
            let mut body = vec![0; length];
            random.fill_bytes(&mut body);
            let mut entry = vec![0; 250];
            random.fill_bytes(&mut entry);
            Message { body, entry, entry_key: [0; 35], blob_key: [0; 33], pending_key: [0; 41] }
        })
        .collect()
}

/// Gives a message fresh keys: entries of 200 users in order of time, blobs at random.
fn rekey(message: &mut Message, random: &mut StdRng, number: u64) {
    let user = random.random_range(0u64..200).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    random.fill_bytes(&mut message.blob_key);
    message.blob_key[0] = b'b';
    message.entry_key[0] = b'e';
    message.entry_key[3..11].copy_from_slice(&user.to_be_bytes());
    message.entry_key[19..27].copy_from_slice(&number.to_be_bytes());
    message.pending_key[0] = b'p';
    message.pending_key[9..].copy_from_slice(&message.entry_key[3..]);
}

fn cpu() -> Duration {
    let clock = |id| {
        let time = rustix::time::clock_gettime(id);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    clock(rustix::time::ClockId::ProcessCPUTime)
}

#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Append,
    Fallocated,
    ZeroFilled,
    Recycled,
}

/// The least that our log does: frame, checksum, chain, write once, flush once.
struct Log {
    directory: PathBuf,
    layout: Layout,
    file: File,
    number: u64,
    offset: u64,
    chain: [u8; 32],
}

impl Log {
    fn open(directory: &Path, layout: Layout) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let file = Self::segment(directory, layout, 0)?;
        Ok(Self { directory: directory.into(), layout, file, number: 0, offset: 0, chain: [0; 32] })
    }

    fn segment(directory: &Path, layout: Layout, number: u64) -> Result<File> {
        // Recycled: segments are used in turn, their blocks are already written.
        let name = if layout == Layout::Recycled { number % 4 } else { number };
        let path = directory.join(format!("{name}.log"));
        let existed = path.exists();
        let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
        match layout {
            Layout::Append => {}
            Layout::Fallocated => {
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SEGMENT)?;
            }
            Layout::ZeroFilled | Layout::Recycled if !existed => {
                let zeros = vec![0; 1 << 20];
                for _ in 0..SEGMENT >> 20 {
                    file.write_all(&zeros)?;
                }
                file.seek(SeekFrom::Start(0))?;
            }
            _ => {}
        }
        file.sync_all()?;
        Ok(file)
    }

    /// Returns the position of the group.
    fn commit(&mut self, group: &[Message]) -> Result<u64> {
        if self.offset + 2 * 200_000 * group.len() as u64 / 8 > SEGMENT {
            self.number += 1;
            self.file = Self::segment(&self.directory, self.layout, self.number)?;
            self.offset = 0;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.chain);
        let mut scratch = Vec::with_capacity(group.len() * 9_000);
        for message in group {
            for (kind, key, payload) in
                [(1u32, &message.blob_key[..], &message.body), (2, &message.entry_key[..], &message.entry)]
            {
                let start = scratch.len();
                scratch.extend_from_slice(&(payload.len() as u32).to_le_bytes());
                scratch.extend_from_slice(&kind.to_le_bytes());
                scratch.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
                scratch.extend_from_slice(key);
                hasher.update(&scratch[start..]);
                scratch.extend_from_slice(payload);
                hasher.update(payload);
            }
        }
        self.chain = *hasher.finalize().as_bytes();
        scratch.extend_from_slice(&self.chain);
        let mut file = &self.file;
        let written = file.write_vectored(&[IoSlice::new(&scratch)])?;
        file.write_all(&scratch[written..])?;
        file.sync_data()?;
        let at = self.offset;
        self.offset += scratch.len() as u64;
        Ok((self.number << 32) | at)
    }
}

trait Subject {
    fn commit(&mut self, group: &[Message]) -> Result<()>;
}

impl Subject for Log {
    fn commit(&mut self, group: &[Message]) -> Result<()> {
        Log::commit(self, group).map(|_| ())
    }
}

fn rows(group: &[Message], position: u64) -> impl Iterator<Item = (&[u8], Vec<u8>)> {
    group.iter().flat_map(move |message| {
        let place = [position.to_le_bytes(), [0; 8], [0; 8]].concat();
        let entry = [&place[..], &message.entry[..]].concat();
        [
            (&message.entry_key[..], entry),
            (&message.blob_key[..], place),
            (&message.pending_key[..], vec![0; 8]),
        ]
    })
}

struct LogFjall(Log, fjall::Database, fjall::Keyspace);

impl Subject for LogFjall {
    fn commit(&mut self, group: &[Message]) -> Result<()> {
        for message in group {
            // What the store asks before it writes: is there an older version, is the body here already.
            if self.2.get(message.entry_key)?.is_some() | self.2.get(message.blob_key)?.is_some() {
                return Err("a fresh key exists".into());
            }
        }
        let position = self.0.commit(group)?;
        let mut batch = self.1.batch();
        for (key, value) in rows(group, position) {
            batch.insert(&self.2, key, value);
        }
        batch.insert(&self.2, &b"m"[..], &position.to_le_bytes()[..]);
        Ok(batch.commit()?)
    }
}

struct LogRedb(Log, redb::Database);

impl Subject for LogRedb {
    fn commit(&mut self, group: &[Message]) -> Result<()> {
        {
            let read = self.1.begin_read()?;
            let table = read.open_table(TABLE)?;
            for message in group {
                if table.get(&message.entry_key[..])?.is_some() | table.get(&message.blob_key[..])?.is_some()
                {
                    return Err("a fresh key exists".into());
                }
            }
        }
        let position = self.0.commit(group)?;
        let mut write = self.1.begin_write()?;
        write.set_durability(redb::Durability::None)?;
        {
            let mut table = write.open_table(TABLE)?;
            for (key, value) in rows(group, position) {
                table.insert(key, &value[..])?;
            }
            table.insert(&b"m"[..], &position.to_le_bytes()[..])?;
        }
        Ok(write.commit()?)
    }
}

struct FjallAlone(fjall::Database, fjall::Keyspace, fjall::Keyspace);

impl Subject for FjallAlone {
    fn commit(&mut self, group: &[Message]) -> Result<()> {
        let mut batch = self.0.batch().durability(Some(fjall::PersistMode::SyncData));
        for message in group {
            if self.1.get(message.entry_key)?.is_some() | self.2.get(message.blob_key)?.is_some() {
                return Err("a fresh key exists".into());
            }
            batch.insert(&self.1, message.entry_key, &message.entry[..]);
            batch.insert(&self.1, message.pending_key, &[0; 8][..]);
            batch.insert(&self.2, message.blob_key, &message.body[..]);
        }
        Ok(batch.commit()?)
    }
}

struct RedbAlone(redb::Database);

impl Subject for RedbAlone {
    fn commit(&mut self, group: &[Message]) -> Result<()> {
        let write = self.0.begin_write()?;
        {
            let mut table = write.open_table(TABLE)?;
            for message in group {
                table.insert(&message.entry_key[..], &message.entry[..])?;
                table.insert(&message.pending_key[..], &[0u8; 8][..])?;
                table.insert(&message.blob_key[..], &message.body[..])?;
            }
        }
        Ok(write.commit()?)
    }
}

fn redb(path: &Path) -> Result<redb::Database> {
    let database = redb::Database::builder().set_cache_size(256 << 20).create(path)?;
    let write = database.begin_write()?;
    write.open_table(TABLE)?;
    write.commit()?;
    Ok(database)
}

fn fjall(path: &Path) -> Result<fjall::Database> {
    Ok(fjall::Database::builder(path).cache_size(256 << 20).worker_threads(1).open()?)
}

fn run(
    name: &str,
    group: usize,
    seconds: f64,
    pool: &mut [Message],
    subject: &mut dyn Subject,
) -> Result<f64> {
    let mut random = StdRng::seed_from_u64(group as u64);
    let (mut count, mut slowest) = (0usize, Duration::ZERO);
    let (begun, busy) = (Instant::now(), cpu());
    let mut at = 0;
    while begun.elapsed().as_secs_f64() < seconds {
        if at + group > pool.len() {
            at = 0;
        }
        let part = &mut pool[at..at + group];
        at += group;
        for (number, message) in part.iter_mut().enumerate() {
            rekey(message, &mut random, (count + number) as u64);
        }
        let started = Instant::now();
        subject.commit(part)?;
        slowest = slowest.max(started.elapsed());
        count += group;
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    let micros = (cpu() - busy).as_secs_f64() * 1e6 / count as f64;
    println!("{name:<28} {group:>3}/flush {rate:>9.0} msg/s {micros:>7.1} us CPU/msg  slowest {slowest:?}");
    Ok(rate)
}

/// So many deliveries at a time into the store as the node has it: names checked, entries merged, update log
/// written, everything that the raw comparisons above leave out.
fn run_store(base: &Path, clients: usize, seconds: f64, pool: &[Message]) -> Result<()> {
    let directory = tempfile::tempdir_in(base)?;
    let disk = FileDisk::open(directory.path().join("log"))?;
    let index = FjallIndex::open(directory.path().join("index"), 256 << 20)?;
    let (store, _) = Store::open(disk, index, Options::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    let bodies: Arc<Vec<Bytes>> = Arc::new(pool.iter().map(|message| message.body.clone().into()).collect());
    let count = Arc::new(AtomicU64::new(0));
    let (begun, busy) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (store, bodies, count) = (store.clone(), bodies.clone(), count.clone());
            runtime.spawn(async move {
                while begun.elapsed().as_secs_f64() < seconds {
                    let number = count.fetch_add(1, Relaxed);
                    // A body of its own each time: the number at its end.
                    let mut body = bodies[number as usize % bodies.len()].to_vec();
                    body.extend_from_slice(&number.to_le_bytes());
                    let id = BlobId::of(&body);
                    let entry = entry(number, 200, id, body.len() as u64);
                    let pending = vec![NodeId(2)];
                    let writes =
                        vec![Write::Blob { id, parts: body.into() }, Write::Entry { entry, pending }];
                    store.commit(writes, Durability::Synced).await?;
                }
                Ok::<(), storage::Error>(())
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await??;
        }
        Ok::<(), Box<dyn Error>>(())
    })?;
    let count = count.load(Relaxed) as f64;
    let rate = count / begun.elapsed().as_secs_f64();
    let micros = (cpu() - busy).as_secs_f64() * 1e6 / count;
    let each = count / store.metrics().groups as f64;
    println!(
        "(e) the store {clients:>16} clients {rate:>9.0} msg/s {micros:>7.1} us CPU/msg  {each:.1} msg/flush"
    );
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let base = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds: f64 = arguments.next().map_or(Ok(4.0), |text| text.parse())?;
    let mut pool = messages(4_096);
    let mean = pool.iter().map(|message| message.body.len()).sum::<usize>() / pool.len();
    println!("{} bodies, mean {mean} bytes", pool.len());

    for (name, layout) in [
        ("log, growing file", Layout::Append),
        ("log, fallocated", Layout::Fallocated),
        ("log, zero-filled", Layout::ZeroFilled),
        ("log, recycled", Layout::Recycled),
    ] {
        for group in GROUPS {
            let directory = tempfile::tempdir_in(&base)?;
            let mut log = Log::open(directory.path(), layout)?;
            if layout == Layout::Recycled {
                for number in 1..4 {
                    Log::segment(directory.path(), layout, number)?;
                }
            }
            run(name, group, seconds, &mut pool, &mut log)?;
        }
    }
    for group in GROUPS {
        let directory = tempfile::tempdir_in(&base)?;
        let path = directory.path();
        let database = fjall(&path.join("index"))?;
        let keyspace = database.keyspace("index", fjall::KeyspaceCreateOptions::default)?;
        let mut subject = LogFjall(Log::open(&path.join("log"), Layout::Append)?, database, keyspace);
        run("(a) log + fjall", group, seconds, &mut pool, &mut subject)?;
    }
    for group in GROUPS {
        let directory = tempfile::tempdir_in(&base)?;
        let path = directory.path();
        let log = Log::open(&path.join("log"), Layout::Append)?;
        run("(b) log + redb", group, seconds, &mut pool, &mut LogRedb(log, redb(&path.join("index"))?))?;
    }
    for group in GROUPS {
        let directory = tempfile::tempdir_in(&base)?;
        let database = fjall(directory.path())?;
        let entries = database.keyspace("entries", fjall::KeyspaceCreateOptions::default)?;
        let separated = || {
            fjall::KeyspaceCreateOptions::default()
                .with_kv_separation(Some(fjall::KvSeparationOptions::default()))
        };
        let blobs = database.keyspace("blobs", separated)?;
        run("(c) fjall alone", group, seconds, &mut pool, &mut FjallAlone(database, entries, blobs))?;
    }
    for group in GROUPS {
        let directory = tempfile::tempdir_in(&base)?;
        let database = redb(&directory.path().join("all"))?;
        run("(d) redb alone", group, seconds, &mut pool, &mut RedbAlone(database))?;
    }
    for clients in GROUPS {
        run_store(&base, clients, seconds, &pool)?;
    }
    Ok(())
}
