//! What is kept, how often, and where.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The volume of each node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0")
        .message("storage.size cannot shrink, because volumes cannot: keep the size, or make a new MailCluster and move the mail"),
    validation = Rule::new("has(self.className) == has(oldSelf.className) && (!has(self.className) || self.className == oldSelf.className)")
        .message("storage.className cannot change, because volumes cannot move: make a new MailCluster and move the mail"),
)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// Size of each volume, a Kubernetes quantity. It can grow (if the storage class allows), never shrink.
    #[serde(default = "ten_gibibytes")]
    #[schemars(regex(pattern = r"^[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"), length(max = 30))]
    pub size: String,
    /// Storage class; the default class of the Kubernetes cluster if absent. Disks of the node's own (local
    /// volumes) are fine: mail is replicated by the mail nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// What becomes of volumes that are no longer used.
    #[serde(default)]
    pub retention: Retention,
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self { size: ten_gibibytes(), class_name: None, retention: Retention::default() }
    }
}

fn ten_gibibytes() -> String {
    "10Gi".into()
}

/// What becomes of volumes that are no longer used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    /// When the MailCluster is deleted: Retain keeps volumes and the cluster secret, so that a MailCluster of the
    /// same name has all mail again; Delete removes both for ever.
    pub when_deleted: RetentionPolicy,
    /// When a node is taken away after its mail was moved to the others.
    pub when_scaled: RetentionPolicy,
}

/// Keep or remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetentionPolicy {
    #[default]
    Retain,
    Delete,
}

/// Copies of each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.minCopies <= self.factor")
    .message("replication.minCopies must be at most replication.factor: lower minCopies or raise factor"))]
#[serde(rename_all = "camelCase")]
pub struct ReplicationSpec {
    /// Copies of each message, on different nodes.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 7))]
    pub factor: i32,
    /// So many copies must be on disk before the sender is told that the message is accepted.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 7))]
    pub min_copies: i32,
    /// A node that has been dead for so many seconds is taken for lost: its messages get new copies on other nodes.
    #[serde(default = "ten_minutes")]
    #[schemars(range(min = 30, max = 604_800))]
    pub replace_after_seconds: i32,
}

fn ten_minutes() -> i32 {
    600
}

fn two() -> i32 {
    2
}

impl Default for ReplicationSpec {
    fn default() -> Self {
        Self { factor: 2, min_copies: 2, replace_after_seconds: ten_minutes() }
    }
}

/// Where accounts, domains and aliases are kept: exactly one of the fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.embedded) != has(self.tikv)")
        .message("userDatabase must have exactly one of embedded and tikv: with tikv, also write `embedded: null`"),
    validation = Rule::new("has(self.embedded) == has(oldSelf.embedded)")
        .message("userDatabase cannot change its kind while accounts are in it: make a new MailCluster and move the accounts"),
)]
#[serde(rename_all = "camelCase")]
pub struct UserDatabaseSpec {
    /// Kept and replicated by the mail nodes themselves: for trials and small clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedded: Option<EmbeddedDatabase>,
    /// Kept in TiKV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tikv: Option<TikvDatabase>,
}

impl Default for UserDatabaseSpec {
    fn default() -> Self {
        Self { embedded: Some(EmbeddedDatabase::default()), tikv: None }
    }
}

/// The embedded user database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EmbeddedDatabase {
    /// Copies of each account's record; never more than there are nodes.
    #[schemars(range(min = 1, max = 7))]
    pub replicas: i32,
}

impl Default for EmbeddedDatabase {
    fn default() -> Self {
        Self { replicas: 3 }
    }
}

/// A TiKV cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.keyPrefix == oldSelf.keyPrefix")
    .message("userDatabase.tikv.keyPrefix cannot change: the accounts are stored under it"))]
#[serde(rename_all = "camelCase")]
pub struct TikvDatabase {
    /// Addresses host:port of the placement drivers (PD).
    #[schemars(length(min = 1, max = 20), inner(length(min = 3, max = 260)))]
    #[x_kube(validation = Rule::new("self.all(endpoint, endpoint.matches('^[^/:]+:[0-9]+$'))")
        .message("userDatabase.tikv.pdEndpoints must each be host:port of a TiKV placement driver, for example pd.tikv.svc:2379"))]
    pub pd_endpoints: Vec<String>,
    /// Name of a Secret with ca.crt, tls.crt and tls.key for mutual TLS with PD and TiKV; without it there is no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret_name: Option<String>,
    /// All keys begin with it, so that several clusters can share one TiKV.
    #[serde(default = "key_prefix")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9/_.-]+$"), length(min = 1, max = 100))]
    pub key_prefix: String,
}

fn key_prefix() -> String {
    "prickle/".into()
}
