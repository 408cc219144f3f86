//! Leader election: of several operators one works, by a Lease of coordination.k8s.io. As everywhere, a Lease has
//! expired when we have not seen it change for its duration by our own clock; clocks are never compared.
//!
//! Two never work at once: the leader renews every [`RENEW`], and one that could not renew for [`GIVE_UP`] ends its
//! process before another may take the Lease, after [`DURATION`].

use crate::children::Kind;
use crate::error::{Error, is_conflict, is_not_found};
use crate::kubernetes::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub const LEASE: Kind = Kind::new("coordination.k8s.io", "v1", "Lease", "leases");
pub const DURATION: Duration = Duration::from_secs(15);
pub const RENEW: Duration = Duration::from_secs(3);
pub const GIVE_UP: Duration = Duration::from_secs(10);

/// One candidate.
pub struct Candidate {
    namespace: Namespace,
    name: String,
    identity: String,
    /// The version that we saw last, and when.
    seen: Option<(String, Instant)>,
}

impl Candidate {
    /// `identity` must be unique, such as the pod's name.
    pub fn new(namespace: Namespace, name: &str, identity: &str) -> Self {
        Self { namespace, name: name.to_owned(), identity: identity.to_owned(), seen: None }
    }

    /// Returns when we lead. Errors are waited out.
    pub async fn lead(&mut self, mut on_answer: impl FnMut()) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => on_answer(),
                Err(error) => tracing::warn!(%error, "leader election"),
            }
            tokio::time::sleep(RENEW).await;
        }
    }

    /// Renews until that fails for too long, or somebody else has the Lease; then the caller must stop at once.
    pub async fn keep(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW).await;
            let left = GIVE_UP.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "leader Lease not renewed"),
                Err(_) => {}
            }
            if renewed.elapsed() >= GIVE_UP {
                return;
            }
        }
    }

    /// Gives the Lease back, so that another need not wait.
    pub async fn resign(&mut self) {
        let Ok(Some(lease)) = self.namespace.get(LEASE, &self.name).await else { return };
        if holder(&lease) == Some(&self.identity) {
            // If it fails, the others wait for the Lease to expire.
            let _ = self.write(lease, "").await;
        }
    }

    /// True if the Lease is ours now.
    async fn attempt(&mut self) -> Result<bool, Error> {
        let Some(lease) = self.namespace.get(LEASE, &self.name).await? else {
            return self.create().await;
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => Instant::now(),
        };
        self.seen = Some((version, since));
        let held = holder(&lease).filter(|holder| !holder.is_empty());
        let free = held.is_none() || held == Some(&self.identity) || since.elapsed() > DURATION;
        let identity = self.identity.clone();
        if free { self.write(lease, &identity).await } else { Ok(false) }
    }

    async fn create(&self) -> Result<bool, Error> {
        let lease: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": self.name },
            "spec": spec(&self.identity, &Value::Null),
        }))
        .map_err(|error| Error::Refused(error.to_string()))?;
        match self.namespace.api(LEASE).create(&PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(Error::kubernetes("leader Lease")(error)),
        }
    }

    /// Compare-and-set by the resourceVersion in `lease`.
    async fn write(&self, mut lease: DynamicObject, identity: &str) -> Result<bool, Error> {
        lease.data["spec"] = spec(identity, &lease.data["spec"]);
        match self.namespace.api(LEASE).replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(false),
            Err(error) => Err(Error::kubernetes("leader Lease")(error)),
        }
    }
}

fn holder(lease: &DynamicObject) -> Option<&str> {
    lease.data.get("spec")?.get("holderIdentity")?.as_str()
}

fn spec(identity: &str, old: &Value) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let same = old["holderIdentity"] == identity;
    let transitions = old["leaseTransitions"].as_i64().unwrap_or(0) + i64::from(!same);
    json!({
        "holderIdentity": identity,
        "leaseDurationSeconds": DURATION.as_secs(),
        "acquireTime": if same { old["acquireTime"].clone() } else { now.as_str().into() },
        "renewTime": now,
        "leaseTransitions": transitions,
    })
}
