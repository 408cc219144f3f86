//! Secrets, and the ConfigMap with the CA's certificate. What is in them is made by module `certificates`.

use super::{CONFIG_MAP, Child, SECRET, child, names, orphan};
use crate::certificates::{Authorities, MailCertificate, NodeCertificates};
use crate::crd::MailCluster;
use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

/// Key of the CA's state in its Secret.
pub const AUTHORITIES: &str = "authorities.json";
/// Annotation that says until when and by whom the certificates in a Secret were issued.
pub const BATCH_ANNOTATION: &str = "prickle.email/batch";

/// Names under which clients know the service.
pub fn mail_names(cluster: &MailCluster) -> Vec<String> {
    let (name, namespace) = (names::of(cluster), names::namespace(cluster));
    let service = [format!("{name}.{namespace}.svc"), format!("{name}.{namespace}"), name.to_owned()];
    cluster.spec.host_name.iter().cloned().chain(service).collect()
}

/// The CA with its key: the operator's alone.
pub fn ca_key(cluster: &MailCluster, authorities: &Authorities) -> Child {
    let text = json!(authorities).to_string();
    child(cluster, SECRET, &names::ca_key(cluster), opaque(AUTHORITIES, &text))
}

/// Certificates of all CAs that nodes and clients should trust now.
pub fn ca(cluster: &MailCluster, authorities: &Authorities) -> Child {
    child(cluster, CONFIG_MAP, &names::ca(cluster), json!({ "data": { "ca.crt": authorities.bundle() } }))
}

/// Certificate and key of each node, as `<node>.crt` and `<node>.key`.
pub fn node_certificates(cluster: &MailCluster, certificates: &NodeCertificates) -> Child {
    let content = json!({
        "metadata": { "annotations": { BATCH_ANNOTATION: json!(certificates.batch).to_string() } },
        "type": "Opaque",
        "data": data(certificates.files.iter().map(|(name, pem)| (name.as_str(), pem.as_str()))),
    });
    child(cluster, SECRET, &names::node_certificates(cluster), content)
}

pub fn mail_certificate(cluster: &MailCluster, certificate: &MailCertificate) -> Child {
    let content = json!({
        "metadata": { "annotations": { BATCH_ANNOTATION: json!(certificate.batch).to_string() } },
        "type": "kubernetes.io/tls",
        "data": data([("tls.crt", certificate.certificate_pem.as_str()), ("tls.key", &certificate.key_pem)]),
    });
    child(cluster, SECRET, &names::mail_certificate(cluster), content)
}

pub fn admin_token(cluster: &MailCluster, token: &str) -> Child {
    child(cluster, SECRET, &names::admin_token(cluster), opaque("token", token))
}

/// It has no owner: the volumes that it unlocks may outlive the MailCluster.
pub fn cluster_secret(cluster: &MailCluster, secret: &str) -> Child {
    orphan(cluster, SECRET, &names::cluster_secret(cluster), opaque("secret", secret))
}

fn opaque(key: &str, value: &str) -> Value {
    json!({ "type": "Opaque", "data": data([(key, value)]) })
}

/// `data` and not `stringData`: the API server forgets who owns a key of the latter, and would never remove one.
fn data<'a>(content: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let encode = |value: &str| json!(ByteString(value.as_bytes().to_vec()));
    content.into_iter().map(|(name, value)| (name.to_owned(), encode(value))).collect::<Map<_, _>>().into()
}
