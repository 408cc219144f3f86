//! Brings the cluster's secrets and certificates up to date. What is in a Secret that we made is only ever replaced
//! by what module `certificates` says; the cluster secret is made once and never touched again.

use crate::certificates::{
    Authorities, Batch, MailCertificate, NodeCertificates, Previous, UnixSeconds, fingerprint,
};
use crate::children::{SECRET, names, outbound, secrets};
use crate::crd::MailCluster;
use crate::error::{Error, is_conflict};
use crate::kubernetes::Namespace;
use k8s_openapi::ByteString;
use kube::api::{DynamicObject, PostParams};
use rand::RngCore;
use std::collections::BTreeMap;

/// Validity of node certificates when the mail certificate comes from elsewhere.
const NODE_VALIDITY_DAYS: u64 = 365;
/// The nodes refuse shorter ones.
const SHORTEST_TOKEN: usize = 16;

/// What the rest of a pass needs to know.
pub struct Credentials {
    /// Of all that pods read at their start. A change means a restart.
    pub hash: String,
}

/// `nodes`: names of all nodes that there are or will be. `rolled_out`: the hash with which all nodes run, if all
/// run with the same.
pub async fn ensure(
    namespace: &Namespace,
    cluster: &MailCluster,
    nodes: &[String],
    now: UnixSeconds,
    rolled_out: Option<&str>,
) -> Result<Credentials, Error> {
    cluster_secret(namespace, cluster).await?;
    let outbound = outbound_secrets(namespace, cluster).await?;
    let fixed: Vec<&str> = outbound.iter().map(String::as_str).collect();
    admin_token(namespace, cluster).await?;
    let stored = stored_authorities(namespace, cluster).await?;
    let mail_now = mail_certificate(namespace, cluster).await?;
    // All nodes trust the stored CAs if they run with a hash that was made of them.
    let trusted = match (&stored, &mail_now) {
        (Some(stored), Some(mail)) => {
            let batch = node_certificates(namespace, cluster).await?.map(|known| known.batch);
            batch.is_some_and(|batch| Some(hash(stored, &batch, mail, &fixed).as_str()) == rolled_out)
        }
        _ => false,
    };
    let authorities =
        Authorities::advance(stored.clone(), names::of(cluster), now, trusted, Previous::of(cluster))?;
    if stored.as_ref() != Some(&authorities) {
        namespace.apply(&secrets::ca_key(cluster, &authorities)).await?;
    }
    let bundle = secrets::ca(cluster, &authorities);
    namespace.apply(&bundle).await?;

    let known = node_certificates(namespace, cluster).await?;
    let validity = cluster.spec.tls.self_signed.map_or(NODE_VALIDITY_DAYS, |tls| tls.validity_days as u64);
    let node_tls = NodeCertificates::renew(known.clone(), &authorities, nodes, now, validity)?;
    if known.as_ref() != Some(&node_tls) {
        namespace.apply(&secrets::node_certificates(cluster, &node_tls)).await?;
    }
    let mail = if cluster.spec.tls.self_signed.is_some() {
        let names = secrets::mail_names(cluster);
        let mail = MailCertificate::renew(
            mail_now.clone().and_then(Mail::ours),
            &authorities,
            &names,
            now,
            validity,
        )?;
        if mail_now.and_then(Mail::ours).as_ref() != Some(&mail) {
            namespace.apply(&secrets::mail_certificate(cluster, &mail)).await?;
        }
        Mail { certificate_pem: mail.certificate_pem, key_pem: mail.key_pem, batch: Some(mail.batch) }
    } else {
        mail_now.ok_or_else(|| {
            Error::Refused(format!(
                "Secret {} with tls.crt and tls.key does not exist (yet): make it, or wait for cert-manager",
                names::mail_certificate(cluster)
            ))
        })?
    };
    Ok(Credentials { hash: hash(&authorities, &node_tls.batch, &mail, &fixed) })
}

/// The certificate of the mail ports, whoever issued it.
#[derive(Clone)]
struct Mail {
    certificate_pem: String,
    key_pem: String,
    batch: Option<Batch>,
}

impl Mail {
    fn ours(self) -> Option<MailCertificate> {
        let Self { certificate_pem, key_pem, batch } = self;
        batch.map(|batch| MailCertificate { batch, certificate_pem, key_pem })
    }
}

/// `fixed`: of what is not ours to renew.
fn hash(authorities: &Authorities, batch: &Batch, mail: &Mail, fixed: &[&str]) -> String {
    let batch = serde_json::to_string(batch).unwrap_or_default();
    let bundle = authorities.bundle();
    fingerprint(&[&[bundle.as_str(), &batch, &mail.certificate_pem], fixed].concat())
}

/// What the nodes read to send mail to others. That it is there and looks right is seen here, before a pod fails to start.
async fn outbound_secrets(namespace: &Namespace, cluster: &MailCluster) -> Result<Vec<String>, Error> {
    let mut known: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut contents = Vec::new();
    for file in outbound::files(cluster) {
        if !known.contains_key(&file.secret) {
            let secret = namespace.get(SECRET, &file.secret).await?;
            known.insert(file.secret.clone(), secret.map(|secret| data(&secret)).unwrap_or_default());
        }
        let content = known.get(&file.secret).and_then(|data| data.get(file.key));
        match content.filter(|content| file.holds(content)) {
            Some(content) => contents.push(content.clone()),
            None => {
                return Err(Error::Refused(format!(
                    "Secret {}, named by outbound, needs the key `{}` with {}: make it so",
                    file.secret,
                    file.key,
                    file.expected()
                )));
            }
        }
    }
    Ok(contents)
}

