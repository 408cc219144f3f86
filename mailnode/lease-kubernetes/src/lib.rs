//! Leases of coordination.k8s.io/v1, the membership service in Kubernetes (DESIGN 5): [`KubernetesLeases`].
//!
//! Objects, all in one namespace, for the prefix (cluster) `mail`:
//! - `mail.node.<name>`: a node's own Lease. What Kubernetes' fields cannot say (addresses, zone, incarnation) is
//!   JSON in the annotation `prickle.email/member`;
//! - `mail.coordinator`: the coordinator Lease. It is renewed often and heard by all, so it is small: the view is apart;
//! - `mail.view-<random>`: Lease without a holder that carries the published view as JSON in the annotation
//!   `prickle.email/view` and never changes. A view is published by making a new one and then pointing to it by
//!   compare-and-set, so that Lease and view change as one; the ones before are deleted afterwards.
//!   All annotations of one object may have 256 KiB together: enough for a view of some 900 nodes. A larger one is
//!   refused here with a message that says so; clusters are not made that large (the operator's limit is 500).
//!
//! What holds:
//! - Leases are watched, not polled: [`LeaseService::members`] and [`LeaseService::coordinator`] answer from a cache
//!   that one watch keeps. A renewal is one write; the API server sees nothing else from us.
//! - Old news is no news: when the watch has not delivered anything for half of our own Lease's duration although we
//!   renew it, answers are [`LeaseError::Unavailable`], so that nobody is thought dead because the API server is.
//! - Compare-and-set is Kubernetes' own (resourceVersion); the trait's `version` is an annotation beside it.
//! - Times in the objects are for people; expiry is by the observer's clock (see `lease::Observer`).

mod cache;
mod object;
mod watching;

use cache::Cache;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use lease::{CoordinatorLease, LeaseError, LeaseService, MemberLease};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// No call to the API server takes longer.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a new service waits for the first list.
const FIRST_LIST: Duration = Duration::from_secs(10);

/// Clones share the watch, which ends with the last of them.
#[derive(Clone)]
pub struct KubernetesLeases(Arc<Inner>);

