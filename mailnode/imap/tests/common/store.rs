//! A small mail store in memory: real folders, UIDs, MODSEQs and watchers, so that sessions are tested against something that
//! behaves. One user's mail; every session of the user is an [`MemoryAccount`] on the same [`Store`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use imap::backend::*;
use imap::flags::Flags;
use tokio::sync::watch;

pub const PASSWORD: &str = "secret";

#[derive(Default)]
struct MemoryFolder {
    name: String,
    subscribed: bool,
    special_use: Option<SpecialUse>,
    uid_validity: u32,
    uid_next: u32,
    modseq: u64,
    messages: BTreeMap<u32, Arc<Message<Bytes>>>,
    /// MODSEQ of the expunge, and UID.
    expunged: BTreeSet<(u64, u32)>,
}

impl MemoryFolder {
    fn add(&mut self, flags: Flags, internal_date: i64, body: Bytes) -> u32 {
        let uid = self.uid_next;
        self.uid_next += 1;
        self.modseq += 1;
        let (modseq, size) = (self.modseq, body.len() as u64);
        let message = Message { uid, flags, modseq, size, internal_date, handle: body };
        self.messages.insert(uid, Arc::new(message));
        uid
    }

    fn remove(&mut self, uid: u32) -> bool {
        let gone = self.messages.remove(&uid).is_some();
        if gone {
            self.modseq += 1;
            self.expunged.insert((self.modseq, uid));
        }
        gone
    }

    fn snapshot(&self) -> Snapshot<Bytes> {
        Snapshot {
            uid_validity: self.uid_validity,
            uid_next: self.uid_next,
            highest_modseq: self.modseq,
            token: Token(0, self.modseq),
            messages: self.messages.values().cloned().collect(),
        }
    }
}

#[derive(Default)]
struct Inner {
    folders: BTreeMap<u32, MemoryFolder>,
    next_id: u32,
    /// UIDs whose bodies cannot be read now.
    unreadable: BTreeSet<u32>,
    /// Answer the next sync with a whole snapshot, as after a failover.
    fresh: bool,
    quota_reached: bool,
    away: bool,
    /// What a client heard after this MODSEQ may have been told without all that came before.
    divided_at: Option<u64>,
}

impl Inner {
    fn here(&self) -> Result<(), Error> {
        if self.away { Err(Error::Temporary("The manager is away".into())) } else { Ok(()) }
    }

    fn by_name(&mut self, name: &str) -> Result<(u32, &mut MemoryFolder), Error> {
        self.here()?;
        let found = self.folders.iter_mut().find(|(_, folder)| folder.name == name);
        found.map(|(id, folder)| (*id, folder)).ok_or(Error::NotFound)
    }

    fn folder(&mut self, id: u32) -> Result<&mut MemoryFolder, Error> {
        self.here()?;
        self.folders.get_mut(&id).ok_or(Error::NotFound)
    }

    fn create(&mut self, name: &str, special_use: Option<SpecialUse>) {
        self.next_id += 1;
        let id = self.next_id;
        let folder = MemoryFolder {
            name: name.to_owned(),
            subscribed: true,
            special_use,
            uid_validity: 100 + id,
            uid_next: 1,
            modseq: 1,
            ..MemoryFolder::default()
        };
        self.folders.insert(id, folder);
    }
}

