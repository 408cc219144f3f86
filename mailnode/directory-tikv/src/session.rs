//! One call of the client: bounded in time, its errors sorted by what they say about the outcome.
//!
//! A silent PD would hang a call for ever, and a silent TiKV for 23 seconds, so nothing is awaited without a
//! limit. A client that does not come back to life is replaced after some failures in a row; usually it does.

use crate::config::TikvConfig;
use crate::key::{Names, SCHEMA};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tikv_client::{CheckLevel, Config, Error, ProtoKeyError, TransactionClient, TransactionOptions};
use tokio::time::{Instant, timeout, timeout_at};

/// One request to PD or TiKV.
const REQUEST: Duration = Duration::from_secs(2);
/// One call of the client, which may be several requests; shorter if the caller's deadline is near.
const CALL: Duration = Duration::from_millis(2_500);
/// Failures in a row after which the client is replaced.
const REPLACE_AFTER: u32 = 4;
/// A page of records, with room.
const MESSAGE: usize = 64 * 1024 * 1024;

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Surely not written: others were faster, or it was rolled back.
    #[error("others write the same record")]
    Refused,
    /// TiKV answers, but not this now: a lock is in the way, a region moves. A write may have happened.
    #[error("TiKV is busy: {0}")]
    Busy(String),
    /// No answer. A write may have happened.
    #[error("{0}")]
    Away(String),
}

pub struct Session {
    config: TikvConfig,
    pub names: Names,
    client: Mutex<Option<TransactionClient>>,
    /// One connects, the others wait for it.
    connecting: tokio::sync::Mutex<()>,
    failures: AtomicU32,
    connected: AtomicU64,
}

impl Session {
    pub fn new(config: TikvConfig) -> Self {
        Self {
            names: Names::new(&config.key_prefix),
            config,
            client: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            failures: AtomicU32::new(0),
            connected: AtomicU64::new(0),
        }
    }

    pub const fn config(&self) -> &TikvConfig {
        &self.config
    }

