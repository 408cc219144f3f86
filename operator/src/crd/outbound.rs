//! Mail to other servers: what the nodes' configuration has under `outbound` (docs/outbound.md), with names of Secrets in
//! the place of files. Bounds are those that the nodes check at their start, so that what is accepted here runs there.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Mail to other servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.connectionsPerDestination <= self.connections")
        .message("outbound.connectionsPerDestination must be at most outbound.connections: lower it"),
    validation = Rule::new("!has(self.nameServers) || self.nameServers.all(server, server.matches('^([0-9]{1,3}([.][0-9]{1,3}){3}|\\\\[[0-9a-fA-F:.]+\\\\]):[0-9]{1,5}$'))")
        .message("outbound.nameServers must be IP addresses with ports, such as 192.0.2.53:53 or [2001:db8::53]:53"),
)]
#[serde(rename_all = "camelCase")]
pub struct OutboundSpec {
    /// False: users can write to each other only.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// DNS servers, as address:port. Those of the pods if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 60)))]
    pub name_servers: Vec<String>,
    /// Seconds between attempts; the last is repeated.
    #[serde(default = "waits")]
    #[schemars(length(min = 1, max = 50), inner(range(min = 1, max = 604_800)))]
    pub retry_seconds: Vec<i64>,
    /// The sender of a message that is older than so many seconds is told that it is delayed, once; 0: never.
    #[serde(default = "warning")]
    #[schemars(range(min = 0, max = 2_592_000))]
    pub warn_seconds: i64,
    /// A message that is older than so many seconds is given up, and its sender told.
    #[serde(default = "expiry")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub expire_seconds: i64,
    /// Connections of one node to other servers at one time.
    #[serde(default = "connections")]
    #[schemars(range(min = 1, max = 10_000))]
    pub connections: i32,
    /// Connections of one node to one destination at one time.
    #[serde(default = "connections_per_destination")]
    #[schemars(range(min = 1, max = 10_000))]
    pub connections_per_destination: i32,
    /// Messages that one node keeps track of in memory (about 1 KiB each); more wait on disk.
    #[serde(default = "messages")]
    #[schemars(range(min = 100, max = 10_000_000))]
    pub messages: i32,
    /// All mail goes through this server. Without it, mail goes to the recipients' own servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelaySpec>,
    /// Keys that mail is signed with (RFC 6376), one a domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["domain"]))]
    pub dkim: Vec<DkimSpec>,
}

impl Default for OutboundSpec {
    fn default() -> Self {
        Self {
            enabled: yes(),
            name_servers: Vec::new(),
            retry_seconds: waits(),
            warn_seconds: warning(),
            expire_seconds: expiry(),
            connections: connections(),
            connections_per_destination: connections_per_destination(),
            messages: messages(),
            relay: None,
            dkim: Vec::new(),
        }
    }
}

// As the nodes have them; a test compares.

const fn yes() -> bool {
    true
}

fn waits() -> Vec<i64> {
    vec![300, 600, 900, 1_800, 3_600, 7_200, 14_400]
}

const fn warning() -> i64 {
    14_400
}

const fn expiry() -> i64 {
    432_000
}

const fn connections() -> i32 {
    100
}

const fn connections_per_destination() -> i32 {
    10
}

const fn messages() -> i32 {
    100_000
}

/// A server that takes all mail for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(self.tls == 'required') == has(self.caSecretName)")
        .message("outbound.relay.caSecretName must be given if, and only if, tls is required: it says whose certificates are believed"),
    validation = Rule::new("!has(self.login) || self.tls == 'required'")
        .message("outbound.relay.login needs tls: required, because a password is sent to nobody else: set it, with caSecretName"),
)]
#[serde(rename_all = "camelCase")]
pub struct RelaySpec {
    /// Its name or IP address.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[0-9A-Za-z._:-]+$"))]
    pub host: String,
    /// Its port.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// none; opportunistic: if it offers TLS, whoever its certificate is from; required: with a certificate for its
    /// name, or nothing is sent.
    #[serde(default)]
    pub tls: RelayTls,
    /// Name of a Secret with the key `ca.crt` (PEM): the authorities that the relay's certificate may be from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_secret_name: Option<String>,
    /// How the nodes log in there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<RelayLogin>,
}

/// Whether mail to the relay is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RelayTls {
    None,
    #[default]
    Opportunistic,
    Required,
}

/// Name and password for the relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayLogin {
    /// The account there.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Name of a Secret with the key `password`. When it changes the nodes are restarted one by one.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Mail from this domain is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DkimSpec {
    /// The domain, in lower case.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[0-9a-z]([0-9a-z-]*[0-9a-z])?(\.[0-9a-z]([0-9a-z-]*[0-9a-z])?)*$")
    )]
    pub domain: String,
    /// Names the key in DNS: `<selector>._domainkey.<domain>`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[0-9A-Za-z._-]+$"))]
    pub selector: String,
    /// Name of a Secret with the key `dkim.pem`: a private key, RSA of 2048 bits and more, or Ed25519. When it changes the
    /// nodes are restarted one by one.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}
