//! Leases of coordination.k8s.io/v1, the membership service in Kubernetes (DESIGN 5): [`KubernetesLeases`].
//!
//! Objects, all in one namespace, for the prefix (cluster) `mail`:
//! - `mail.node.<name>`: a node's own Lease. What Kubernetes' fields cannot say (addresses, zone, incarnation) is
//!   JSON in the annotation `prickle.email/member`;
//! - `mail.coordinator`: the coordinator Lease. The published view is JSON in the annotation `prickle.email/view`.
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
        let (prefix, api) = (&self.0.prefix, &self.0.api);
        let known = self.0.cache.coordinator_object();
        let known_version = known.as_ref().and_then(object::coordinator).map_or(0, |known| known.version);
        if known_version != expected {
            return Err(LeaseError::Conflict);
        }
        let object = object::of_coordinator(prefix, &lease, known.as_ref()).map_err(away)?;
        let name = object::coordinator_name(prefix);
        let written = match known {
            None => bounded(api.create(&PostParams::default(), &object)).await?,
            Some(_) => bounded(api.replace(&name, &PostParams::default(), &object)).await?,
        };
        match written {
            Ok(written) => {
                self.0.cache.written(prefix, written);
                Ok(())
            }
            // 404: it was deleted under us; the watch will say so.
            Err(error) if matches!(code(&error), Some(404 | 409)) => Err(LeaseError::Conflict),
            Err(error) => Err(away(error)),
        }
    }
}
