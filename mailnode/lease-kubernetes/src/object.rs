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

/// Kubernetes adds something random.
fn view_prefix(prefix: &str) -> String {
    format!("{prefix}.view-")
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

/// What the annotation of the coordinator Lease says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Coordinator {
    pub holder: Option<String>,
    pub incarnation: cluster::Incarnation,
    pub duration_millis: u64,
    pub version: u64,
    /// Name of the object with the view; None: nothing was published yet.
    pub view: Option<String>,
}

impl Coordinator {
    pub fn with(self, view: View) -> CoordinatorLease {
        CoordinatorLease {
            holder: self.holder,
            incarnation: self.incarnation,
            duration_millis: self.duration_millis,
            version: self.version,
            view,
        }
    }
}

/// `view`: name of its object. `known`: what it replaces, whose resourceVersion it carries.
pub fn of_coordinator(
    prefix: &str,
    lease: &CoordinatorLease,
    view: Option<String>,
    known: Option<&Lease>,
) -> Result<Lease, ObjectError> {
    let coordinator = Coordinator {
        holder: lease.holder.clone(),
        incarnation: lease.incarnation,
        duration_millis: lease.duration_millis,
        version: lease.version,
        view,
    };
    let annotations = [(COORDINATOR.to_owned(), serde_json::to_string(&coordinator)?)].into();
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
pub fn coordinator(object: &Lease) -> Option<Coordinator> {
    serde_json::from_str(object.metadata.annotations.as_ref()?.get(COORDINATOR)?).ok()
}

pub fn of_view(prefix: &str, view: &View) -> Result<Lease, ObjectError> {
    let text = serde_json::to_string(view)?;
    if text.len() > LARGEST_VIEW {
        return Err(ObjectError::ViewTooLarge { members: view.members.len(), bytes: text.len() });
    }
    let mut metadata = metadata(prefix, String::new(), [(VIEW.to_owned(), text)].into());
    metadata.name = None;
    metadata.generate_name = Some(view_prefix(prefix));
    Ok(Lease { metadata, spec: Some(LeaseSpec::default()) })
}

/// Name and content, if it is a view of this prefix.
pub fn view(prefix: &str, object: &Lease) -> Option<(String, View)> {
    let name = object.metadata.name.as_ref().filter(|name| name.starts_with(&view_prefix(prefix)))?;
    let view = serde_json::from_str(object.metadata.annotations.as_ref()?.get(VIEW)?).ok()?;
    Some((name.clone(), view))
}