/// `data` of a Secret as text; what is not text is left out.
fn data(secret: &DynamicObject) -> BTreeMap<String, String> {
    let data = secret.data.get("data").cloned().unwrap_or_default();
    let data: BTreeMap<String, ByteString> = serde_json::from_value(data).unwrap_or_default();
    data.into_iter().filter_map(|(name, value)| Some((name, String::from_utf8(value.0).ok()?))).collect()
}

fn batch(secret: &DynamicObject) -> Option<Batch> {
    let text = secret.metadata.annotations.as_ref()?.get(secrets::BATCH_ANNOTATION)?;
    serde_json::from_str(text).ok()
}

async fn stored_authorities(
    namespace: &Namespace,
    cluster: &MailCluster,
) -> Result<Option<Authorities>, Error> {
    let name = names::ca_key(cluster);
    let Some(secret) = namespace.get(SECRET, &name).await? else { return Ok(None) };
    let text = data(&secret).remove(secrets::AUTHORITIES).unwrap_or_default();
    // Making a new CA instead would cut all nodes off from each other.
    let broken = |error| {
        Error::Refused(format!(
            "Secret {name} is damaged ({error}): restore it, or delete it to get a new CA and restart all nodes"
        ))
    };
    serde_json::from_str(&text).map(Some).map_err(broken)
}

async fn node_certificates(
    namespace: &Namespace,
    cluster: &MailCluster,
) -> Result<Option<NodeCertificates>, Error> {
    let secret = namespace.get(SECRET, &names::node_certificates(cluster)).await?;
    Ok(secret.and_then(|secret| Some(NodeCertificates { batch: batch(&secret)?, files: data(&secret) })))
}

async fn mail_certificate(namespace: &Namespace, cluster: &MailCluster) -> Result<Option<Mail>, Error> {
    let Some(secret) = namespace.get(SECRET, &names::mail_certificate(cluster)).await? else {
        return Ok(None);
    };
    let batch = batch(&secret);
    let mut data = data(&secret);
    Ok(match (data.remove("tls.crt"), data.remove("tls.key")) {
        (Some(certificate_pem), Some(key_pem)) => Some(Mail { certificate_pem, key_pem, batch }),
        _ => None,
    })
}

/// The token of the admin API, if there is one: enough to ask the nodes, and changes nothing.
pub async fn known_token(namespace: &Namespace, cluster: &MailCluster) -> Result<Option<String>, Error> {
    let secret = namespace.get(SECRET, &names::admin_token(cluster)).await?;
    let token = secret.and_then(|secret| data(&secret).remove("token"));
    Ok(token.filter(|token| token.len() >= SHORTEST_TOKEN))
}

async fn admin_token(namespace: &Namespace, cluster: &MailCluster) -> Result<(), Error> {
    if known_token(namespace, cluster).await?.is_none() {
        namespace.apply(&secrets::admin_token(cluster, &random_hexadecimal())).await?;
    }
    Ok(())
}

/// Made once; whoever else makes one first wins. Its versions are the keys `secret`, `secret-2`, `secret-3`, ...; nodes take over a
/// new one while they run.
async fn cluster_secret(namespace: &Namespace, cluster: &MailCluster) -> Result<(), Error> {
    let name = names::cluster_secret(cluster);
    let given = cluster.spec.cluster_secret_name.is_some();
    if let Some(secret) = namespace.get(SECRET, &name).await? {
        let long_enough = |value: &&ByteString| value.0.len() >= 32;
        let value: BTreeMap<String, ByteString> =
            serde_json::from_value(secret.data.get("data").cloned().unwrap_or_default()).unwrap_or_default();
        let mut versions =
            value.iter().filter(|(key, _)| *key == "secret" || key.starts_with("secret-")).peekable();
        if versions.peek().is_none() || !versions.all(|(_, value)| long_enough(&value)) {
            return Err(Error::Refused(format!(
                "Secret {name} needs the key `secret` (or `secret-2`, ...) with at least 32 bytes: restore it from its backup; the mail cannot be read without it"
            )));
        }
        return Ok(());
    }
    if given {
        return Err(Error::Refused(format!(
            "Secret {name}, named by clusterSecretName, does not exist: make it with the key `secret`, at least 32 random bytes"
        )));
    }
    let value = random_hexadecimal();
    let child = secrets::cluster_secret(cluster, &value);
    let object: DynamicObject =
        serde_json::from_value(child.body).map_err(|error| Error::Refused(error.to_string()))?;
    match namespace.api(SECRET).create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(error) if is_conflict(&error) => {
            Err(Error::Refused(format!("Secret {name} was made by somebody else just now: looking again")))
        }
        Err(error) => Err(Error::kubernetes(format!("Secret {name}"))(error)),
    }
}

/// 256 random bits as 64 characters.
fn random_hexadecimal() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Removes the cluster secret that we made: the mail on the volumes, if any are left, cannot be read any more.
pub async fn forget(namespace: &Namespace, cluster: &MailCluster) -> Result<(), Error> {
    if cluster.spec.cluster_secret_name.is_none() {
        let parameters = kube::api::DeleteParams::default();
        namespace.delete(SECRET, &names::cluster_secret(cluster), None, parameters).await?;
    }
    Ok(())
}
