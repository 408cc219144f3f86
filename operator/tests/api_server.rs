//! The operator against a real kube-apiserver, with the rights of its own ServiceAccount as the manifests give them.
//! One server for all, one story after the other; `make operator-e2e` builds and names the binaries.

mod apiserver;
mod support;

use apiserver::ApiServer;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use operator::crd::{ConditionStatus, MailCluster};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::story::{NAMESPACE, Story, apply, apply_with, documents, eventually, mail_cluster, stays};
use tokio::task::JoinHandle;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver and etcd: make operator-e2e"]
async fn a_mail_cluster_lives_on_a_real_api_server() {
    let server = ApiServer::start().await;
    let story = Story::begin(&server).await;
    story.what_the_chart_renders_is_accepted().await;
    story.samples_are_accepted_and_bad_specs_refused().await;
    let operator = story.start_operator("one").await;
    story.created().await;
    story.drift_is_undone_and_what_others_set_stays().await;
    story.scaled_up_and_down_behind_the_drain().await;
    story.updated_one_by_one_and_not_while_copies_are_missing().await;
    story.a_bad_image_stops_and_is_rolled_back().await;
    story.volumes_grow().await;
    story.a_lost_volume_is_replaced().await;
    story.optional_objects_come_and_go().await;
    story.a_given_certificate_is_waited_for_and_used().await;
    story.paused_means_hands_off().await;
    story.nodes_that_cannot_drain_stay().await;
    story.an_operator_killed_in_a_scale_down_is_continued_by_the_next(operator).await;
    story.deleted_without_its_nodes_and_with_its_secret_kept().await;
}