pub struct Store {
    inner: Mutex<Inner>,
    news: watch::Sender<u64>,
    /// How many bodies are being read now, and the most there ever were.
    pub reading: Mutex<(usize, usize)>,
    pub recorded: Mutex<Vec<(&'static str, Outcome)>>,
}

impl Store {
    pub fn new() -> Arc<Store> {
        let mut inner = Inner::default();
        inner.create("INBOX", None);
        Arc::new(Store {
            inner: Mutex::new(inner),
            news: watch::Sender::new(0),
            reading: Mutex::default(),
            recorded: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn changed(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    pub fn create(&self, name: &str, special_use: Option<SpecialUse>) {
        self.lock().create(name, special_use);
    }

    /// A delivery, as from SMTP.
    pub fn deliver(&self, folder: &str, body: impl Into<Bytes>) -> u32 {
        let uid = self.lock().by_name(folder).unwrap().1.add(Flags::new(), 880_178_106, body.into());
        self.changed();
        uid
    }

    pub fn set_unreadable(&self, uids: &[u32]) {
        self.lock().unreadable = uids.iter().copied().collect();
    }

    pub fn divide_at(&self, modseq: u64) {
        self.lock().divided_at = Some(modseq);
    }

    pub fn answer_next_sync_fresh(&self) {
        self.lock().fresh = true;
        self.changed();
    }

    /// While away, every operation fails for now.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
        self.changed();
    }

    pub fn set_quota_reached(&self, reached: bool) {
        self.lock().quota_reached = reached;
    }

    pub fn change_uid_validity(&self, folder: &str) {
        let mut inner = self.lock();
        inner.fresh = true;
        inner.by_name(folder).unwrap().1.uid_validity += 1000;
        drop(inner);
        self.changed();
    }

    pub fn flags(&self, folder: &str, uid: u32) -> Option<Flags> {
        self.lock().by_name(folder).unwrap().1.messages.get(&uid).map(|message| message.flags.clone())
    }
}

pub struct MemoryBackend(pub Arc<Store>);

impl Backend for MemoryBackend {
    type Account = MemoryAccount;

    async fn login(&self, name: &str, password: &str) -> Result<MemoryAccount, LoginError> {
        match (name, password) {
            ("joe", PASSWORD) => Ok(MemoryAccount {
                store: self.0.clone(),
                news: tokio::sync::Mutex::new(self.0.news.subscribe()),
            }),
            ("away", _) => Err(LoginError::Temporary("The user database is away".into())),
            _ => Err(LoginError::Invalid),
        }
    }

    fn record(&self, command: &'static str, outcome: Outcome, _took: std::time::Duration) {
        self.0.recorded.lock().unwrap().push((command, outcome));
    }
}

pub struct MemoryAccount {
    store: Arc<Store>,
    news: tokio::sync::Mutex<watch::Receiver<u64>>,
}

impl Account for MemoryAccount {
    type Handle = Bytes;

    async fn folders(&self) -> Result<Vec<Folder>, Error> {
        let inner = self.store.lock();
        inner.here()?;
        let folder = |(id, folder): (&u32, &MemoryFolder)| Folder {
            id: *id,
            name: folder.name.clone(),
            subscribed: folder.subscribed,
            special_use: folder.special_use,
            uid_validity: folder.uid_validity,
        };
        Ok(inner.folders.iter().map(folder).collect())
    }

    async fn create_folder(&self, name: &str, special_use: Option<SpecialUse>) -> Result<(), Error> {
        let mut inner = self.store.lock();
        inner.here()?;
        if inner.by_name(name).is_ok() {
            return Err(Error::AlreadyExists);
        }
        inner.create(name, special_use);
        drop(inner);
        self.store.changed();
        Ok(())
    }

    async fn delete_folder(&self, name: &str) -> Result<(), Error> {
        assert_ne!(name, "INBOX");
        let mut inner = self.store.lock();
        let (id, _) = inner.by_name(name)?;
        inner.folders.remove(&id);
        drop(inner);
        self.store.changed();
        Ok(())
    }

    async fn rename_folder(&self, from: &str, to: &str) -> Result<(), Error> {
        assert_ne!(from, "INBOX");
        let mut inner = self.store.lock();
        if inner.by_name(to).is_ok() {
            return Err(Error::AlreadyExists);
        }
        let mut any = false;
        for folder in inner.folders.values_mut() {
            if let Some(rest) = folder.name.strip_prefix(from)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                folder.name = format!("{to}{rest}");
                any = true;
            }
        }
        drop(inner);
        self.store.changed();
        if any { Ok(()) } else { Err(Error::NotFound) }
    }

    async fn subscribe(&self, name: &str, subscribed: bool) -> Result<(), Error> {
        self.store.lock().by_name(name)?.1.subscribed = subscribed;
        self.store.changed();
        Ok(())
    }

    async fn status(&self, folder: u32) -> Result<Status, Error> {
        let mut inner = self.store.lock();
        let folder = inner.folder(folder)?;
        let count = |test: &dyn Fn(&Flags) -> bool| {
            folder.messages.values().filter(|message| test(&message.flags)).count() as u32
        };
        Ok(Status {
            messages: folder.messages.len() as u32,
            unseen: count(&|flags| !flags.contains(imap::flags::SystemFlag::Seen)),
            deleted: count(&|flags| flags.contains(imap::flags::SystemFlag::Deleted)),
            size: folder.messages.values().map(|message| message.size).sum(),
            uid_next: folder.uid_next,
            uid_validity: folder.uid_validity,
            highest_modseq: folder.modseq,
            newest_message: folder.messages.values().map(|message| message.modseq).max().unwrap_or(0),
        })
    }

    async fn open(&self, folder: u32) -> Result<Snapshot<Bytes>, Error> {
        self.news.lock().await.mark_unchanged();
        Ok(self.store.lock().folder(folder)?.snapshot())
    }

    async fn sync(
        &self,
        folder: u32,
        Token(_, since): Token,
        _shown: impl FnOnce() -> Shown + Send,
    ) -> Result<Changes<Bytes>, Error> {
        self.news.lock().await.mark_unchanged();
        let mut inner = self.store.lock();
        let fresh = std::mem::take(&mut inner.fresh);
        let folder = inner.folder(folder)?;
        if fresh {
            return Ok(Changes::Fresh(folder.snapshot()));
        }
        let messages = folder.messages.values().filter(|message| message.modseq > since);
        let vanished = folder.expunged.range((since + 1, 0)..).map(|(_, uid)| *uid);
        Ok(Changes::Delta(Delta {
            uid_next: folder.uid_next,
            highest_modseq: folder.modseq,
            token: Token(0, folder.modseq),
            messages: messages.cloned().collect(),
            vanished: vanished.collect(),
        }))
    }

    async fn events(&self) -> u64 {
        *self.news.lock().await.borrow()
    }

    async fn certainly_told(&self, _: u32, modseq: u64) -> Result<u64, Error> {
        Ok(self.store.lock().divided_at.map_or(modseq, |divided| modseq.min(divided)))
    }

    async fn changed(&self) {
        let _ = self.news.lock().await.changed().await;
    }

    async fn body(&self, message: &Message<Bytes>) -> Result<Bytes, Error> {
        {
            let mut reading = self.store.reading.lock().unwrap();
            reading.0 += 1;
            reading.1 = reading.1.max(reading.0);
        }
        tokio::task::yield_now().await;
        self.store.reading.lock().unwrap().0 -= 1;
        if self.store.lock().unreadable.contains(&message.uid) {
            return Err(Error::Temporary("No replica can be reached".into()));
        }
        let inner = self.store.lock();
        let mut all = inner.folders.values().flat_map(|folder| folder.messages.values());
        // A body is there as long as some message has it, like a blob.
        match all.any(|known| known.handle == message.handle) {
            true => Ok(message.handle.clone()),
            false => Err(Error::NotFound),
        }
    }

    async fn append(&self, folder: u32, messages: Vec<AppendMessage>) -> Result<Appended, Error> {
        let mut inner = self.store.lock();
        if inner.quota_reached {
            return Err(Error::OverQuota);
        }
        let folder = inner.folder(folder)?;
        let add = |message: AppendMessage| {
            folder.add(message.flags, message.internal_date.unwrap_or(880_178_106), message.body)
        };
        let uids = messages.into_iter().map(add).collect();
        let uid_validity = folder.uid_validity;
        drop(inner);
        self.store.changed();
        Ok(Appended { uid_validity, uids })
    }

    async fn store(
        &self,
        folder: u32,
        uids: &[u32],
        change: StoreChange,
        unchanged_since: Option<u64>,
    ) -> Result<Stored, Error> {
        assert!(uids.is_sorted());
        let mut inner = self.store.lock();
        let folder = inner.folder(folder)?;
        let mut stored = Stored::default();
        for uid in uids {
            let Some(message) = folder.messages.get_mut(uid) else { continue };
            if unchanged_since.is_some_and(|since| message.modseq > since) {
                stored.modified.push(*uid);
                continue;
            }
            let mut flags = message.flags.clone();
            match &change {
                StoreChange::Add(added) => {
                    flags.union(added).map_err(|error| Error::Invalid(error.to_string()))?
                }
                StoreChange::Remove(removed) => flags.subtract(removed),
                StoreChange::Replace(all) => flags = all.clone(),
            }
            if flags != message.flags {
                folder.modseq += 1;
                let message = Arc::make_mut(message);
                message.flags = flags;
                message.modseq = folder.modseq;
            }
            stored.changes.push((*uid, message.flags.clone(), message.modseq));
        }
        drop(inner);
        self.store.changed();
        Ok(stored)
    }

    async fn expunge(&self, folder: u32, uids: &[u32]) -> Result<Vec<u32>, Error> {
        assert!(uids.is_sorted());
        let mut inner = self.store.lock();
        let folder = inner.folder(folder)?;
        let gone = uids.iter().copied().filter(|uid| folder.remove(*uid)).collect();
        drop(inner);
        self.store.changed();
        Ok(gone)
    }

    async fn copy(&self, folder: u32, uids: &[u32], target: u32) -> Result<Copied, Error> {
        let mut inner = self.store.lock();
        if inner.quota_reached {
            return Err(Error::OverQuota);
        }
        let source = inner.folder(folder)?;
        let messages: Vec<_> = uids.iter().filter_map(|uid| source.messages.get(uid).cloned()).collect();
        let target = inner.folder(target)?;
        let mut copied = Copied { uid_validity: target.uid_validity, ..Copied::default() };
        for message in messages {
            copied.from.push(message.uid);
            let (flags, date) = (message.flags.clone(), message.internal_date);
            copied.to.push(target.add(flags, date, message.handle.clone()));
        }
        drop(inner);
        self.store.changed();
        Ok(copied)
    }

    async fn move_messages(&self, folder: u32, uids: &[u32], target: u32) -> Result<Copied, Error> {
        let copied = self.copy(folder, uids, target).await?;
        self.expunge(folder, &copied.from).await?;
        Ok(copied)
    }
}
