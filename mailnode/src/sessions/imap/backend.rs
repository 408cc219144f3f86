//! IMAP's view of a user's mail: the `imap` crate's traits, on [`Mail`].

use super::super::News;
use crate::node::Node;
use crate::sessions::access::Mail;
use crate::wire::{Failure, FolderChanges, Message, Opened, UserOp};
use bytes::Bytes;
use cluster::mailbox::{FlagChange, Mark, Shown};
use cluster::{Flag, FolderId};
use imap::backend::{
    Account, AppendMessage, Appended, Backend, Changes, Copied, Delta, Error, Folder, LoginError, Outcome,
    Snapshot, SpecialUse, Status, StoreChange, Stored, Token,
};
use imap::flags::{Flags, SystemFlag};
use std::sync::Arc;
use std::time::Duration;

pub struct ImapBackend(pub Arc<Node>);

/// Without news a session looks by itself this often: it renews the watch at the manager, and a lost event
/// is late by no more than this.
const LOOK_AGAIN: Duration = Duration::from_secs(25);

impl Backend for ImapBackend {
    type Account = ImapAccount;

    async fn login(&self, name: &str, password: &str) -> Result<ImapAccount, LoginError> {
        match Mail::log_in_to_read(&self.0, "imap", name, password).await {
            Ok(mail) => Ok(ImapAccount { news: tokio::sync::Mutex::new(mail.watch()), mail }),
            Err(Failure::BadCredentials) => Err(LoginError::Invalid),
            Err(failure) => Err(LoginError::Temporary(failure.to_string())),
        }
    }

    fn record(&self, command: &'static str, outcome: Outcome, _took: Duration) {
        self.0.metrics.commands.with_label_values(&["imap", command, outcome.name()]).inc();
    }
}

pub struct ImapAccount {
    mail: Mail,
    news: tokio::sync::Mutex<News>,
}

fn error(failure: Failure) -> Error {
    match failure {
        Failure::NotFound => Error::NotFound,
        Failure::AlreadyExists => Error::AlreadyExists,
        Failure::OverQuota => Error::OverQuota,
        Failure::Invalid(text) => Error::Invalid(text),
        locked @ Failure::Locked => Error::Locked(locked.to_string()),
        other => Error::Temporary(other.to_string()),
    }
}

fn special_use(special_use: directory::SpecialUse) -> SpecialUse {
    match special_use {
        directory::SpecialUse::Sent => SpecialUse::Sent,
        directory::SpecialUse::Drafts => SpecialUse::Drafts,
        directory::SpecialUse::Trash => SpecialUse::Trash,
        directory::SpecialUse::Junk => SpecialUse::Junk,
        directory::SpecialUse::Archive => SpecialUse::Archive,
    }
}

fn directory_use(special_use: SpecialUse) -> directory::SpecialUse {
    match special_use {
        SpecialUse::Sent => directory::SpecialUse::Sent,
        SpecialUse::Drafts => directory::SpecialUse::Drafts,
        SpecialUse::Trash => directory::SpecialUse::Trash,
        SpecialUse::Junk => directory::SpecialUse::Junk,
        SpecialUse::Archive => directory::SpecialUse::Archive,
    }
}

const SYSTEM: [(SystemFlag, Flag); 5] = [
    (SystemFlag::Seen, Flag::Seen),
    (SystemFlag::Answered, Flag::Answered),
    (SystemFlag::Flagged, Flag::Flagged),
    (SystemFlag::Deleted, Flag::Deleted),
    (SystemFlag::Draft, Flag::Draft),
];

fn to_imap(flags: &[Flag]) -> Flags {
    let mut out = Flags::default();
    for flag in flags {
        match flag {
            Flag::Keyword(word) => {
                // A keyword is checked when it is set; one that a newer version allowed is not shown.
                let _ = out.insert_keyword(word);
            }
            system => {
                if let Some((theirs, _)) = SYSTEM.iter().find(|(_, ours)| ours == system) {
                    out.insert(*theirs);
                }
            }
        }
    }
    out
}

