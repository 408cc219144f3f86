//! `prickle-operator check`, the chart's test (`helm test`): whether an operator works here. Asks Kubernetes only, with the
//! operator's own rights:
//! - MailClusters can be listed, so the CustomResourceDefinition and our rights are there;
//! - the leader's Lease changes while we look, so some operator leads and reaches the API server.

use crate::children::MANAGER;
use crate::crd::MailCluster;
use crate::kubernetes::Namespace;
use crate::leader::{DURATION, LEASE};
use kube::api::ListParams;
use kube::{Api, Client};
use std::time::{Duration, Instant};

/// Between two looks at the Lease, which is renewed every three seconds.
const LOOK: Duration = Duration::from_secs(1);

/// What is there, in a sentence a line. `own_namespace` is the operator's; no `namespaces` are all.
///
/// # Errors
/// Says what is missing and what to do.
pub async fn check(client: Client, namespaces: &[String], own_namespace: &str) -> Result<String, String> {
    let mut clusters = 0;
    for api in scopes(&client, namespaces) {
        let listed = api.list(&ListParams::default().limit(500)).await;
        let listed = listed.map_err(|error| {
            format!("MailClusters cannot be listed ({error}): apply crds/ of this version, and see what the operator may do")
        })?;
        clusters += listed.items.len();
    }
    let leader = leader(&Namespace { client, name: own_namespace.to_owned() }).await?;
    Ok(format!("{clusters} MailClusters are there\n{leader} leads and looks after them"))
}

fn scopes(client: &Client, namespaces: &[String]) -> Vec<Api<MailCluster>> {
    if namespaces.is_empty() {
        return vec![Api::all(client.clone())];
    }
    namespaces.iter().map(|name| Api::namespaced(client.clone(), name)).collect()
}

/// Who renews the Lease; waits for as long as a new leader may need.
async fn leader(own: &Namespace) -> Result<String, String> {
    let begun = Instant::now();
    let mut first = None;
    while begun.elapsed() < DURATION * 2 {
        let found = own.get(LEASE, MANAGER).await.map_err(|error| error.to_string())?;
        if let Some(found) = found {
            let version = found.metadata.resource_version.clone();
            let holder = found.data["spec"]["holderIdentity"].as_str().unwrap_or_default();
            let changed = first.get_or_insert_with(|| version.clone()) != &version;
            if changed && !holder.is_empty() {
                return Ok(holder.to_owned());
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(format!("nobody renews Lease {MANAGER}, so no operator works: see the log of the operator's pods"))
}
