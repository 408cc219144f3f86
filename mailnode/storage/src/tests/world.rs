//! What the tests share: a store without threads, a model of what must be in it, and random commits.

use crate::{
    Clock, Durability, Index, MemoryDisk, MemoryIndex, Options, Outcome, Recovery, Result, Store, Write,
};
use bytes::Bytes;
use cluster::anti_entropy::DigestTree;
use cluster::{
    BlobId, BlobRef, Entry, EntryId, Flag, FolderId, Location, NodeId, Register, Timestamp, UserId,
    WrappedKey,
};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

/// Unix seconds at which the tests begin.
pub const START: u64 = 1_700_000_000;
pub const ME: NodeId = NodeId(1);
pub const PEERS: [NodeId; 2] = [NodeId(21), NodeId(22)];

/// Small segments, no threads, a clock that the test sets.
pub fn options(time: &Arc<AtomicU64>) -> Options {
    let time = time.clone();
    Options {
        node: Some(ME),
        segment_bytes: 4_000,
        threads: false,
        clock: Clock(Arc::new(move || time.load(Ordering::Relaxed))),
        ..Options::default()
    }
}

pub fn clock() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(START))
}

pub fn open(disk: &MemoryDisk, index: impl Index) -> Result<(Store, Recovery)> {
    Store::open(disk.clone(), index, options(&clock()))
}

pub fn new_store() -> (Store, MemoryDisk, MemoryIndex) {
    let (disk, index) = (MemoryDisk::new(), MemoryIndex::new());
    let (store, _) = open(&disk, index.clone()).unwrap();
    (store, disk, index)
}

/// The output of a future that never waits, as all of a store without threads do.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a store without threads waited"),
    }
}

pub fn commit(store: &Store, writes: Vec<Write>) -> Result<Vec<Outcome>> {
    now(store.commit(writes, Durability::Synced))
}

pub fn stamp(ticks: u64) -> Timestamp {
    Timestamp { ticks, node: NodeId(1) }
}

pub fn body(number: u64, length: usize) -> Bytes {
    let mut random = StdRng::seed_from_u64(number);
    let mut bytes = vec![0; length];
    random.fill_bytes(&mut bytes);
    bytes.into()
}

pub fn blob(body: &Bytes) -> Write {
    Write::Blob { id: BlobId::of(body), parts: body.clone() }
}

pub fn entry(user: u128, id: u128, blob: BlobId) -> Entry {
    let at = stamp((START * 1_000) << 16);
    Entry {
        id: EntryId(id),
        user: UserId(user),
        blob: BlobRef { id: blob, size: 10, key: Register::new(WrappedKey(vec![1, 2, 3]), at) },
        internal_date: 1_700_000_000,
        location: Location { folder: FolderId::INBOX, at, uid: None },
        flags: BTreeMap::new(),
        modseq: 0,
        replicas: Register::new(vec![NodeId(1), PEERS[0], PEERS[1]], at),
        expunged: None,
    }
}

pub fn put(entry: &Entry, pending: &[NodeId]) -> Write {
    Write::Entry { entry: entry.clone(), pending: pending.to_vec() }
}

pub fn value(key: &str, value: Option<&str>) -> Write {
    Write::Record { key: key.into(), value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())) }
}

/// What a store must hold, kept in the plainest way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub entries: BTreeMap<(UserId, EntryId), (Entry, BTreeSet<NodeId>)>,
    pub values: BTreeMap<Vec<u8>, Bytes>,
    /// Those that live entries refer to.
    pub bodies: BTreeMap<BlobId, Bytes>,
    /// All that were ever written.
    written: BTreeMap<BlobId, Bytes>,
}

