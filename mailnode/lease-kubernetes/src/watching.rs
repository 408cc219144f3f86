//! The one watch of a node: keeps the cache, and begins anew when it falls silent.

use crate::cache::Cache;
use crate::object;
use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use lease::Trouble;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A node that renews its Lease hears of that, at least. Silence for so long means that the connection is dead,
/// which TCP may not find out for minutes.
const SILENCE: Duration = Duration::from_secs(10);
/// The API server ends a watch after so long; a new one follows without a gap.
const WATCH_SECONDS: u32 = 290;

pub async fn run(api: Api<Lease>, cache: Arc<Cache>, prefix: String) {
    let (started, mut trouble) = (Instant::now(), Trouble::default());
    loop {
        let config = watcher::Config::default().labels(&object::selector(&prefix)).timeout(WATCH_SECONDS);
        let events = watcher(api.clone(), config).backoff(Pauses::default());
        let mut events = std::pin::pin!(events);
        loop {
            match tokio::time::timeout(SILENCE, events.next()).await {
                Ok(Some(Ok(event))) => {
                    // The first sign of a list that is yet to come is none of success.
                    if !matches!(event, watcher::Event::Init)
                        && let Some(times) = trouble.over()
                    {
                        tracing::info!(times, "Leases are watched again");
                    }
                    take(&cache, &prefix, event);
                }
                Ok(Some(Err(error))) => {
                    if let Some(times) = trouble.failed(started.elapsed()) {
                        tracing::warn!(%error, times, "watch of Leases");
                    }
                }
                Ok(None) => break,
                Err(_) if cache.renews() => {
                    if let Some(times) = trouble.failed(started.elapsed()) {
                        tracing::warn!(times, "the watch of Leases is silent; beginning anew");
                    }
                    break;
                }
                Err(_) => {}
            }
        }
    }
}

fn take(cache: &Cache, prefix: &str, event: watcher::Event<Lease>) {
    match event {
        watcher::Event::Apply(lease) => cache.seen(prefix, lease),
        watcher::Event::Delete(lease) => cache.deleted(prefix, &lease),
        watcher::Event::Init => cache.list_begins(),
        watcher::Event::InitApply(lease) => cache.list_item(prefix, lease),
        watcher::Event::InitDone => cache.list_ends(),
    }
}

/// After errors: 200 ms, doubled up to 5 s. Short, because mail goes on while we wait, but blindly.
#[derive(Default)]
struct Pauses {
    failures: u32,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(200) * 2_u32.pow(self.failures.min(5));
        self.failures = self.failures.saturating_add(1);
        // Nodes that lost the server at one time come back apart from each other.
        let jitter = Duration::from_millis(u64::from(std::process::id()) % 300);
        Some(pause.min(Duration::from_secs(5)) + jitter)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_about_five_seconds_and_begin_anew_after_success() {
        let mut pauses = Pauses::default();
        let first = pauses.next().unwrap();
        assert!(first < Duration::from_millis(600));
        let last = pauses.by_ref().take(20).last().unwrap();
        assert!((Duration::from_secs(5)..Duration::from_millis(5400)).contains(&last), "{last:?}");
        pauses.reset();
        assert_eq!(pauses.next(), Some(first));
    }
}