struct Inner {
    api: Api<Lease>,
    prefix: String,
    cache: Arc<Cache>,
    watch: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

fn away(error: impl std::fmt::Display) -> LeaseError {
    LeaseError::Unavailable(error.to_string())
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Runs a call, but not for longer than [`TIMEOUT`].
async fn bounded<T>(
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Result<T, kube::Error>, LeaseError> {
    tokio::time::timeout(TIMEOUT, call).await.map_err(|_| away("the Kubernetes API does not answer"))
}

impl KubernetesLeases {
    /// With the credentials of the pod (or of ~/.kube/config), and the namespace in which the Leases are.
    ///
    /// # Errors
    /// If there are no credentials, or the API server does not answer.
    pub async fn connect(namespace: &str, prefix: &str) -> Result<Self, LeaseError> {
        let client = Client::try_default().await.map_err(away)?;
        Self::new(client, namespace, prefix).await
    }

    /// Starts the watch, and returns when the first list is here, or with an empty cache after ten seconds: a node
    /// can start while the API server is away.
    ///
    /// # Errors
    /// If the prefix is no DNS label.
    pub async fn new(client: Client, namespace: &str, prefix: &str) -> Result<Self, LeaseError> {
        if !object::is_label(prefix) {
            return Err(away(format!(
                "{prefix:?} is no prefix for Leases: 1 to 63 characters of a-z, 0-9 and '-'"
            )));
        }
        let api: Api<Lease> = Api::namespaced(client, namespace);
        let cache = Arc::new(Cache::default());
        let watch = tokio::spawn(watching::run(api.clone(), cache.clone(), prefix.to_owned()));
        let service = Self(Arc::new(Inner { api, prefix: prefix.to_owned(), cache, watch }));
        if tokio::time::timeout(FIRST_LIST, service.0.cache.listed()).await.is_err() {
            tracing::warn!(namespace, prefix, "the Kubernetes API does not list Leases yet");
        }
        Ok(service)
    }

    /// Writes our own Lease, whatever it was before: nobody else does. One request, but for the first time.
    async fn put(&self, lease: Lease) -> Result<Lease, LeaseError> {
        let name = lease.metadata.name.clone().unwrap_or_default();
        let api = &self.0.api;
        match bounded(api.patch(&name, &PatchParams::default(), &Patch::Merge(&lease))).await? {
            Ok(written) => Ok(written),
            Err(error) if code(&error) == Some(404) => {
                bounded(api.create(&PostParams::default(), &lease)).await?.map_err(away)
            }
            Err(error) => Err(away(error)),
        }
    }
}

impl LeaseService for KubernetesLeases {
    async fn renew(&self, lease: &MemberLease) -> Result<(), LeaseError> {
        self.0.cache.renewing(lease);
        let object = object::of_member(&self.0.prefix, lease).map_err(away)?;
        let written = self.put(object).await?;
        self.0.cache.written(&self.0.prefix, written);
        Ok(())
    }

    async fn members(&self) -> Result<Vec<MemberLease>, LeaseError> {
        self.0.cache.members().map_err(away)
    }

    async fn release(&self, name: &str) -> Result<(), LeaseError> {
        let object = object::member_name(&self.0.prefix, name);
        match bounded(self.0.api.delete(&object, &DeleteParams::default())).await? {
            Ok(_) => {}
            Err(error) if code(&error) == Some(404) => {}
            Err(error) => return Err(away(error)),
        }
        self.0.cache.released(name);
        Ok(())
    }

    async fn coordinator(&self) -> Result<Option<CoordinatorLease>, LeaseError> {
        self.0.cache.coordinator().map_err(away)
    }

    async fn write_coordinator(&self, expected: u64, lease: CoordinatorLease) -> Result<(), LeaseError> {
        let lease = CoordinatorLease { version: expected + 1, ..lease };
        let (prefix, api, cache) = (&self.0.prefix, &self.0.api, &self.0.cache);
        let known = cache.coordinator_object();
        let pointer = known.as_ref().and_then(object::coordinator);
        if pointer.as_ref().map_or(0, |pointer| pointer.version) != expected {
            return Err(LeaseError::Conflict);
        }
        let before = cache.views();
        let current = pointer.and_then(|pointer| pointer.view);
        let same = current.as_ref().and_then(|name| before.get(name)).is_some_and(|view| *view == lease.view);
        let view = if same { current } else { self.make_view(&lease).await? };
        let object = object::of_coordinator(prefix, &lease, view.clone(), known.as_ref()).map_err(away)?;
        let name = object::coordinator_name(prefix);
        let written = match known {
            None => bounded(api.create(&PostParams::default(), &object)).await?,
            Some(_) => bounded(api.replace(&name, &PostParams::default(), &object)).await?,
        };
        match written {
            Ok(written) => {
                cache.written(prefix, written);
                if !same {
                    // Whoever made these has lost against us, or came before us.
                    self.forget(before.into_keys().collect());
                }
                Ok(())
            }
            Err(error) => {
                if !same {
                    self.forget(view.into_iter().collect());
                }
                // 404: it was deleted under us; the watch will say so.
                let lost = matches!(code(&error), Some(404 | 409));
                Err(if lost { LeaseError::Conflict } else { away(error) })
            }
        }
    }
}

impl KubernetesLeases {
    /// Returns its name; none for the empty view.
    async fn make_view(&self, lease: &CoordinatorLease) -> Result<Option<String>, LeaseError> {
        if lease.view == cluster::View::default() {
            return Ok(None);
        }
        let object = object::of_view(&self.0.prefix, &lease.view).map_err(away)?;
        let made = bounded(self.0.api.create(&PostParams::default(), &object)).await?.map_err(away)?;
        let name = made.metadata.name.clone();
        self.0.cache.written(&self.0.prefix, made);
        Ok(name)
    }

    /// Deletes views that nothing points to, in the background; one that stays costs a little room only, and is
    /// tried again with the next view.
    fn forget(&self, views: Vec<String>) {
        let api = self.0.api.clone();
        tokio::spawn(async move {
            for view in views {
                if let Ok(Err(error)) = bounded(api.delete(&view, &DeleteParams::default())).await
                    && code(&error) != Some(404)
                {
                    tracing::debug!(%error, view, "old view not deleted");
                }
            }
        });
    }
}
