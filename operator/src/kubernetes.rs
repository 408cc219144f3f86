//! What every part needs of the API server: apply, read, delete; which optional kinds exist.

use crate::children::{Child, Kind, MANAGER};
use crate::crd::MailCluster;
use crate::error::{Error, is_not_found};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer about an optional kind is believed.
const KIND_MEMORY: Duration = Duration::from_secs(45);

/// One namespace of the API server.
#[derive(Clone)]
pub struct Namespace {
    pub client: Client,
    pub name: String,
}

impl Namespace {
    pub fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.name, &kind.resource())
    }

    /// Server-side apply: our fields become what the child says, all others stay.
    pub async fn apply(&self, child: &Child) -> Result<DynamicObject, Error> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.name, &child.resource);
        let parameters = PatchParams::apply(MANAGER).force();
        api.patch(&child.name, &parameters, &Patch::Apply(&child.body))
            .await
            .map_err(Error::kubernetes(format!("{} {}", child.resource.kind, child.name)))
    }

    pub async fn get(&self, kind: Kind, name: &str) -> Result<Option<DynamicObject>, Error> {
        self.api(kind).get_opt(name).await.map_err(Error::kubernetes(format!("{} {name}", kind.kind)))
    }

    /// Deletes the object if it is there and belongs to `owner`. True if it did.
    pub async fn delete_owned(&self, kind: Kind, name: &str, owner: &MailCluster) -> Result<bool, Error> {
        let Some(object) = self.get(kind, name).await? else { return Ok(false) };
        let mut owners = object.metadata.owner_references.iter().flatten();
        if owner.metadata.uid.is_none() || !owners.any(|o| Some(&o.uid) == owner.metadata.uid.as_ref()) {
            return Ok(false);
        }
        self.delete(kind, name, object.metadata.uid, DeleteParams::default()).await
    }

    /// Deletes the object with this uid; gone already is fine. True if it was there.
    pub async fn delete(
        &self,
        kind: Kind,
        name: &str,
        uid: Option<String>,
        parameters: DeleteParams,
    ) -> Result<bool, Error> {
        let preconditions = Preconditions { uid, resource_version: None };
        let parameters = parameters.preconditions(preconditions);
        match self.api(kind).delete(name, &parameters).await {
            Ok(_) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(Error::kubernetes(format!("delete {} {name}", kind.kind))(error)),
        }
    }
}

/// Remembers which optional kinds the cluster has (those of Prometheus, cert-manager, KEDA).
#[derive(Default)]
pub struct OptionalKinds(Mutex<HashMap<&'static str, (bool, Instant)>>);

impl OptionalKinds {
    pub async fn has(&self, client: &Client, kind: Kind) -> Result<bool, Error> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(kind.plural).copied();
        if let Some((exists, at)) = known
            && at.elapsed() < KIND_MEMORY
        {
            return Ok(exists);
        }
        let group = format!("{}/{}", kind.group, kind.version);
        let exists = match client.list_api_group_resources(&group).await {
            Ok(list) => list.resources.iter().any(|resource| resource.name == kind.plural),
            Err(error) if is_not_found(&error) => false,
            Err(error) => return Err(Error::kubernetes(format!("kinds of {group}"))(error)),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(kind.plural, (exists, Instant::now()));
        Ok(exists)
    }
}
