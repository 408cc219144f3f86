//! Read, compare-and-set and list over TiKV.
//!
//! A compare-and-set is a loop until it is known what became of it, or its time is up:
//! 1. Read the record in a new transaction. It carries our token: done. Its version is not the expected one:
//!    conflict.
//! 2. Write version + 1 with our token, commit.
//! 3. Whatever `commit` says, read the record back at the timestamp of the commit, where nothing later can hide it:
//!    it must be there with our token. (The client answers Ok for commits that never were.)
//! 4. Not there, or no answer: begin again. A request that is still on its way can do no harm: it began before
//!    whatever is written from now on, so TiKV refuses it, or it wins and the next round finds the token.
//!
//! An attempt without an answer whose version was since passed by others' writes may have been the one before
//! theirs; the error then says that it is not known.

use crate::breaker::{Breaker, Permit};
use crate::cache::Cache;
use crate::config::{ConfigError, TikvConfig};
use crate::session::{CallError, Session, options};
use crate::stored::{Stored, StoredError, VALUE};
use bytes::Bytes;
use directory::{DatabaseError, Key, Kind, Read, Records, Token};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tikv_client::{KvPair, Timestamp};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Operations at once; further ones wait for their turn, within their time.
const AT_ONCE: usize = 256;
/// Keys of one page; with the longest values it fits into a message.
pub const PAGE: u32 = 128;
/// Records of one list.
const LIST: usize = 10_000;
/// A list is many calls.
const LIST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long somebody waits who would take an older state that is at hand.
const STALE_PATIENCE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What happened so far; for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// False: the database does not answer, and callers are told so at once.
    pub reachable: bool,
    pub reads: u64,
    pub writes: u64,
    pub lists: u64,
    pub conflicts: u64,
    /// Writes of which the caller was told that it is not known whether they happened.
    pub in_doubt: u64,
    /// Commits that the client called done and that were not there.
    pub false_commits: u64,
    /// Operations that ended without an answer.
    pub unavailable: u64,
    /// Reads answered with an older state.
    pub stale: u64,
    /// Connections made; the first is one.
    pub connected: u64,
}

#[derive(Default)]
struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    lists: AtomicU64,
    conflicts: AtomicU64,
    in_doubt: AtomicU64,
    false_commits: AtomicU64,
    unavailable: AtomicU64,
    stale: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The user profile database in TiKV. Needs tokio with time.
pub struct Tikv {
    pub(crate) session: Session,
    breaker: Breaker,
    cache: Cache,
    turns: Semaphore,
    counters: Counters,
}

/// What an attempt to write found out.
enum Outcome {
    Committed(u64),
    /// The record has this version, and not our token.
    Other(u64),
}

/// How an attempt failed.
struct Attempt {
    error: AttemptError,
    /// A commit was asked for.
    sent: bool,
}

enum AttemptError {
    Call(CallError),
    Stored(StoredError),
    /// The client said that it was committed, and it is not there.
    FalseCommit,
}

impl From<CallError> for AttemptError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

fn unavailable(text: impl Into<String>) -> DatabaseError {
    DatabaseError::Unavailable(text.into())
}

/// Longer after each attempt, and not all at once.
async fn pause(attempt: u32, deadline: Instant) {
    let longest = FIRST_PAUSE.saturating_mul(1 << attempt.min(10)).min(LONGEST_PAUSE);
    let until = Instant::now() + longest.mul_f64(rand::random_range(0.5..1.0));
    sleep_until(until.min(deadline)).await;
}

