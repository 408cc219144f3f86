//! How clients reach the nodes: protocols, Service, certificates, network policy.

use super::any_objects;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Which protocols are offered, each on its standard port of the Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenersSpec {
    /// Mail from other servers, port 25.
    pub smtp: bool,
    /// Mail from users with STARTTLS, port 587.
    pub submission: bool,
    /// Mail from users, TLS from the start, port 465.
    pub submissions: bool,
    /// Mail from a gateway on a trusted network, port 24. It asks for no password: leave it off unless the network
    /// policy keeps others away.
    pub lmtp: bool,
    /// IMAP with STARTTLS, port 143.
    pub imap: bool,
    /// IMAP, TLS from the start, port 993.
    pub imaps: bool,
    /// POP3 with STLS, port 110.
    pub pop3: bool,
    /// POP3, TLS from the start, port 995.
    pub pop3s: bool,
}

impl Default for ListenersSpec {
    fn default() -> Self {
        Self {
            smtp: true,
            submission: true,
            submissions: true,
            lmtp: false,
            imap: true,
            imaps: true,
            pop3: false,
            pop3s: true,
        }
    }
}

/// The Service that clients connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.loadBalancerClass) || self.type == 'LoadBalancer'")
    .message("service.loadBalancerClass needs service.type LoadBalancer"))]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// ClusterIP, NodePort or LoadBalancer.
    #[serde(default, rename = "type")]
    pub service_type: ServiceType,
    /// Annotations of the Service, for example for the load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Class of the load balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_class: Option<String>,
    /// Addresses (CIDR) that may use the load balancer; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub load_balancer_source_ranges: Vec<String>,
    /// True: a connection goes to a node of the machine that it arrived at, and keeps its client's address, which
    /// spam checks need. Machines without a mail node then take no connections.
    #[serde(default)]
    pub preserve_client_address: bool,
}

/// Types of Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

/// Certificate of the mail protocols: exactly one of the fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("[has(self.selfSigned), has(self.secret), has(self.certManager)].filter(given, given).size() == 1")
    .message("tls must have exactly one of selfSigned, secret and certManager: write `selfSigned: null` beside another one"))]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Issued and rotated by the operator from a CA of the cluster's own; its certificate is in the ConfigMap
    /// `<name>-ca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signed: Option<SelfSignedTls>,
    /// From a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretTls>,
    /// From cert-manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_manager: Option<CertManagerTls>,
}

impl Default for TlsSpec {
    fn default() -> Self {
        Self { self_signed: Some(SelfSignedTls::default()), secret: None, cert_manager: None }
    }
}

/// Certificates that the operator issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SelfSignedTls {
    /// Days that certificates are valid; they are renewed when a third of that is left.
    #[schemars(range(min = 3, max = 3650))]
    pub validity_days: i32,
}

impl Default for SelfSignedTls {
    fn default() -> Self {
        Self { validity_days: 365 }
    }
}

/// A certificate from a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretTls {
    /// Name of a Secret of type kubernetes.io/tls in this namespace. When it changes the nodes are restarted one by
    /// one.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A certificate from cert-manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertManagerTls {
    /// Who issues it.
    pub issuer_ref: IssuerReference,
}

/// An issuer of cert-manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IssuerReference {
    /// Name of the issuer.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Issuer or ClusterIssuer.
    #[serde(default = "issuer")]
    pub kind: String,
    /// API group of the issuer.
    #[serde(default = "cert_manager")]
    pub group: String,
}

fn issuer() -> String {
    "Issuer".into()
}

fn cert_manager() -> String {
    "cert-manager.io".into()
}

/// Who may connect to the nodes. The nodes' own protocol is never open to others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicySpec {
    /// False: no NetworkPolicy is made.
    pub enabled: bool,
    /// Peers (as in a NetworkPolicy's `from`) that may use the mail ports; anybody if empty.
    #[schemars(schema_with = "any_objects")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<Value>,
    /// Peers that may use the admin API and read metrics, beside the operator and the nodes.
    #[schemars(schema_with = "any_objects")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub monitoring: Vec<Value>,
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self { enabled: true, clients: Vec::new(), monitoring: Vec::new() }
    }
}
