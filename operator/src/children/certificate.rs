//! cert-manager's Certificate for the mail protocols.

use super::secrets::mail_names;
use super::{CERTIFICATE, Child, child, names};
use crate::crd::MailCluster;
use serde_json::json;

/// None unless cert-manager is asked for.
pub fn certificate(cluster: &MailCluster) -> Option<Child> {
    let issuer = &cluster.spec.tls.cert_manager.as_ref()?.issuer_ref;
    // A public issuer signs public names only.
    let public: Vec<String> = cluster.spec.host_name.iter().cloned().collect();
    let dns = if public.is_empty() { mail_names(cluster) } else { public };
    let content = json!({
        "spec": {
            "secretName": names::mail_certificate(cluster),
            "dnsNames": dns,
            "privateKey": { "algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always" },
            "issuerRef": issuer,
        }
    });
    Some(child(cluster, CERTIFICATE, &names::mail_certificate(cluster), content))
}