impl Tikv {
    /// Connects at the first use, and again whenever it must: TiKV may come up after the nodes.
    ///
    /// # Errors
    /// If the configuration cannot be meant.
    pub fn new(config: TikvConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            session: Session::new(config),
            breaker: Breaker::default(),
            cache: Cache::default(),
            turns: Semaphore::new(AT_ONCE),
            counters: Counters::default(),
        })
    }

    pub fn status(&self) -> Status {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Status {
            reachable: self.breaker.is_closed() && self.session.connected() > 0,
            reads: of(&self.counters.reads),
            writes: of(&self.counters.writes),
            lists: of(&self.counters.lists),
            conflicts: of(&self.counters.conflicts),
            in_doubt: of(&self.counters.in_doubt),
            false_commits: of(&self.counters.false_commits),
            unavailable: of(&self.counters.unavailable),
            stale: of(&self.counters.stale),
            connected: self.session.connected(),
        }
    }

    /// Asks the database for the time: connects if need be.
    ///
    /// # Errors
    /// If there is no answer in time.
    pub async fn ping(&self) -> Result<(), DatabaseError> {
        let deadline = self.deadline();
        let ask = async {
            let client = self.session.client(deadline).await?;
            self.session.bounded(deadline, client.current_timestamp()).await
        };
        let permit = self.breaker.permit().ok_or_else(|| self.away())?;
        match ask.await {
            Ok(_) => permit.answered(),
            Err(error) => {
                permit.failed();
                return Err(self.give_up(error.to_string()));
            }
        }
        Ok(())
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.session.config().timeout
    }

    /// A turn and the breaker's permission.
    async fn enter(&self, deadline: Instant) -> Result<(SemaphorePermit<'_>, Permit<'_>), DatabaseError> {
        let turn = match timeout_at(deadline, self.turns.acquire()).await {
            Ok(Ok(turn)) => turn,
            _ => return Err(unavailable("too many requests wait for the user database")),
        };
        let permit = self.breaker.permit().ok_or_else(|| self.away())?;
        Ok((turn, permit))
    }

    fn away(&self) -> DatabaseError {
        count(&self.counters.unavailable);
        unavailable("the user database does not answer; it is tried again in seconds")
    }

    fn give_up(&self, why: String) -> DatabaseError {
        count(&self.counters.unavailable);
        unavailable(why)
    }

    /// Repeats what may be repeated until there is an answer, others have found that there will be none, or the
    /// time is up.
    async fn patiently<T, F>(
        &self,
        permit: &Permit<'_>,
        deadline: Instant,
        attempt: impl Fn() -> F + Send,
    ) -> Result<T, DatabaseError>
    where
        T: Send,
        F: Future<Output = Result<T, AttemptError>> + Send,
    {
        for tried in 0.. {
            let why = match attempt().await {
                Ok(value) => {
                    permit.answered();
                    return Ok(value);
                }
                Err(AttemptError::Stored(error)) => {
                    permit.answered();
                    return Err(unavailable(error.to_string()));
                }
                Err(AttemptError::FalseCommit) => "commit was not found".into(),
                Err(AttemptError::Call(CallError::Away(why))) => {
                    if permit.failed() {
                        return Err(self.give_up(why));
                    }
                    why
                }
                Err(AttemptError::Call(error)) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(self.give_up(why));
            }
            pause(tried, deadline).await;
        }
        Err(unavailable("not reached"))
    }

    async fn read_once(&self, name: &[u8], deadline: Instant) -> Result<Stored, AttemptError> {
        let client = self.session.client(deadline).await?;
        let at = self.session.bounded(deadline, client.current_timestamp()).await?;
        let mut snapshot = client.snapshot(at, options());
        decode(self.session.bounded(deadline, snapshot.get(name.to_vec())).await?)
    }

    async fn write_once(
        &self,
        name: &[u8],
        expected: u64,
        token: Token,
        value: Option<&Bytes>,
        deadline: Instant,
    ) -> Result<Outcome, Attempt> {
        let before = |error: AttemptError| Attempt { error, sent: false };
        let after = |error: AttemptError| Attempt { error, sent: true };
        let session = &self.session;
        let client = session.client(deadline).await.map_err(|error| before(error.into()))?;
        let begun = session.bounded(deadline, client.begin_with_options(options())).await;
        let mut transaction = begun.map_err(|error| before(error.into()))?;
        let got = session.bounded(deadline, transaction.get(name.to_vec())).await;
        let current = decode(got.map_err(|error| before(error.into()))?).map_err(before)?;
        let version = expected.saturating_add(1);
        if current.token == token && current.version == version {
            return Ok(Outcome::Committed(version));
        }
        if current.version != expected {
            return Ok(Outcome::Other(current.version));
        }
        let millis = u64::try_from(transaction.start_timestamp().physical).unwrap_or_default();
        let stored = Stored { version, token, millis, value: value.cloned() };
        let put = session.bounded(deadline, transaction.put(name.to_vec(), stored.encode())).await;
        put.map_err(|error| before(error.into()))?;
        let committed = session.bounded(deadline, transaction.commit()).await;
        let at = match committed {
            Ok(Some(at)) => at,
            Ok(None) => return Err(after(AttemptError::FalseCommit)),
            Err(CallError::Refused) => return Err(before(CallError::Refused.into())),
            Err(error) => return Err(after(error.into())),
        };
        let mut snapshot = client.snapshot(at, options());
        let got = session.bounded(deadline, snapshot.get(name.to_vec())).await;
        let found = decode(got.map_err(|error| after(error.into()))?).map_err(after)?;
        if found.token == token && found.version == version {
            return Ok(Outcome::Committed(version));
        }
        Err(after(AttemptError::FalseCommit))
    }

    /// One page of what is in a range, as it was at `at`: keys and records that can be read. True if there
    /// may be more after the last name.
    pub(crate) async fn page(
        &self,
        range: Range<Vec<u8>>,
        at: &Timestamp,
        deadline: Instant,
    ) -> Result<Vec<KvPair>, CallError> {
        let client = self.session.client(deadline).await?;
        let mut snapshot = client.snapshot(at.clone(), options());
        Ok(self.session.bounded(deadline, snapshot.scan(range, PAGE)).await?.collect())
    }

    async fn read_through(&self, key: &Key, deadline: Instant) -> Result<Read, DatabaseError> {
        let name = self.name(key)?;
        let (_turn, permit) = self.enter(deadline).await?;
        let stored = self.patiently(&permit, deadline, || self.read_once(&name, deadline)).await?;
        count(&self.counters.reads);
        let read = stored.into_read();
        self.cache.put(key, &read);
        Ok(read)
    }

    fn name(&self, key: &Key) -> Result<Vec<u8>, DatabaseError> {
        let kind = key.kind().filter(|_| key.is_valid());
        let kind = kind.ok_or_else(|| unavailable("this is no key of a record"))?;
        Ok(self.session.names.record(kind, key.id()))
    }

    fn committed(&self, key: &Key, version: u64, value: Option<Bytes>) -> u64 {
        count(&self.counters.writes);
        self.cache.put(key, &Read { version, value });
        version
    }

    fn not_known(&self, why: &str) -> DatabaseError {
        count(&self.counters.in_doubt);
        unavailable(format!("it is not known whether the change was made: {why}"))
    }
}

