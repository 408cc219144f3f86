//! Plays what an API server alone has not: the StatefulSet controller and the kubelets. Pods of an image whose name
//! contains "bad" never get ready. Every pod's node is a [`FakeCluster`] member on its own loopback address.

use super::nodes::FakeCluster;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Plays until it is dropped.
pub fn play(client: Client, namespace: &'static str, nodes: FakeCluster) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            if let Err(error) = pass(&client, namespace, &nodes).await {
                // Conflicts with the operator are part of the game.
                eprintln!("kubelet: {error}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}

fn revision(set: &StatefulSet) -> String {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&set.spec.template).unwrap().hash(&mut hasher);
    format!("{:x}", hasher.finish())
}

async fn pass(client: &Client, namespace: &str, nodes: &FakeCluster) -> Result<(), kube::Error> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut alive = BTreeSet::new();
    for set in sets.list(&ListParams::default()).await?.items {
        if set.metadata.deletion_timestamp.is_some() {
            // The garbage collector: its pods stay.
            let lift = json!({ "metadata": { "finalizers": null } });
            sets.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(&lift)).await?;
            return Ok(());
        }
        let newest = revision(&set);
        let replicas = set.spec.replicas.unwrap_or(0);
        let name = set.name_any();
        for ordinal in 0..replicas {
            let pod = format!("{name}-{ordinal}");
            alive.insert(pod.clone());
            match pods.get_opt(&pod).await? {
                Some(known) => report(&pods, &known, ordinal, nodes).await?,
                None => create(client, namespace, &set, &pod, &newest).await?,
            }
        }
        let status = json!({ "status": {
            "replicas": replicas,
            "observedGeneration": set.metadata.generation,
            "updateRevision": newest,
        }});
        let parameters = PatchParams::default();
        sets.patch_status(&name, &parameters, &Patch::Merge(&status)).await?;
    }
    for pod in pods.list(&ListParams::default()).await?.items {
        if alive.is_empty() && nodes.with(|inner| inner.orphans_stay) {
            break;
        }
        if !alive.contains(&pod.name_any()) {
            nodes.gone(&pod.name_any());
            pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
        }
    }
    Ok(())
}

async fn create(
    client: &Client,
    namespace: &str,
    set: &StatefulSet,
    name: &str,
    revision: &str,
) -> Result<(), kube::Error> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim_name = format!("data-{name}");
    let known = claims.get_opt(&claim_name).await?;
    if known.as_ref().is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
        // As the StatefulSet controller: no pod before its old claim is gone.
        return Ok(());
    }
    if known.is_none() {
        let templates = serde_json::to_value(&set.spec.volume_claim_templates).unwrap();
        let mut claim = templates[0].clone();
        claim["metadata"]["name"] = claim_name.as_str().into();
        claim["spec"]["storageClassName"] = "standard".into();
        claim["spec"]["volumeName"] = format!("volume-of-{name}").into();
        claims.create(&PostParams::default(), &serde_json::from_value(claim.clone()).unwrap()).await?;
        let size = claim["spec"]["resources"]["requests"].clone();
        let bound =
            json!({ "status": { "phase": "Bound", "capacity": size, "accessModes": ["ReadWriteOnce"] } });
        claims.patch_status(&claim_name, &PatchParams::default(), &Patch::Merge(&bound)).await?;
    }
    let mut pod: Value = serde_json::to_value(&set.spec.template).unwrap();
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["labels"]["controller-revision-hash"] = revision.into();
    let volume = json!({ "name": "data", "persistentVolumeClaim": { "claimName": claim_name } });
    pod["spec"]["volumes"].as_array_mut().unwrap().push(volume);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await?;
    Ok(())
}

async fn report(pods: &Api<Pod>, pod: &Pod, ordinal: i32, nodes: &FakeCluster) -> Result<(), kube::Error> {
    let image = pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone()).unwrap_or_default();
    let name = pod.name_any();
    let bad = image.contains("bad");
    let known = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).is_some();
    if known {
        return Ok(());
    }
    let status = if bad {
        nodes.gone(&name);
        json!({
            "phase": "Pending",
            "podIP": nodes.address(ordinal).to_string(),
            "podIPs": [{ "ip": nodes.address(ordinal).to_string() }],
            "conditions": [{ "type": "Ready", "status": "False" }],
            "containerStatuses": [{
                "name": "mailnode", "image": image, "imageID": "", "ready": false, "restartCount": 0,
                "state": { "waiting": { "reason": "ImagePullBackOff" } },
            }],
        })
    } else {
        nodes.starts(&name, ordinal).await;
        json!({
            "phase": "Running",
            "podIP": nodes.address(ordinal).to_string(),
            "podIPs": [{ "ip": nodes.address(ordinal).to_string() }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        })
    };
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&json!({ "status": status }))).await?;
    Ok(())
}