fn from_imap(flags: &Flags) -> Vec<Flag> {
    let system = SYSTEM.iter().filter(|(theirs, _)| flags.contains(*theirs)).map(|(_, ours)| ours.clone());
    system.chain(flags.keywords().map(|word| Flag::Keyword(word.to_owned()))).collect()
}

type Shared = Arc<imap::backend::Message<Arc<Message>>>;

fn message(message: Message) -> Shared {
    Arc::new(imap::backend::Message {
        uid: message.uid,
        flags: to_imap(&message.flags),
        modseq: message.modseq.max(1),
        size: message.blob.size,
        internal_date: message.internal_date,
        handle: Arc::new(message),
    })
}

fn snapshot(opened: Opened) -> Snapshot<Arc<Message>> {
    Snapshot {
        uid_validity: opened.uid_validity,
        uid_next: opened.marks.uid_next,
        highest_modseq: opened.marks.highest_modseq,
        token: token(opened.marks.mark),
        messages: opened.messages.into_iter().map(message).collect(),
    }
}

fn token(mark: Mark) -> Token {
    Token(mark.index, mark.sequence)
}

impl Account for ImapAccount {
    type Handle = Arc<Message>;

    fn alert(&self) -> Option<String> {
        self.mail.is_partly_locked().then(|| {
            "Some of your mail is encrypted and stays unreadable until you use your recovery key or an app password".into()
        })
    }

    async fn folders(&self) -> Result<Vec<Folder>, Error> {
        let folders = self.mail.folders().await.map_err(error)?;
        Ok(folders
            .into_iter()
            .map(|folder| Folder {
                id: folder.id.0,
                name: folder.name,
                subscribed: folder.subscribed,
                special_use: folder.special_use.map(special_use),
                uid_validity: folder.uid_validity,
            })
            .collect())
    }

    async fn create_folder(&self, name: &str, special_use: Option<SpecialUse>) -> Result<(), Error> {
        let op = UserOp::CreateFolder { name: name.to_owned(), special_use: special_use.map(directory_use) };
        self.mail.change_folders(op).await.map_err(error)
    }

    async fn delete_folder(&self, name: &str) -> Result<(), Error> {
        self.mail.change_folders(UserOp::DeleteFolder { name: name.to_owned() }).await.map_err(error)
    }

    async fn rename_folder(&self, from: &str, to: &str) -> Result<(), Error> {
        let op = UserOp::RenameFolder { from: from.to_owned(), to: to.to_owned() };
        self.mail.change_folders(op).await.map_err(error)
    }

    async fn subscribe(&self, name: &str, subscribed: bool) -> Result<(), Error> {
        let op = UserOp::Subscribe { name: name.to_owned(), subscribed };
        self.mail.change_folders(op).await.map_err(error)
    }

    async fn status(&self, folder: u32) -> Result<Status, Error> {
        let status = self.mail.status(FolderId(folder)).await.map_err(error)?;
        Ok(Status {
            messages: status.messages,
            unseen: status.unseen,
            deleted: status.deleted,
            size: status.bytes,
            uid_next: status.uid_next,
            uid_validity: status.uid_validity,
            highest_modseq: status.highest_modseq,
            newest_message: status.newest_message,
        })
    }

    async fn open(&self, folder: u32) -> Result<Snapshot<Arc<Message>>, Error> {
        self.news.lock().await.mark_heard();
        self.mail.open(FolderId(folder)).await.map(snapshot).map_err(error)
    }

