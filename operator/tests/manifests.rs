//! Manifests and chart: rights no wider than needed, copies that agree.

use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn documents(path: &str) -> Vec<Value> {
    let text = read(path);
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

fn rules() -> Vec<Value> {
    serde_yaml::from_str(&read("charts/prickle/files/rules.yaml")).unwrap()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn the_operator_has_no_rights_that_it_does_not_need() {
    let mut seen = 0;
    for rule in rules() {
        let (groups, resources, verbs) =
            (words(&rule["apiGroups"]), words(&rule["resources"]), words(&rule["verbs"]));
        let all = groups.iter().chain(&resources).chain(&verbs);
        assert!(all.clone().all(|word| !word.contains('*')), "no wildcards: {rule}");
        for verb in ["escalate", "bind", "impersonate", "deletecollection", "approve", "sign"] {
            assert!(!verbs.iter().any(|given| given == verb), "{verb}: {rule}");
        }
        for resource in
            ["nodes", "pods/exec", "pods/attach", "pods/portforward", "serviceaccounts/token", "namespaces"]
        {
            assert!(!resources.iter().any(|given| given == resource), "{resource}: {rule}");
        }
        if resources.iter().any(|resource| resource == "secrets") {
            assert!(
                !verbs.iter().any(|verb| verb == "list" || verb == "watch" || verb == "update"),
                "{rule}"
            );
        }
        if resources.iter().any(|resource| resource == "pods") {
            assert!(
                !verbs.iter().any(|verb| verb == "create" || verb == "patch" || verb == "update"),
                "{rule}"
            );
        }
        seen += 1;
    }
    assert!(seen > 10);
}

#[test]
fn manifests_and_chart_give_the_same_rights() {
    let documents = documents("manifests/operator/rbac.yaml");
    let role = documents.iter().find(|document| document["kind"] == "ClusterRole").unwrap();
    assert_eq!(role["rules"], Value::from(rules()));
}

#[test]
fn manifests_have_the_current_crd() {
    assert!(read("manifests/crd.yaml") == operator::crd::crd_yaml().unwrap(), "make crds");
}

#[test]
fn manifests_have_the_current_alerts() {
    assert!(
        read("manifests/monitoring/rules.yaml") == operator::children::monitoring::rule_file().unwrap(),
        "make crds"
    );
}

#[test]
fn every_value_of_the_chart_is_in_its_schema() {
    let schema: Value = serde_json::from_str(&read("charts/prickle/values.schema.json")).unwrap();
    let values: Value = serde_yaml::from_str(&read("charts/prickle/values.yaml")).unwrap();
    for (section, content) in values.as_object().unwrap() {
        let properties = &schema["properties"][section]["properties"];
        assert_eq!(schema["properties"][section]["additionalProperties"], false, "{section}");
        for name in content.as_object().unwrap().keys() {
            assert!(properties.get(name).is_some(), "{section}.{name} is not in values.schema.json");
        }
    }
}

#[test]
fn samples_are_of_the_current_type() {
    for sample in ["smallest", "production", "autoscaling-keda", "autoscaling-metrics"] {
        for document in documents(&format!("manifests/samples/{sample}.yaml")) {
            let cluster: operator::crd::MailCluster = serde_json::from_value(document).unwrap();
            assert!(cluster.spec.nodes >= cluster.spec.replication.factor, "{sample}");
        }
    }
}

/// Every `prickle_...` name in a text.
fn metrics(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c: char| !is_part(c)).filter(|word| word.starts_with("prickle_"));
    words.map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
}

#[test]
fn alerts_dashboard_and_samples_use_metrics_that_nodes_have() {
    let nodes = metrics(&read("mailnode/src/metrics.rs"));
    let operator = metrics(&read("operator/src/metrics.rs"));
    for file in [
        "operator/src/children/monitoring.rs",
        "manifests/monitoring/dashboard.json",
        "manifests/samples/autoscaling-keda.yaml",
        "manifests/samples/autoscaling-metrics.yaml",
    ] {
        let used = metrics(&read(file));
        assert!(!used.is_empty(), "{file}");
        for metric in used {
            assert!(nodes.contains(&metric) || operator.contains(&metric), "{file}: {metric}");
        }
    }
    let dashboard: Value = serde_json::from_str(&read("manifests/monitoring/dashboard.json")).unwrap();
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() >= 8));
}
