//! Between the trait's Leases and Kubernetes' objects.

use cluster::View;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use lease::{CoordinatorLease, MemberLease};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const MEMBER: &str = "prickle.email/member";
const COORDINATOR: &str = "prickle.email/coordinator";
const VIEW: &str = "prickle.email/view";
const CLUSTER_LABEL: &str = "prickle.email/cluster";
/// Kubernetes takes 256 KiB of annotations an object (TotalAnnotationSizeLimitB); some are ours beside the view.
const LARGEST_VIEW: usize = 250 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("{0:?} is no node name: 1 to 63 characters of a-z, 0-9 and '-'")]
    Name(String),
    #[error(
        "a view of {members} members has {bytes} bytes, more than a Lease can carry ({LARGEST_VIEW}): use fewer nodes, or several clusters by domain"
    )]
    ViewTooLarge { members: usize, bytes: usize },
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// One DNS label, so that names made of several have one meaning only.
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub fn member_name(prefix: &str, node: &str) -> String {
    format!("{prefix}.node.{node}")
}

pub fn coordinator_name(prefix: &str) -> String {
    format!("{prefix}.coordinator")
}

pub fn selector(prefix: &str) -> String {
    format!("{CLUSTER_LABEL}={prefix}")
}

/// Seconds for people and tools; the exact duration is in the annotation.
fn seconds(millis: u64) -> i32 {
    i32::try_from(millis.div_ceil(1000)).unwrap_or(i32::MAX).max(1)
}

fn metadata(prefix: &str, name: String, annotations: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        labels: Some([(CLUSTER_LABEL.to_owned(), prefix.to_owned())].into()),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

pub fn of_member(prefix: &str, lease: &MemberLease) -> Result<Lease, ObjectError> {
    if !is_label(&lease.name) {
        return Err(ObjectError::Name(lease.name.clone()));
    }
    let annotations = [(MEMBER.to_owned(), serde_json::to_string(lease)?)].into();
    Ok(Lease {
        metadata: metadata(prefix, member_name(prefix, &lease.name), annotations),
        spec: Some(LeaseSpec {
            holder_identity: Some(lease.name.clone()),
            lease_duration_seconds: Some(seconds(lease.duration_millis)),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    })
}

/// None if it is no node's Lease of this prefix, or nothing that can be understood.
pub fn member(prefix: &str, object: &Lease) -> Option<MemberLease> {
    let text = object.metadata.annotations.as_ref()?.get(MEMBER)?;
    let lease: MemberLease = serde_json::from_str(text).ok()?;
    (object.metadata.name.as_deref() == Some(&member_name(prefix, &lease.name))).then_some(lease)
}

/// What the annotation adds to the object's own fields.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Coordinator {
    holder: Option<String>,
    incarnation: cluster::Incarnation,
    duration_millis: u64,
    version: u64,
}

/// `known`: what it replaces, whose resourceVersion it carries.
pub fn of_coordinator(
    prefix: &str,
    lease: &CoordinatorLease,
    known: Option<&Lease>,
) -> Result<Lease, ObjectError> {
    let view = serde_json::to_string(&lease.view)?;
    if view.len() > LARGEST_VIEW {
        return Err(ObjectError::ViewTooLarge { members: lease.view.members.len(), bytes: view.len() });
    }
    let coordinator = Coordinator {
        holder: lease.holder.clone(),
        incarnation: lease.incarnation,
        duration_millis: lease.duration_millis,
        version: lease.version,
    };
    let annotations =
        [(COORDINATOR.to_owned(), serde_json::to_string(&coordinator)?), (VIEW.to_owned(), view)].into();
    let mut metadata = metadata(prefix, coordinator_name(prefix), annotations);
    metadata.resource_version = known.and_then(|known| known.metadata.resource_version.clone());
    let old = known.and_then(|known| known.spec.as_ref());
    let now = MicroTime(Timestamp::now());
    let same = old.is_some_and(|old| old.holder_identity == lease.holder);
    let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
    Ok(Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: lease.holder.clone(),
            lease_duration_seconds: Some(seconds(lease.duration_millis)),
            acquire_time: old.filter(|_| same).map_or(Some(now.clone()), |old| old.acquire_time.clone()),
            renew_time: Some(now),
            lease_transitions: Some(if same { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }),
    })
}

/// None if it cannot be understood.
pub fn coordinator(object: &Lease) -> Option<CoordinatorLease> {
    let annotations = object.metadata.annotations.as_ref()?;
    let known: Coordinator = serde_json::from_str(annotations.get(COORDINATOR)?).ok()?;
    let view: View = serde_json::from_str(annotations.get(VIEW)?).ok()?;
    Some(CoordinatorLease {
        holder: known.holder,
        incarnation: known.incarnation,
        duration_millis: known.duration_millis,
        version: known.version,
        view,
    })
}