fn decode(bytes: Option<Vec<u8>>) -> Result<Stored, AttemptError> {
    match bytes {
        Some(bytes) => Stored::decode(&bytes.into()).map_err(AttemptError::Stored),
        None => Ok(Stored::default()),
    }
}

impl Records for Tikv {
    async fn read(&self, key: &Key, stale: bool) -> Result<Read, DatabaseError> {
        let mut deadline = self.deadline();
        let older = if stale { self.cache.get(key) } else { None };
        if older.is_some() {
            deadline = deadline.min(Instant::now() + STALE_PATIENCE);
        }
        match (self.read_through(key, deadline).await, older) {
            (Err(DatabaseError::Unavailable(_)), Some(older)) => {
                count(&self.counters.stale);
                Ok(older)
            }
            (outcome, _) => outcome,
        }
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: u64,
        token: Token,
        value: Option<Bytes>,
    ) -> Result<u64, DatabaseError> {
        if value.as_ref().is_some_and(|value| value.len() > VALUE) {
            return Err(unavailable(format!("a record in TiKV has at most {VALUE} bytes")));
        }
        let name = self.name(key)?;
        let deadline = self.deadline();
        let (_turn, permit) = self.enter(deadline).await?;
        // The last reason why it is not known what became of an attempt.
        let mut doubt: Option<String> = None;
        for tried in 0.. {
            let attempt = self.write_once(&name, expected, token, value.as_ref(), deadline).await;
            let (why, sent) = match attempt {
                Ok(Outcome::Committed(version)) => {
                    permit.answered();
                    return Ok(self.committed(key, version, value));
                }
                Ok(Outcome::Other(version)) => {
                    permit.answered();
                    return Err(match doubt {
                        // The next version is another's, so ours never can be.
                        Some(why) if version > expected.saturating_add(1) => self.not_known(&why),
                        _ => {
                            count(&self.counters.conflicts);
                            DatabaseError::Conflict
                        }
                    });
                }
                Err(Attempt { error: AttemptError::Stored(error), sent: false }) => {
                    permit.answered();
                    return Err(unavailable(error.to_string()));
                }
                Err(Attempt { error, sent }) => {
                    let (why, answered) = match error {
                        AttemptError::Stored(error) => (error.to_string(), true),
                        AttemptError::FalseCommit => {
                            count(&self.counters.false_commits);
                            tracing::warn!(
                                "user database: a commit of TiKV's client was none; looking again"
                            );
                            ("a commit was not found again".into(), true)
                        }
                        AttemptError::Call(CallError::Away(why)) => (why, false),
                        AttemptError::Call(error) => (error.to_string(), true),
                    };
                    let closed = answered || !permit.failed();
                    // Nothing is open: need not be waited for.
                    if !closed && !sent && doubt.is_none() {
                        return Err(self.give_up(why));
                    }
                    (why, sent)
                }
            };
            if sent {
                doubt = Some(why.clone());
            }
            if Instant::now() >= deadline {
                return Err(match doubt {
                    Some(why) => self.not_known(&why),
                    None => self.give_up(why),
                });
            }
            pause(tried, deadline).await;
        }
        Err(unavailable("not reached"))
    }

    async fn list(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Read)>, DatabaseError> {
        let limit = limit.min(LIST);
        let deadline = Instant::now() + LIST_TIMEOUT.max(self.session.config().timeout);
        let (_turn, permit) = self.enter(deadline).await?;
        let time = || async {
            let client = self.session.client(deadline).await?;
            Ok(self.session.bounded(deadline, client.current_timestamp()).await?)
        };
        let at = self.patiently(&permit, deadline, time).await?;
        let mut range = self.session.names.after(kind, after);
        let mut found = Vec::new();
        while found.len() < limit {
            let next = || async { Ok(self.page(range.clone(), &at, deadline).await?) };
            let page = self.patiently(&permit, deadline, next).await?;
            let Some(last) = page.last() else { break };
            let mut start: Vec<u8> = last.key().clone().into();
            start.push(0);
            let full = page.len() >= PAGE as usize;
            for KvPair(name, bytes) in page {
                let Some(key) = self.session.names.parse((&name).into()) else { continue };
                let stored = Stored::decode(&bytes.into()).map_err(|error| unavailable(error.to_string()))?;
                if stored.value.is_some() && found.len() < limit {
                    found.push((key, stored.into_read()));
                }
            }
            if !full {
                break;
            }
            range.start = start;
        }
        count(&self.counters.lists);
        Ok(found)
    }
}