    /// How many clients there were.
    pub fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    /// Awaits a call of the client until the limit of one call or the deadline.
    ///
    /// # Errors
    /// As the variants say.
    pub async fn bounded<T>(
        &self,
        deadline: Instant,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, CallError> {
        let limit = deadline.min(Instant::now() + CALL);
        let outcome = match timeout_at(limit, call).await {
            Ok(outcome) => outcome.map_err(|error| sort(&error)),
            Err(_) => Err(CallError::Away("TiKV does not answer in time".into())),
        };
        self.note(outcome.as_ref().err());
        outcome
    }

    /// The client, connected and its schema checked.
    ///
    /// # Errors
    /// [`CallError::Away`], also if the records are of a newer schema.
    pub async fn client(&self, deadline: Instant) -> Result<TransactionClient, CallError> {
        if let Some(client) = self.lock().clone() {
            return Ok(client);
        }
        let connect = async {
            let _one = self.connecting.lock().await;
            if let Some(client) = self.lock().clone() {
                return Ok(client);
            }
            let client = self.connect().await.map_err(|error| sort(&error))?;
            self.check_schema(&client).await?;
            *self.lock() = Some(client.clone());
            let before = self.connected.fetch_add(1, Ordering::Relaxed);
            tracing::info!(again = before > 0, "user database: connected to TiKV");
            Ok(client)
        };
        // Connecting is several calls.
        let limit = deadline.min(Instant::now() + CALL * 2);
        match timeout_at(limit, connect).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::Away("PD does not answer in time".into())),
        }
    }

    async fn connect(&self) -> Result<TransactionClient, Error> {
        let mut config = Config::default().with_timeout(REQUEST).with_grpc_max_decoding_message_size(MESSAGE);
        if let Some(tls) = &self.config.tls {
            config = config.with_security(&tls.authority, &tls.certificate, &tls.key);
        }
        TransactionClient::new_with_config(self.config.endpoints.clone(), config).await
    }

    /// The first node writes the version; all refuse a newer one.
    async fn check_schema(&self, client: &TransactionClient) -> Result<(), CallError> {
        let name = self.names.schema();
        for _ in 0..3 {
            let at = call(client.current_timestamp()).await?;
            if let Some(bytes) = call(client.snapshot(at, options()).get(name.clone())).await? {
                let version = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse::<u32>().ok());
                return match version {
                    Some(SCHEMA) => Ok(()),
                    Some(other) => Err(CallError::Away(format!(
                        "the user database has schema {other}, this node knows {SCHEMA}: update the older"
                    ))),
                    None => Err(CallError::Away("the user database's schema version is damaged".into())),
                };
            }
            let mut transaction = call(client.begin_with_options(options())).await?;
            call(transaction.insert(name.clone(), SCHEMA.to_string())).await?;
            // Whether it was this node or another that wrote it, the next look tells.
            match call(transaction.commit()).await {
                Ok(_) | Err(CallError::Refused) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CallError::Away("the user database's schema version cannot be written".into()))
    }

    fn note(&self, error: Option<&CallError>) {
        if !matches!(error, Some(CallError::Away(_))) {
            self.failures.store(0, Ordering::Relaxed);
            return;
        }
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= REPLACE_AFTER {
            self.failures.store(0, Ordering::Relaxed);
            if self.lock().take().is_some() {
                tracing::warn!("user database: TiKV does not answer; connecting anew");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<TransactionClient>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn call<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, CallError> {
    match timeout(CALL, call).await {
        Ok(outcome) => outcome.map_err(|error| sort(&error)),
        Err(_) => Err(CallError::Away("TiKV does not answer in time".into())),
    }
}

/// Optimistic two-phase commit. Neither async commit, which the client has trouble with, nor a heartbeat: ours
/// are over in seconds. One that was given up is not missed: its lock dies with its time to live.
pub fn options() -> TransactionOptions {
    TransactionOptions::new_optimistic().drop_check(CheckLevel::None)
}

fn sort(error: &Error) -> CallError {
    match error {
        Error::KeyError(error) if is_refusal(error) => CallError::Refused,
        Error::DuplicateKeyInsertion => CallError::Refused,
        Error::ExtractedErrors(errors) | Error::MultipleKeyErrors(errors)
            if !errors.is_empty() && errors.iter().all(|error| sort(error) == CallError::Refused) =>
        {
            CallError::Refused
        }
        Error::ResolveLockError(_) => CallError::Busy("a lock is in the way".into()),
        Error::KeyError(_) | Error::ExtractedErrors(_) | Error::MultipleKeyErrors(_) => {
            CallError::Busy(kind(error))
        }
        Error::RegionError(_) | Error::LeaderNotFound { .. } | Error::EntryNotFoundInRegionCache => {
            CallError::Busy("a region moves".into())
        }
        error => CallError::Away(kind(error)),
    }
}

/// What TiKV says when the transaction did not and will not commit.
const fn is_refusal(error: &ProtoKeyError) -> bool {
    error.conflict.is_some()
        || error.already_exist.is_some()
        || error.deadlock.is_some()
        // At commit: the lock is not there, because another rolled it back.
        || !error.retryable.is_empty()
        || error.txn_not_found.is_some()
}

/// In short, and without keys and values: those are addresses and credentials.
pub fn kind(error: &Error) -> String {
    match error {
        Error::GrpcAPI(status) => format!("TiKV cannot be reached: {}", first_line(&status.to_string())),
        Error::Grpc(_) => "PD or TiKV cannot be reached".into(),
        Error::UndeterminedError(_) => "the connection to TiKV broke".into(),
        Error::InternalError { .. } | Error::StringError(_) => "PD or TiKV cannot be reached".into(),
        Error::KeyError(_) | Error::MultipleKeyErrors(_) => "TiKV reports an error of a key".into(),
        Error::ExtractedErrors(errors) => errors.first().map_or_else(|| "TiKV reports an error".into(), kind),
        _ => "the client of TiKV failed".into(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_error(change: impl FnOnce(&mut ProtoKeyError)) -> Error {
        let mut error = ProtoKeyError::default();
        change(&mut error);
        Error::KeyError(Box::new(error))
    }

    #[test]
    fn only_what_surely_did_not_commit_is_a_refusal() {
        let refusals = || {
            [
                key_error(|error| error.conflict = Some(Default::default())),
                key_error(|error| error.already_exist = Some(Default::default())),
                key_error(|error| error.retryable = "txn not found".into()),
            ]
        };
        for error in refusals() {
            assert_eq!(sort(&error), CallError::Refused, "{error:?}");
        }
        assert_eq!(sort(&Error::MultipleKeyErrors(refusals().into())), CallError::Refused);
        let aborted = key_error(|error| error.abort = "?".into());
        assert!(matches!(sort(&aborted), CallError::Busy(_)));
        let mut mixed: Vec<Error> = refusals().into();
        mixed.push(Error::Unimplemented);
        assert!(matches!(sort(&Error::ExtractedErrors(mixed)), CallError::Busy(_)));
        assert!(matches!(sort(&Error::ExtractedErrors(Vec::new())), CallError::Busy(_)));
        assert!(matches!(
            sort(&Error::UndeterminedError(Box::new(Error::Unimplemented))),
            CallError::Away(_)
        ));
    }

    #[test]
    fn an_error_never_shows_what_a_record_holds() {
        let shown = sort(&key_error(|error| error.abort = "alice@example.org".into())).to_string();
        assert!(!shown.contains("alice"), "{shown}");
    }
}
