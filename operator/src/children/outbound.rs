//! Mail to other servers: the section of node.yaml, and the Secrets that it needs, which pods see as files.

use super::config::ETC;
use crate::crd::{MailCluster, RelayTls};
use serde_json::{Value, json};

const VOLUME: &str = "outbound";
const CA: &str = "ca.crt";
const PASSWORD: &str = "password";
const SIGNING_KEY: &str = "dkim.pem";

/// One key of a Secret, as a file in the pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    pub secret: String,
    pub key: &'static str,
    /// Below the volume's directory.
    file: String,
}

impl SecretFile {
    /// What is in it, in words.
    pub fn expected(&self) -> &'static str {
        match self.key {
            CA => "certificates (PEM)",
            PASSWORD => "a password",
            _ => "a private key (PEM)",
        }
    }

    /// Whether it looks like that. The nodes look closer at their start.
    pub fn holds(&self, content: &str) -> bool {
        match self.key {
            CA => content.contains("-----BEGIN CERTIFICATE-----"),
            PASSWORD => !content.trim().is_empty(),
            _ => content.contains("-----BEGIN ") && content.contains("PRIVATE KEY-----"),
        }
    }

    fn path(&self) -> String {
        format!("{ETC}/{VOLUME}/{}", self.file)
    }
}

fn relay_ca(cluster: &MailCluster) -> Option<SecretFile> {
    let secret = cluster.spec.outbound.relay.as_ref()?.ca_secret_name.clone()?;
    Some(SecretFile { secret, key: CA, file: "relay-ca.crt".into() })
}

fn relay_password(cluster: &MailCluster) -> Option<SecretFile> {
    let secret = cluster.spec.outbound.relay.as_ref()?.login.as_ref()?.secret_name.clone();
    Some(SecretFile { secret, key: PASSWORD, file: "relay-password".into() })
}

fn signing_keys(cluster: &MailCluster) -> impl Iterator<Item = SecretFile> {
    cluster.spec.outbound.dkim.iter().map(|dkim| SecretFile {
        secret: dkim.secret_name.clone(),
        key: SIGNING_KEY,
        file: format!("dkim-{}.pem", dkim.domain),
    })
}

/// All that pods read at their start. Who changes one of them gets the nodes restarted.
pub fn files(cluster: &MailCluster) -> Vec<SecretFile> {
    relay_ca(cluster).into_iter().chain(relay_password(cluster)).chain(signing_keys(cluster)).collect()
}

/// The section `outbound` of node.yaml.
pub fn section(cluster: &MailCluster) -> Value {
    let spec = &cluster.spec.outbound;
    let mut section = json!({
        "enabled": spec.enabled,
        "nameServers": spec.name_servers,
        "retrySeconds": spec.retry_seconds,
        "warnSeconds": spec.warn_seconds,
        "expireSeconds": spec.expire_seconds,
        "connections": spec.connections,
        "connectionsPerDestination": spec.connections_per_destination,
        "messages": spec.messages,
    });
    if let Some(relay) = &spec.relay {
        section["relay"] = json!({ "host": relay.host, "port": relay.port, "tls": relay.tls });
        if let Some(ca) = relay_ca(cluster).filter(|_| relay.tls == RelayTls::Required) {
            section["relay"]["ca"] = ca.path().into();
        }
        if let (Some(login), Some(password)) = (&relay.login, relay_password(cluster)) {
            section["relay"]["login"] = json!({ "name": login.name, "passwordFile": password.path() });
        }
    }
    let dkim = spec.dkim.iter().zip(signing_keys(cluster)).map(
        |(dkim, file)| json!({ "domain": dkim.domain, "selector": dkim.selector, "keyFile": file.path() }),
    );
    let dkim: Vec<Value> = dkim.collect();
    if !dkim.is_empty() {
        section["dkim"] = dkim.into();
    }
    section
}

/// The volume with the files, and where it is mounted; None if there are none.
pub fn volume(cluster: &MailCluster) -> Option<(Value, Value)> {
    let sources: Vec<Value> = files(cluster)
        .iter()
        .map(|file| {
            let items = [json!({ "key": file.key, "path": file.file })];
            json!({ "secret": { "name": file.secret, "items": items } })
        })
        .collect();
    (!sources.is_empty()).then(|| {
        (
            json!({ "name": VOLUME, "projected": { "defaultMode": 0o440, "sources": sources } }),
            json!({ "name": VOLUME, "mountPath": format!("{ETC}/{VOLUME}"), "readOnly": true }),
        )
    })
}