impl Story {
    async fn what_the_chart_renders_is_accepted(&self) {
        let office = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "office" } });
        apply(&self.admin, &office).await.unwrap();
        for render in ["default", "namespaced", "cluster"] {
            for mut document in documents(&format!("operator/tests/golden/chart/{render}.yaml")) {
                if document["kind"] == "Deployment" {
                    // The one of the manifests is there, and a selector cannot change.
                    document["metadata"]["name"] = "of-the-chart".into();
                }
                let parameters = PatchParams { dry_run: true, ..PatchParams::apply("helm").force() };
                apply_with(&self.admin, &document, parameters).await.unwrap();
            }
        }
    }

    async fn samples_are_accepted_and_bad_specs_refused(&self) {
        let create = async |spec: Value| {
            let cluster: MailCluster = serde_json::from_value(mail_cluster("try", spec)).unwrap();
            let parameters = PostParams { dry_run: true, ..PostParams::default() };
            self.clusters.create(&parameters, &cluster).await.map_err(|error| error.to_string())
        };
        for sample in ["smallest", "production", "autoscaling-keda", "autoscaling-metrics"] {
            for document in documents(&format!("manifests/samples/{sample}.yaml")) {
                apply(&self.admin, &document).await.unwrap();
                self.clusters.delete("mail", &DeleteParams::default()).await.unwrap();
            }
        }
        let refused = [
            (json!({ "image": "x", "nodes": 1 }), "raise nodes or lower replication.factor"),
            (
                json!({ "image": "x", "replication": { "factor": 2, "minCopies": 3 } }),
                "lower minCopies or raise factor",
            ),
            (json!({ "image": "x", "userDatabase": {} }), "exactly one of embedded and tikv"),
            (
                json!({ "image": "x", "userDatabase": { "tikv": { "pdEndpoints": ["http://pd"] } } }),
                "must each be host:port",
            ),
            (json!({ "image": "x", "userDatabase": { "tikv": { "pdEndpoints": [] } } }), "at least 1 items"),
            (
                json!({ "image": "x", "tls": { "selfSigned": {}, "secret": { "name": "y" } } }),
                "exactly one of selfSigned, secret and certManager",
            ),
            (json!({ "image": "x", "autoscaling": { "minNodes": 4, "maxNodes": 3 } }), "raise maxNodes"),
            (json!({ "image": "x", "autoscaling": { "minNodes": 1, "maxNodes": 3 } }), "raise minNodes"),
            (
                json!({ "image": "x", "service": { "loadBalancerClass": "y" } }),
                "needs service.type LoadBalancer",
            ),
            (json!({ "image": "x", "storage": { "size": "much" } }), "storage.size"),
        ];
        for (spec, message) in refused {
            let error = create(spec.clone()).await.unwrap_err();
            assert!(error.contains(message), "{spec}: {error}");
        }
        let long = mail_cluster(&"x".repeat(41), json!({ "image": "x" }));
        assert!(apply(&self.admin, &long).await.unwrap_err().to_string().contains("choose a shorter name"));
    }

    async fn created(&self) {
        let started = Instant::now();
        let spec = json!({ "image": "prickle:1", "domains": ["example.org"], "nodes": 3, "hostName": "mail.example.org" });
        apply(&self.admin, &mail_cluster("mail", spec)).await.unwrap();
        self.settled().await;
        eprintln!("{:>6} ms  from apply to Ready", started.elapsed().as_millis());
        eventually("the domain is added", || async {
            self.nodes.with(|inner| inner.domains.contains("example.org"))
        })
        .await;
        let status = self.cluster().await.status.unwrap();
        assert_eq!((status.nodes, status.ready_nodes, status.updated_nodes), (3, 3, 3));
        assert_eq!(status.version.as_deref(), Some("prickle:1"));
        assert_eq!(status.waiting_for, None);
        let secrets: Api<Secret> = Api::namespaced(self.admin.clone(), NAMESPACE);
        let keys = async |name: &str| -> Vec<String> {
            secrets.get(name).await.unwrap().data.into_iter().flatten().map(|(key, _)| key).collect()
        };
        assert_eq!(
            keys("mail-node-tls").await,
            ["mail-0.crt", "mail-0.key", "mail-1.crt", "mail-1.key", "mail-2.crt", "mail-2.key"]
        );
        assert_eq!(keys("mail-mail-tls").await, ["tls.crt", "tls.key"]);
        assert_eq!(keys("mail-cluster-secret").await, ["secret"]);
        // All calls carried the token of the Secret.
        let token = secrets.get("mail-admin").await.unwrap().data.unwrap()["token"].0.clone();
        let expected = format!("Bearer {}", String::from_utf8(token).unwrap());
        assert_eq!(self.nodes.with(|inner| inner.tokens.clone()), [expected].into());
        // The scale subresource is what an autoscaler reads.
        let scale = self.clusters.get_scale("mail").await.unwrap();
        assert_eq!(scale.spec.unwrap().replicas, Some(3));
        assert_eq!(scale.status.unwrap().replicas, 3);
    }

    async fn drift_is_undone_and_what_others_set_stays(&self) {
        let services: Api<Service> = Api::namespaced(self.admin.clone(), NAMESPACE);
        let patch = json!({
            "metadata": { "annotations": { "somebody": "else" } },
            "spec": { "publishNotReadyAddresses": false },
        });
        services.patch("mail-nodes", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        eventually("our field is back, theirs stays", || async {
            let service = services.get("mail-nodes").await.unwrap();
            service.spec.as_ref().unwrap().publish_not_ready_addresses == Some(true)
                && service.annotations().get("somebody").is_some_and(|value| value == "else")
        })
        .await;
        let maps: Api<ConfigMap> = Api::namespaced(self.admin.clone(), NAMESPACE);
        maps.delete("mail-config", &DeleteParams::default()).await.unwrap();
        eventually("the ConfigMap is back", || async {
            maps.get_opt("mail-config").await.unwrap().is_some()
        })
        .await;
        self.settled().await;
    }

    async fn scaled_up_and_down_behind_the_drain(&self) {
        let before = self.uids().await;
        let scale = json!({ "spec": { "replicas": 5 } });
        self.clusters.patch_scale("mail", &PatchParams::default(), &Patch::Merge(&scale)).await.unwrap();
        self.settled().await;
        let five = self.uids().await;
        assert_eq!((self.replicas().await, five.len()), (5, 5));
        assert!(before.is_subset(&five), "nobody was restarted because two came");
        self.patch(json!({ "nodes": 3 })).await;
        eventually("mail-4 drains", || async {
            self.nodes.with(|inner| inner.members.get("mail-4") == Some(&Some(5)))
        })
        .await;
        eventually("the status says so", || async {
            self.is("ScalingDown", ConditionStatus::True, "MailMoves").await
        })
        .await;
        stays("no pod goes before its mail is elsewhere", || async { self.replicas().await == 5 }).await;
        assert_eq!(self.nodes.with(|inner| inner.members["mail-3"]), None, "one at a time");
        // Called off, and on again.
        self.patch(json!({ "nodes": 5 })).await;
        eventually("mail-4 stays", || async { self.nodes.with(|inner| inner.members["mail-4"].is_none()) })
            .await;
        self.patch(json!({ "nodes": 3 })).await;
        for node in ["mail-4", "mail-3"] {
            eventually("the node drains", || async {
                self.nodes.with(|inner| inner.members.get(node) == Some(&Some(5)))
            })
            .await;
            self.nodes.with(|inner| inner.members.insert(node.into(), Some(0)));
        }
        eventually("three are left", || async { self.replicas().await == 3 && self.uids().await == before })
            .await;
        self.settled().await;
    }

    async fn updated_one_by_one_and_not_while_copies_are_missing(&self) {
        let before = self.uids().await;
        self.nodes.with(|inner| inner.under_replicated = 9);
        self.patch(json!({ "image": "prickle:2" })).await;
        eventually("waits for copies", || async {
            self.is("Degraded", ConditionStatus::True, "UnderReplicated").await
        })
        .await;
        stays("no pod is restarted", || async { self.uids().await == before }).await;
        self.nodes.with(|inner| inner.under_replicated = 0);
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < Duration::from_secs(60));
            let pods = self.pods.list(&ListParams::default()).await.unwrap().items;
            let ready = pods.iter().filter(|pod| {
                let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
                conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
            });
            assert!(ready.count() >= 2, "one at a time");
            let cluster = self.cluster().await;
            if cluster.status.is_some_and(|status| status.version.as_deref() == Some("prickle:2")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(self.uids().await.is_disjoint(&before));
        self.settled().await;
    }

    async fn a_bad_image_stops_and_is_rolled_back(&self) {
        let before = self.uids().await;
        self.patch(json!({ "image": "prickle:bad" })).await;
        eventually("the update stops", || async {
            self.is("Progressing", ConditionStatus::True, "PodNotReady").await
        })
        .await;
        let waiting = self.cluster().await.status.unwrap().waiting_for.unwrap();
        assert!(waiting.contains("mail-2") && waiting.contains("ImagePullBackOff"), "{waiting}");
        stays("the others go on", || async { self.uids().await.intersection(&before).count() == 2 }).await;
        self.patch(json!({ "image": "prickle:2" })).await;
        self.settled().await;
        assert_eq!(self.uids().await.intersection(&before).count(), 2);
    }

    async fn volumes_grow(&self) {
        let before = self.uids().await;
        self.nodes.with(|inner| inner.orphans_stay = true);
        self.patch(json!({ "storage": { "size": "20Gi" } })).await;
        eventually("the class is asked, and does not exist", || async {
            self.cluster()
                .await
                .status
                .unwrap()
                .waiting_for
                .is_some_and(|text| text.contains("allows expansion"))
        })
        .await;
        let class = json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": { "name": "standard" },
            "provisioner": "example.org/none",
            "allowVolumeExpansion": true,
        });
        apply(&self.admin, &class).await.unwrap();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.admin.clone(), NAMESPACE);
        eventually("claims and template grow", || async {
            let claims =
                claims.list(&ListParams::default().labels("app.kubernetes.io/instance=mail")).await.unwrap();
            let set = self.sets.get_opt("mail").await.unwrap();
            let sizes = |text: Value| text.to_string().matches("20Gi").count();
            set.is_some_and(|set| sizes(json!(set)) >= 1)
                && claims.items.len() >= 3
                && claims.items.iter().all(|claim| sizes(json!(claim.spec)) == 1)
        })
        .await;
        self.settled().await;
        assert_eq!(self.uids().await, before, "no pod was touched");
        self.nodes.with(|inner| inner.orphans_stay = false);
        let shrink = json!({ "spec": { "storage": { "size": "10Gi" } } });
        let error =
            self.clusters.patch("mail", &PatchParams::default(), &Patch::Merge(&shrink)).await.unwrap_err();
        assert!(error.to_string().contains("storage.size cannot shrink"), "{error}");
    }

    async fn a_lost_volume_is_replaced(&self) {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.admin.clone(), NAMESPACE);
        let (claim, pod) = (claims.get("data-mail-1").await.unwrap(), self.pods.get("mail-1").await.unwrap());
        let said = json!({ "metadata": { "annotations": { "prickle.email/replace": "true" } } });
        claims.patch("data-mail-1", &PatchParams::default(), &Patch::Merge(&said)).await.unwrap();
        // Kubernetes protects claims that are in use; its controller would lift that with the pod.
        eventually("claim and pod are new", || async {
            let lift = json!({ "metadata": { "finalizers": null } });
            if claims.get("data-mail-1").await.is_ok_and(|now| now.metadata.deletion_timestamp.is_some()) {
                let _ = claims.patch("data-mail-1", &PatchParams::default(), &Patch::Merge(&lift)).await;
            }
            let now = claims.get_opt("data-mail-1").await.unwrap();
            now.is_some_and(|now| now.uid() != claim.uid())
                && self.pods.get_opt("mail-1").await.unwrap().is_some_and(|now| now.uid() != pod.uid())
        })
        .await;
        self.settled().await;
    }

    async fn optional_objects_come_and_go(&self) {
        let names = async |plural: &str| {
            let kind = match plural {
                "networkpolicies" => operator::children::NETWORK_POLICY,
                _ => operator::children::AUTOSCALER,
            };
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.admin.clone(), NAMESPACE, &kind.resource());
            api.list(&ListParams::default()).await.unwrap().items.len()
        };
        self.patch(json!({
            "networkPolicy": { "enabled": false },
            "autoscaling": { "minNodes": 3, "maxNodes": 6 },
            "monitoring": { "serviceMonitor": true },
        }))
        .await;
        eventually("the policy goes, the autoscaler comes", || async {
            names("networkpolicies").await == 0 && names("autoscalers").await == 1
        })
        .await;
        let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(self.admin.clone(), NAMESPACE);
        eventually("an event says that ServiceMonitors do not exist here", || async {
            let events = events.list(&ListParams::default()).await.unwrap();
            events.items.iter().any(|event| event.reason.as_deref() == Some("KindMissing"))
        })
        .await;
        self.patch(json!({
            "networkPolicy": { "enabled": true }, "autoscaling": null, "monitoring": { "serviceMonitor": false },
        }))
        .await;
        eventually("and back", || async {
            names("networkpolicies").await == 1 && names("autoscalers").await == 0
        })
        .await;
        self.settled().await;
    }

    async fn a_given_certificate_is_waited_for_and_used(&self) {
        let before = self.uids().await;
        self.patch(json!({ "tls": { "selfSigned": null, "secret": { "name": "public" } } })).await;
        eventually("the status names the Secret", || async {
            let waiting = self.cluster().await.status.unwrap().waiting_for;
            waiting.is_some_and(|text| text.contains("Secret public") && text.contains("does not exist"))
        })
        .await;
        stays("the nodes go on", || async { self.uids().await == before }).await;
        let pem = BTreeMap::from([("tls.crt", "certificate"), ("tls.key", "key")]);
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": "public", "namespace": NAMESPACE },
            "stringData": pem,
        });
        apply(&self.admin, &secret).await.unwrap();
        eventually("all nodes have it", || async {
            let pods = self.pods.list(&ListParams::default()).await.unwrap().items;
            let mounts = |pod: &Pod| json!(pod).to_string().contains("\"secretName\":\"public\"");
            pods.len() == 3 && pods.iter().all(mounts)
        })
        .await;
        self.settled().await;
    }

    async fn paused_means_hands_off(&self) {
        self.patch(json!({ "paused": true, "nodes": 4 })).await;
        eventually("paused", || async { self.is("Progressing", ConditionStatus::False, "Paused").await })
            .await;
        stays("nothing changes", || async { self.replicas().await == 3 }).await;
        assert!(
            self.is("Degraded", ConditionStatus::False, "AllCopiesThere").await,
            "the nodes are still asked"
        );
        self.patch(json!({ "paused": false, "nodes": 3 })).await;
        self.settled().await;
    }

    async fn nodes_that_cannot_drain_stay(&self) {
        self.nodes.with(|inner| inner.can_drain = false);
        self.patch(json!({ "nodes": 2 })).await;
        eventually("the status says why", || async {
            self.is("ScalingDown", ConditionStatus::False, "DrainUnsupported").await
        })
        .await;
        stays("no node goes", || async { self.replicas().await == 3 }).await;
        self.nodes.with(|inner| inner.can_drain = true);
    }

    async fn an_operator_killed_in_a_scale_down_is_continued_by_the_next(
        &self,
        operator: JoinHandle<Result<(), String>>,
    ) {
        eventually("mail-2 drains", || async {
            self.nodes.with(|inner| inner.members.get("mail-2") == Some(&Some(5)))
        })
        .await;
        operator.abort();
        let _ = operator.await;
        self.nodes.with(|inner| inner.members.insert("mail-2".into(), Some(0)));
        // It must wait for the dead one's Lease.
        self.start_operator("two").await;
        eventually("two are left", || async { self.replicas().await == 2 && self.uids().await.len() == 2 })
            .await;
        self.settled().await;
    }

    async fn deleted_without_its_nodes_and_with_its_secret_kept(&self) {
        let secrets: Api<Secret> = Api::namespaced(self.admin.clone(), NAMESPACE);
        let secret = secrets.get("mail-cluster-secret").await.unwrap().data;
        // No node answers any more, as when all machines are gone.
        self.nodes.with(|inner| inner.members.clear());
        self.clusters.delete("mail", &DeleteParams::default()).await.unwrap();
        eventually("it is gone", || async { self.clusters.get_opt("mail").await.unwrap().is_none() }).await;
        assert_eq!(secrets.get("mail-cluster-secret").await.unwrap().data, secret);
        // There is no garbage collector here: what it would remove.
        self.sets.delete("mail", &DeleteParams::default()).await.unwrap();
        eventually("no pods", || async { self.uids().await.is_empty() }).await;
        // The same name has the same secret again.
        let spec = json!({ "image": "prickle:1", "storage": { "size": "20Gi", "retention": { "whenDeleted": "Delete" } } });
        apply(&self.admin, &mail_cluster("mail", spec)).await.unwrap();
        self.settled().await;
        assert_eq!(secrets.get("mail-cluster-secret").await.unwrap().data, secret);
        self.clusters.delete("mail", &DeleteParams::default()).await.unwrap();
        eventually("the secret goes when asked", || async {
            secrets.get_opt("mail-cluster-secret").await.unwrap().is_none()
        })
        .await;
        self.sets.delete("mail", &DeleteParams::default()).await.unwrap();
    }
}
