//! What the watch told us, and what we wrote ourselves, whichever is newer.

use crate::object;
use cluster::View;
use k8s_openapi::api::coordination::v1::Lease;
use lease::{CoordinatorLease, MemberLease};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Without a Lease of our own (we only look) answers are good for so long without news.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Cache {
    state: Mutex<State>,
    listed: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    members: BTreeMap<String, MemberLease>,
    /// As it is on the API server, with its resourceVersion.
    coordinator: Option<Lease>,
    /// By the names of their objects.
    views: BTreeMap<String, View>,
    /// A list that is under way replaces all at its end.
    list: Option<Listed>,
    /// When the watch last told us anything; None before the first list.
    news: Option<Instant>,
    /// Duration of our own Lease, whose renewals are news, too.
    own_duration: Option<Duration>,
}

#[derive(Default)]
struct Listed {
    members: BTreeMap<String, MemberLease>,
    coordinator: Option<Lease>,
    views: BTreeMap<String, View>,
}

impl Default for Cache {
    fn default() -> Self {
        Self { state: Mutex::default(), listed: watch::Sender::new(false) }
    }
}

impl Cache {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the first list is complete.
    pub async fn listed(&self) {
        // An error means that the sender is gone, which is part of us.
        let _ = self.listed.subscribe().wait_for(|listed| *listed).await;
    }

    pub fn list_begins(&self) {
        self.lock().list = Some(Listed::default());
    }

    pub fn list_item(&self, prefix: &str, lease: Lease) {
        let mut state = self.lock();
        let Some(listed) = &mut state.list else { return };
        if let Some(member) = object::member(prefix, &lease) {
            listed.members.insert(member.name.clone(), member);
        } else if is_coordinator(prefix, &lease) {
            listed.coordinator = Some(lease);
        } else {
            listed.views.extend(object::view(prefix, &lease));
        }
    }

    pub fn list_ends(&self) {
        let mut state = self.lock();
        if let Some(Listed { members, coordinator, views }) = state.list.take() {
            (state.members, state.coordinator, state.views) = (members, coordinator, views);
        }
        state.news = Some(Instant::now());
        self.listed.send_replace(true);
    }

    /// The watch told us of it.
    pub fn seen(&self, prefix: &str, lease: Lease) {
        let mut state = self.lock();
        state.news = Some(Instant::now());
        state.take(prefix, lease);
    }

    /// We wrote it ourselves. That is no proof that the watch lives.
    pub fn written(&self, prefix: &str, lease: Lease) {
        self.lock().take(prefix, lease);
    }

    pub fn deleted(&self, prefix: &str, lease: &Lease) {
        let mut state = self.lock();
        state.news = Some(Instant::now());
        if let Some(member) = object::member(prefix, lease) {
            state.members.remove(&member.name);
        } else if is_coordinator(prefix, lease) {
            state.coordinator = None;
        } else if let Some(name) = &lease.metadata.name {
            state.views.remove(name);
        }
    }

    pub fn released(&self, node: &str) {
        self.lock().members.remove(node);
    }

    /// Our own Lease is about to be renewed.
    pub fn renewing(&self, lease: &MemberLease) {
        self.lock().own_duration = Some(lease.duration());
    }

    /// True once we renew a Lease of our own.
    pub fn renews(&self) -> bool {
        self.lock().own_duration.is_some()
    }

    pub fn members(&self) -> Result<Vec<MemberLease>, &'static str> {
        let state = self.lock();
        state.check_news()?;
        Ok(state.members.values().cloned().collect())
    }

    pub fn coordinator(&self) -> Result<Option<CoordinatorLease>, &'static str> {
        let state = self.lock();
        state.check_news()?;
        let Some(known) = state.coordinator.as_ref().and_then(object::coordinator) else { return Ok(None) };
        // An object is made before it is pointed to, and a watch keeps that order. If a person deleted it, the
        // coordinator publishes its view again.
        let view = known.view.as_ref().and_then(|name| state.views.get(name)).cloned().unwrap_or_default();
        Ok(Some(known.with(view)))
    }

    pub fn views(&self) -> BTreeMap<String, View> {
        self.lock().views.clone()
    }

    pub fn coordinator_object(&self) -> Option<Lease> {
        self.lock().coordinator.clone()
    }
}

fn is_coordinator(prefix: &str, lease: &Lease) -> bool {
    lease.metadata.name.as_deref() == Some(&object::coordinator_name(prefix))
}

impl State {
    /// Takes it unless what we know is newer.
    fn take(&mut self, prefix: &str, lease: Lease) {
        if let Some(member) = object::member(prefix, &lease) {
            let age = |member: &MemberLease| (member.incarnation, member.renewals);
            if self.members.get(&member.name).is_none_or(|known| age(known) <= age(&member)) {
                self.members.insert(member.name.clone(), member);
            }
        } else if is_coordinator(prefix, &lease) {
            let version = |lease: &Lease| object::coordinator(lease).map(|known| known.version);
            if self.coordinator.as_ref().and_then(version) <= version(&lease) {
                self.coordinator = Some(lease);
            }
        } else {
            self.views.extend(object::view(prefix, &lease));
        }
    }

    fn check_news(&self) -> Result<(), &'static str> {
        let patience = self.own_duration.map_or(PATIENCE, |duration| duration / 2);
        match self.news {
            None => Err("the Kubernetes API has not listed the Leases yet"),
            Some(at) if at.elapsed() > patience => Err("the Kubernetes API has told us nothing for too long"),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{Addresses, Incarnation};

    fn member(renewals: u64, millis: u64) -> MemberLease {
        MemberLease {
            name: "a".into(),
            incarnation: Incarnation(1),
            addresses: Addresses::default(),
            zone: None,
            draining: false,
            duration_millis: millis,
            renewals,
        }
    }

    #[test]
    fn before_the_first_list_nothing_is_known() {
        let cache = Cache::default();
        assert!(cache.members().is_err() && cache.coordinator().is_err());
        cache.list_begins();
        cache.list_ends();
        assert_eq!((cache.members(), cache.coordinator().is_ok()), (Ok(Vec::new()), true));
    }

    #[test]
    fn an_echo_of_an_older_write_does_not_undo_a_newer_one() {
        let cache = Cache::default();
        cache.list_begins();
        cache.list_ends();
        cache.written("p", object::of_member("p", &member(2, 9000)).unwrap());
        cache.seen("p", object::of_member("p", &member(1, 9000)).unwrap());
        assert_eq!(cache.members().unwrap(), [member(2, 9000)]);
    }

    #[test]
    fn a_list_replaces_all_that_was_known() {
        let cache = Cache::default();
        cache.written("p", object::of_member("p", &member(2, 9000)).unwrap());
        cache.list_begins();
        cache.list_ends();
        assert_eq!(cache.members().unwrap(), []);
    }

    #[test]
    fn when_the_watch_is_silent_although_we_renew_nothing_is_known() {
        let cache = Cache::default();
        cache.list_begins();
        cache.list_ends();
        cache.renewing(&member(1, 40));
        std::thread::sleep(Duration::from_millis(30));
        cache.written("p", object::of_member("p", &member(1, 40)).unwrap());
        assert!(cache.members().is_err());
        cache.seen("p", object::of_member("p", &member(1, 40)).unwrap());
        assert!(cache.members().is_ok());
    }

    #[test]
    fn a_lease_of_another_cluster_or_name_is_left_out() {
        let cache = Cache::default();
        cache.list_begins();
        cache.list_item("p", object::of_member("other", &member(1, 9000)).unwrap());
        cache.list_ends();
        assert_eq!(cache.members().unwrap(), []);
    }
}
