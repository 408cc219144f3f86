//! Volumes that grow, and volumes that are gone.
//!
//! A StatefulSet cannot change the size of its claims: we grow the claims themselves, then replace the StatefulSet
//! and leave its pods running (orphan deletion), so that new nodes get the new size. A claim whose volume is lost,
//! or that a person annotated with `prickle.email/replace: "true"` because its disk is gone with its machine, is
//! deleted together with its pod; the node comes back with an empty disk and is refilled by the others.

use crate::children::{STATEFUL_SET, names};
use crate::crd::MailCluster;
use crate::error::{Error, is_not_found};
use crate::kubernetes::Namespace;
use crate::observe::{POD, VOLUME_CLAIM, typed};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use serde_json::json;

pub async fn claims(
    namespace: &Namespace,
    cluster: &MailCluster,
) -> Result<Vec<PersistentVolumeClaim>, Error> {
    let parameters = ListParams::default().labels(&names::selector_text(cluster)).limit(1000);
    let list =
        namespace.api(VOLUME_CLAIM).list(&parameters).await.map_err(Error::kubernetes("volume claims"))?;
    list.items.into_iter().map(typed).collect()
}

/// The size that new volumes get.
pub fn template_size(stateful_set: &StatefulSet) -> Option<&str> {
    let claim = stateful_set.spec.volume_claim_templates.as_ref()?.first()?;
    requested(claim.spec.as_ref()?)
}

fn requested(spec: &k8s_openapi::api::core::v1::PersistentVolumeClaimSpec) -> Option<&str> {
    Some(&spec.resources.as_ref()?.requests.as_ref()?.get("storage")?.0)
}

/// Brings all claims to the size of the spec, if the StatefulSet was made for another one. True if the StatefulSet
/// was deleted, without its pods, to be made anew.
pub async fn grow(
    namespace: &Namespace,
    cluster: &MailCluster,
    existing: &StatefulSet,
) -> Result<bool, Error> {
    let wanted = cluster.spec.storage.size.as_str();
    if template_size(existing).is_none_or(|size| size == wanted) {
        return Ok(false);
    }
    for claim in claims(namespace, cluster).await? {
        let phase = claim.status.and_then(|status| status.phase);
        let (Some(name), Some(spec)) = (claim.metadata.name, claim.spec) else { continue };
        if requested(&spec) == Some(wanted) {
            continue;
        }
        if phase.as_deref() != Some("Bound") {
            return Err(Error::Refused(format!(
                "{name} has no volume yet, so it cannot grow: waiting for one"
            )));
        }
        let patch = json!({ "spec": { "resources": { "requests": { "storage": wanted } } } });
        let patched =
            namespace.api(VOLUME_CLAIM).patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        match patched {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => {
                return Err(Error::Refused(format!(
                    "{name} cannot grow to {wanted}: {}; set storage.size back, or use a class that allows expansion",
                    status.message
                )));
            }
            Err(error) => return Err(Error::kubernetes(format!("volume claim {name}"))(error)),
        }
    }
    let orphan =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    namespace.delete(STATEFUL_SET, names::of(cluster), existing.metadata.uid.clone(), orphan).await
}

/// Notes on a node's claim that its disk remembers a drain of ours, or that the node was told that it may stay.
pub async fn note_drained(namespace: &Namespace, node: &str, drained: bool) -> Result<(), Error> {
    let claim = format!("data-{node}");
    let annotations = json!({ names::DRAINED_ANNOTATION: drained.then_some("true") });
    let patch = json!({ "metadata": { "annotations": annotations } });
    match namespace.api(VOLUME_CLAIM).patch(&claim, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // No disk, no memory.
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::kubernetes(format!("volume claim {claim}"))(error)),
    }
}

/// Nodes whose disks remember a drain of ours.
pub fn drained(claims: &[PersistentVolumeClaim]) -> Vec<String> {
    let says_so = |claim: &&PersistentVolumeClaim| {
        let annotations = claim.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(names::DRAINED_ANNOTATION)).is_some_and(|said| said == "true")
    };
    let node = |claim: &PersistentVolumeClaim| {
        claim.metadata.name.as_ref()?.strip_prefix("data-").map(str::to_owned)
    };
    claims.iter().filter(says_so).filter_map(node).collect()
}

/// A claim whose disk is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub claim: String,
    /// It was deleted, and waits for its pod to go.
    pub terminating: bool,
}

pub fn lost(claims: &[PersistentVolumeClaim]) -> Vec<Lost> {
    let is_lost = |claim: &&PersistentVolumeClaim| {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        let annotations = claim.metadata.annotations.as_ref();
        let said = annotations.and_then(|annotations| annotations.get(names::REPLACE_ANNOTATION));
        phase == Some("Lost") || said.is_some_and(|said| said == "true")
    };
    let lost = |claim: &PersistentVolumeClaim| {
        let terminating = claim.metadata.deletion_timestamp.is_some();
        Some(Lost { claim: claim.metadata.name.clone()?, terminating })
    };
    claims.iter().filter(is_lost).filter_map(lost).collect()
}

/// Deletes the claim and its pod; the StatefulSet makes both anew. Repeated until the claim is gone, because it
/// cannot go before its pod, and we may have been stopped in between.
pub async fn replace(namespace: &Namespace, lost: &Lost) -> Result<(), Error> {
    let parameters = DeleteParams::default();
    if !lost.terminating {
        namespace.delete(VOLUME_CLAIM, &lost.claim, None, parameters.clone()).await?;
    }
    if let Some(pod) = lost.claim.strip_prefix("data-") {
        // Its machine may be gone, so nobody would confirm an orderly end.
        namespace.delete(POD, pod, None, parameters.grace_period(0)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_lost_when_kubernetes_or_a_person_says_so() {
        let claim = |name: &str, annotation: &str, phase: &str| -> PersistentVolumeClaim {
            let annotations = json!({ names::REPLACE_ANNOTATION: annotation });
            let value = json!({
                "metadata": { "name": name, "annotations": annotations },
                "status": { "phase": phase },
            });
            serde_json::from_value(value).unwrap()
        };
        let mut claims =
            vec![claim("a", "false", "Bound"), claim("b", "true", "Bound"), claim("c", "", "Lost")];
        let names = |claims: &[PersistentVolumeClaim]| -> Vec<String> {
            lost(claims).into_iter().map(|lost| lost.claim).collect()
        };
        assert_eq!(names(&claims), ["b", "c"]);
        assert!(drained(&claims).is_empty());
        claims.truncate(1);
        assert!(names(&claims).is_empty());
    }
}