    async fn sync(
        &self,
        folder: u32,
        since: Token,
        shown: impl FnOnce() -> imap::backend::Shown + Send,
    ) -> Result<Changes<Arc<Message>>, Error> {
        // What changes from here on wakes us again; what changed before is in the answer.
        self.news.lock().await.mark_heard();
        let since = Mark { index: since.0, sequence: since.1 };
        let shown = || {
            let shown = shown();
            Shown::new(shown.uids.into_iter(), shown.highest_uid, shown.highest_modseq)
        };
        Ok(match self.mail.sync(FolderId(folder), since, shown).await.map_err(error)? {
            FolderChanges::Unknown => return Err(Error::Temporary("the manager changes; try again".into())),
            FolderChanges::Delta { marks, upserts, vanished } => Changes::Delta(Delta {
                uid_next: marks.uid_next,
                highest_modseq: marks.highest_modseq,
                token: token(marks.mark),
                messages: upserts.into_iter().map(message).collect(),
                vanished,
            }),
            FolderChanges::Everything(opened) => Changes::Fresh(snapshot(opened)),
        })
    }

    async fn certainly_told(&self, folder: u32, modseq: u64) -> Result<u64, Error> {
        self.mail.certainly_told(FolderId(folder), modseq).await.map_err(error)
    }

    async fn events(&self) -> u64 {
        self.news.lock().await.count()
    }

    async fn changed(&self) {
        let mut news = self.news.lock().await;
        let _ = tokio::time::timeout(LOOK_AGAIN, news.changed()).await;
    }

    async fn body(&self, message: &imap::backend::Message<Arc<Message>>) -> Result<Bytes, Error> {
        self.mail.body(&message.handle).await.map_err(error)
    }

    async fn append(&self, folder: u32, messages: Vec<AppendMessage>) -> Result<Appended, Error> {
        let mut appended = Appended { uid_validity: 0, uids: Vec::with_capacity(messages.len()) };
        for new in messages {
            let flags = from_imap(&new.flags);
            let numbered = self.mail.append(FolderId(folder), flags, new.internal_date, &new.body).await;
            match numbered {
                Ok(numbered) => {
                    appended.uid_validity = numbered.uid_validity;
                    appended.uids.push(numbered.uid);
                }
                Err(failure) => {
                    // All or none (RFC 3502 6.3.11): what was added is taken away again.
                    if !appended.uids.is_empty() {
                        let _ = self.mail.expunge(FolderId(folder), &appended.uids).await;
                    }
                    return Err(error(failure));
                }
            }
        }
        Ok(appended)
    }

    async fn store(
        &self,
        folder: u32,
        uids: &[u32],
        change: StoreChange,
        unchanged_since: Option<u64>,
    ) -> Result<Stored, Error> {
        let change = match change {
            StoreChange::Add(flags) => FlagChange::Add(from_imap(&flags)),
            StoreChange::Remove(flags) => FlagChange::Remove(from_imap(&flags)),
            StoreChange::Replace(flags) => FlagChange::Replace(from_imap(&flags)),
        };
        let stored = self.mail.store(FolderId(folder), uids, change, unchanged_since).await;
        let (changes, modified) = stored.map_err(error)?;
        let changes = changes.iter().map(|message| (message.uid, to_imap(&message.flags), message.modseq));
        Ok(Stored { changes: changes.collect(), modified })
    }

    async fn expunge(&self, folder: u32, uids: &[u32]) -> Result<Vec<u32>, Error> {
        self.mail.expunge(FolderId(folder), uids).await.map_err(error)
    }

    async fn copy(&self, folder: u32, uids: &[u32], target: u32) -> Result<Copied, Error> {
        let copied = self.mail.copy(FolderId(folder), uids, FolderId(target), false).await;
        let (uid_validity, from, to) = copied.map_err(error)?;
        Ok(Copied { uid_validity, from, to })
    }

    async fn move_messages(&self, folder: u32, uids: &[u32], target: u32) -> Result<Copied, Error> {
        let copied = self.mail.copy(FolderId(folder), uids, FolderId(target), true).await;
        let (uid_validity, from, to) = copied.map_err(error)?;
        Ok(Copied { uid_validity, from, to })
    }
}
