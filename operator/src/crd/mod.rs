//! `MailCluster`: what a person writes to get a mail service, and what the operator answers in its status.
//!
//! The schema is the contract: every field has a description, defaults are in the schema (so `kubectl get -o yaml`
//! shows what holds), and what must not happen is refused by the API server with a CEL rule whose message says
//! what to do. `prickle-operator crd` prints it; `crds/` and the chart carry copies that a test compares.

mod encryption;
mod network;
mod outbound;
mod platform;
mod status;
mod storage;

pub use encryption::EncryptionSpec;
pub use network::{
    CertManagerTls, IssuerReference, ListenersSpec, NetworkPolicySpec, SecretTls, SelfSignedTls, ServiceSpec,
    ServiceType, TlsSpec,
};
pub use outbound::{DkimSpec, OutboundSpec, RelayLogin, RelaySpec, RelayTls};
pub use platform::{
    AutoscalingSpec, KedaSpec, LimitsSpec, MonitoringSpec, PodSpec, ResourcesSpec, WhenUnsatisfiable,
    ZonesSpec,
};
pub use status::{Condition, ConditionStatus, MailClusterStatus, Quarantine};
pub use storage::{
    EmbeddedDatabase, ReplicationSpec, Retention, RetentionPolicy, StorageSpec, TikvDatabase,
    UserDatabaseSpec,
};

use kube::{CustomResource, CustomResourceExt, KubeSchema};
use serde::{Deserialize, Serialize};

/// API group of everything that the operator defines; also the prefix of its labels and annotations.
pub const GROUP: &str = "prickle.email";

/// What is wanted of the mail service.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "prickle.email",
    version = "v1alpha1",
    kind = "MailCluster",
    plural = "mailclusters",
    shortname = "mc",
    category = "prickle",
    namespaced,
    derive = "PartialEq",
    status = "MailClusterStatus",
    doc = "A mail service of identical nodes that replicate mail among themselves.",
    scale(
        spec_replicas_path = ".spec.nodes",
        status_replicas_path = ".status.nodes",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.readyNodes"),
    printcolumn(name = "Under-replicated", type_ = "integer", json_path = ".status.underReplicatedEntries"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Waiting for", type_ = "string", json_path = ".status.waitingFor", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 40 characters that begins with a letter, because pods and certificates are named after it: choose a shorter name without dots")
)]
#[x_kube(
    validation = Rule::new("self.nodes >= self.replication.factor")
        .message("nodes must be at least replication.factor, or mail could not be stored: raise nodes or lower replication.factor"),
    validation = Rule::new("!has(self.autoscaling) || self.autoscaling.minNodes >= self.replication.factor")
        .message("autoscaling.minNodes must be at least replication.factor: raise minNodes"),
    validation = Rule::new("has(self.clusterSecretName) == has(oldSelf.clusterSecretName) && (!has(self.clusterSecretName) || self.clusterSecretName == oldSelf.clusterSecretName)")
        .message("clusterSecretName cannot change: bodies are encrypted with it. Make a new MailCluster and move the mail"),
)]
#[serde(rename_all = "camelCase")]
pub struct MailClusterSpec {
    /// Number of mail nodes. Before a node is taken away its mail is moved to the others.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 500))]
    pub nodes: i32,

    /// Container image of the mail node.
    #[schemars(length(min = 1, max = 500))]
    pub image: String,

    /// When the image is pulled.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,

    /// Names of Secrets of this namespace with credentials for the image's registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub image_pull_secrets: Vec<String>,

    /// The name that clients and other mail servers know this service by, for example mail.example.org. It is in
    /// the certificate and in the greeting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host_name: Option<String>,

    /// Domains that mail is accepted for. They are added to the user database; a domain that is taken out of this
    /// list stays there (with its accounts) until `mailnode domain remove`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 253)))]
    pub domains: Vec<String>,

    /// The volume of each node.
    #[serde(default)]
    pub storage: StorageSpec,

    /// Copies of each message.
    #[serde(default)]
    pub replication: ReplicationSpec,

    /// Soft bound on the number of nodes that hold one user's mail.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 1000))]
    pub spread: i32,

    /// Where accounts, domains and aliases are kept.
    #[serde(default)]
    pub user_database: UserDatabaseSpec,

    /// Which protocols are offered.
    #[serde(default)]
    pub listeners: ListenersSpec,

    /// The Service that clients connect to.
    #[serde(default)]
    pub service: ServiceSpec,

    /// Certificate of the mail protocols. Between the nodes there is always mutual TLS with a CA of the cluster's own.
    #[serde(default)]
    pub tls: TlsSpec,

    /// Name of a Secret with the key `secret`: at least 32 random bytes from which the keys of all bodies are made.
    /// Without it the operator makes one. Whoever loses it loses the mail: back it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub cluster_secret_name: Option<String>,

    /// Whose keys mail is encrypted with.
    #[serde(default)]
    pub encryption: EncryptionSpec,

    /// CPU and memory of each node.
    #[serde(default)]
    pub resources: ResourcesSpec,

    /// Bounds that protect the nodes from clients.
    #[serde(default)]
    pub limits: LimitsSpec,

    /// Mail to other servers.
    #[serde(default)]
    pub outbound: OutboundSpec,

    /// How nodes are spread over failure domains.
    #[serde(default)]
    pub zones: ZonesSpec,

    /// Changes `nodes` by load. The operator then leaves `nodes` to the autoscaler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,

    /// Objects for Prometheus and Grafana, made where their kinds exist.
    #[serde(default)]
    pub monitoring: MonitoringSpec,

    /// Who may connect to the nodes.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,

    /// What pods get beside what the operator decides.
    #[serde(default)]
    pub pod: PodSpec,

    /// Filter of the nodes' logs, as of the `tracing` crate.
    #[serde(default = "info")]
    #[schemars(length(min = 1, max = 500))]
    pub log_filter: String,

    /// True: the operator changes nothing, and only reports the status.
    #[serde(default)]
    pub paused: bool,
}

/// When the image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum PullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

fn three() -> i32 {
    3
}

fn two() -> i32 {
    2
}

fn info() -> String {
    "info".into()
}

/// An object whose content is that of another Kubernetes type, which the API server checks when the operator
/// passes it on.
fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// A list of such objects.
fn any_objects(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 100,
        "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }
    })
}

/// The CustomResourceDefinition as YAML, as `crds/` and the chart carry it.
///
/// # Errors
/// If it cannot be written as YAML, which a test excludes.
pub fn crd_yaml() -> Result<String, serde_yaml::Error> {
    let yaml = serde_yaml::to_string(&MailCluster::crd())?;
    Ok(format!("# Generated by `prickle-operator crd`. Do not edit.\n{yaml}"))
}

#[cfg(test)]
mod tests;