impl Model {
    pub fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Blob { id, parts } => {
                    self.written.insert(*id, parts.clone());
                }
                Write::Entry { entry, pending } => {
                    let key = (entry.user, entry.id);
                    let is_new = !self.entries.contains_key(&key);
                    let (mine, waiting) =
                        self.entries.entry(key).or_insert_with(|| (entry.clone(), BTreeSet::new()));
                    if mine.merge(entry) || is_new {
                        waiting.extend(pending);
                    }
                }
                Write::Renew { .. } | Write::Discard { .. } => {}
                Write::Retire { peer, entries } => {
                    for (user, entry, digest) in entries {
                        if let Some((mine, waiting)) = self.entries.get_mut(&(*user, *entry))
                            && mine.digest() == *digest
                        {
                            waiting.remove(peer);
                        }
                    }
                }
                Write::Forget { user, entry } => {
                    self.entries.remove(&(*user, *entry));
                }
                Write::Record { key, value: Some(value) } => {
                    self.values.insert(key.clone(), value.clone());
                }
                Write::Record { key, value: None } => {
                    self.values.remove(key);
                }
            }
        }
        self.bodies = self
            .entries
            .values()
            .filter(|(entry, _)| is_copy(entry))
            .filter_map(|(entry, _)| Some((entry.blob.id, self.written.get(&entry.blob.id)?.clone())))
            .collect();
    }

    /// Everything that the store says must be what the model says.
    pub fn check(&self, store: &Store) -> std::result::Result<(), String> {
        let differ = |what: &str, store: &dyn std::fmt::Debug, model: &dyn std::fmt::Debug| {
            Err(format!("{what}: the store says {store:?}, the model {model:?}"))
        };
        let users: BTreeSet<UserId> = self.entries.keys().map(|(user, _)| *user).collect();
        for number in 1..=4 {
            let user = UserId(number);
            let stored: Vec<Entry> = store.fragment(user).unwrap().entries().cloned().collect();
            let of_user = self.entries.iter().filter(|((owner, _), _)| *owner == user);
            let shown = of_user.map(|(_, (entry, _))| entry);
            let shown = shown.filter(|entry| !entry.is_live() || is_copy(entry));
            let model: Vec<Entry> = shown.cloned().collect();
            if stored != model {
                return differ("fragment", &stored, &model);
            }
            let listed = store.users([cluster::Bucket::of_user(user)]).unwrap().contains(&user);
            if listed != users.contains(&user) {
                return differ("users", &listed, &users);
            }
        }
        for peer in PEERS {
            let stored: Vec<EntryId> =
                store.pending(peer, None, 1_000).unwrap().iter().map(|entry| entry.id).collect();
            let waits = self.entries.iter().filter(|(_, (_, waiting))| waiting.contains(&peer));
            let model: Vec<EntryId> = waits.map(|((_, entry), _)| *entry).collect();
            if stored != model || store.pending_count(peer) != model.len() as u64 {
                return differ("pending", &(stored, store.pending_count(peer)), &model);
            }
        }
        for peer in PEERS {
            let mut model = DigestTree::default();
            for (entry, _) in self.entries.values() {
                if is_copy(entry) && entry.replicas.value.contains(&peer) {
                    model.toggle(cluster::Bucket::of_user(entry.user), entry.digest());
                }
            }
            if store.digests(peer) != model {
                return differ("digests", &store.digests(peer).root(), &model.root());
            }
        }
        let stored: BTreeMap<Vec<u8>, Bytes> = store
            .records(b"", None, 1_000)
            .unwrap()
            .into_iter()
            .map(|(key, row)| (key.to_vec(), row))
            .collect();
        if stored != self.values {
            return differ("values", &stored, &self.values);
        }
        for (id, body) in &self.bodies {
            let stored = now(store.blob(*id)).unwrap();
            if stored.as_ref() != Some(body) {
                return differ("body", &(id, stored), body);
            }
        }
        Ok(())
    }
}

pub fn is_copy(entry: &Entry) -> bool {
    entry.is_live() && entry.replicas.value.contains(&ME)
}

/// A commit of one of the kinds that a node makes.
pub fn random_commit(random: &mut StdRng, model: &Model) -> Vec<Write> {
    let known: Vec<&Entry> = model.entries.values().map(|(entry, _)| entry).collect();
    let pick = |random: &mut StdRng| known.get(random.random_range(0..known.len().max(1))).copied().cloned();
    let at = stamp(((START + random.random_range(1..1_000)) * 1_000) << 16);
    match (random.random_range(0..11), pick(random)) {
        (0..=3, _) | (_, None) => {
            let length = random.random_range(1..900);
            let body = body(random.random_range(0..40), length);
            let mut writes = vec![blob(&body)];
            for user in 1..=random.random_range(1..=2) {
                let user = user + random.random_range(0..3);
                let entry = entry(user, random.random(), BlobId::of(&body));
                writes.push(put(&entry, &PEERS[..random.random_range(0..=2)]));
            }
            writes
        }
        (4..=5, Some(mut entry)) => {
            let flag = if random.random() { Flag::Seen } else { Flag::Keyword("later".into()) };
            entry.set_flag(flag, random.random(), at);
            vec![put(&entry, &PEERS)]
        }
        (6, Some(mut entry)) => {
            entry.expunged = Some(at);
            vec![put(&entry, &PEERS[..1])]
        }
        (7, Some(entry)) => {
            let peer = PEERS[random.random_range(0..2)];
            let entries = known.iter().map(|entry| (entry.user, entry.id, entry.digest())).take(5);
            let stale = (entry.user, entry.id, 1);
            vec![Write::Retire { peer, entries: entries.chain([stale]).collect() }]
        }
        (9, Some(mut entry)) => {
            let value = if random.random() { vec![PEERS[0], PEERS[1]] } else { vec![ME, PEERS[1]] };
            entry.replicas = Register::new(value, stamp(at.ticks + random.random_range(0..1 << 16)));
            vec![put(&entry, &PEERS[1..])]
        }
        (8, Some(entry)) => vec![Write::Forget { user: entry.user, entry: entry.id }],
        _ => {
            let key = format!("key{}", random.random_range(0..4));
            let text = random.random::<u64>().to_string().repeat(random.random_range(1..20));
            vec![value(&key, random.random_bool(0.7).then_some(&text))]
        }
    }
}
