//! The schema says what it should, and its copies are current.

use super::*;
use kube::CustomResourceExt;
use serde_json::{Value, json};

fn schema() -> Value {
    let crd = serde_json::to_value(MailCluster::crd()).unwrap();
    crd["spec"]["versions"][0].clone()
}

/// Calls `visit` with every property below `schema` and its path.
fn properties(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        visit(&path, property);
        properties(&path, property, visit);
        properties(&format!("{path}[]"), &property["items"], visit);
    }
}

fn spec(value: Value) -> MailClusterSpec {
    serde_json::from_value(value).unwrap()
}

#[test]
fn every_field_is_described() {
    let version = schema();
    let mut without = Vec::new();
    properties("", &version["schema"]["openAPIV3Schema"], &mut |path, property| {
        if property["description"].as_str().is_none_or(str::is_empty) {
            without.push(path.to_owned());
        }
    });
    assert!(without.is_empty(), "no description: {without:?}");
}

#[test]
fn every_rule_has_a_message() {
    let version = schema();
    let mut rules = 0;
    let mut check = |schema: &Value| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            assert!(rule["message"].as_str().is_some_and(|message| message.len() > 30), "{rule}");
            rules += 1;
        }
    };
    let root = &version["schema"]["openAPIV3Schema"];
    check(root);
    check(&root["properties"]["spec"]);
    properties("", &root["properties"]["spec"], &mut |_, property| check(property));
    assert!(rules >= 12, "{rules}");
}

#[test]
fn defaults_in_the_schema_are_those_of_the_program() {
    let defaults = spec(json!({ "image": "x" }));
    let version = schema();
    let program = serde_json::to_value(&defaults).unwrap();
    properties("", &version["schema"]["openAPIV3Schema"]["properties"]["spec"], &mut |path, property| {
        let Some(default) = property.get("default") else { return };
        let pointer = path.replace('.', "/");
        if let Some(value) = program.pointer(&pointer) {
            assert_eq!(value, default, "{path}");
        }
    });
    assert_eq!((defaults.nodes, defaults.replication.factor, defaults.spread), (3, 2, 2));
}

#[test]
fn defaults_of_outbound_mail_are_those_of_the_nodes() {
    let example = include_str!("../../../mailnode/src/config/example.yaml");
    let example: Value = serde_yaml::from_str(example).unwrap();
    assert_eq!(json!(spec(json!({ "image": "x" })).outbound), without_empty(example["outbound"].clone()));
}

fn without_empty(mut section: Value) -> Value {
    section.as_object_mut().unwrap().retain(|_, value| value != &json!([]));
    section
}

#[test]
fn scale_and_status_are_subresources() {
    let version = schema();
    assert_eq!(version["subresources"]["scale"]["specReplicasPath"], ".spec.nodes");
    assert_eq!(version["subresources"]["scale"]["labelSelectorPath"], ".status.selector");
    assert!(version["subresources"]["status"].is_object());
    let columns = version["additionalPrinterColumns"].as_array().unwrap();
    assert_eq!(columns[0]["name"], "Ready");
}

#[test]
fn the_copies_of_the_crd_are_current() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let current = crd_yaml().unwrap();
    for copy in
        ["crds/mailclusters.prickle.email.yaml", "charts/prickle/crds/mailclusters.prickle.email.yaml"]
    {
        if std::env::var_os("PRICKLE_BLESS").is_some() {
            std::fs::write(root.join(copy), &current).unwrap();
        }
        let text = std::fs::read_to_string(root.join(copy)).unwrap_or_default();
        assert!(text == current, "{copy} is not current: run `prickle-operator crd > {copy}`");
    }
}
