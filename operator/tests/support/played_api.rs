//! An API server that is played in memory, so that a pass over a cluster takes milliseconds, every request is seen, and any
//! request can be made to fail. It keeps objects by their path, merges patches field by field, gives out uids,
//! generations and resource versions, and knows label selectors by equality. It checks nothing: no schema, no rights, no
//! owners. What depends on those is tested on a real API server (`api_server.rs`).

use super::nodes::FakeCluster;
use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use operator::children::merge;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
pub struct PlayedApi(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    /// API groups with their resources, for discovery.
    groups: BTreeMap<String, Vec<String>>,
    requests: Vec<String>,
    faults: Vec<Fault>,
    revision: u64,
}

struct Fault {
    method: Method,
    /// What the path ends with.
    path: String,
    /// None: the connection breaks.
    status: Option<u16>,
    times: usize,
}

impl PlayedApi {
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { api.answer(request).await }
        });
        Client::new(service, "default")
    }

    /// The next `times` requests like this fail, with a status or (None) a broken connection.
    pub fn fail(&self, method: Method, path_end: &str, status: Option<u16>, times: usize) {
        let fault = Fault { method, path: path_end.into(), status, times };
        self.with(|inner| inner.faults.push(fault));
    }

    /// Method and path of all requests since the last call.
    pub fn take_requests(&self) -> Vec<String> {
        self.with(|inner| std::mem::take(&mut inner.requests))
    }

    pub fn serve_kind(&self, group: &str, plural: &str) {
        self.with(|inner| inner.groups.entry(group.into()).or_default().push(plural.into()));
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.with(|inner| inner.objects.get(path).cloned())
    }

    /// As somebody else would write it: merged into what is there.
    pub fn merge(&self, path: &str, value: Value) {
        self.with(|inner| inner.write(path, value));
    }

    pub fn remove(&self, path: &str) {
        self.with(|inner| inner.objects.remove(path));
    }

    /// All objects whose path contains this, with their paths.
    pub fn all(&self, part: &str) -> Vec<(String, Value)> {
        self.with(|inner| {
            inner
                .objects
                .iter()
                .filter(|(path, _)| path.contains(part))
                .map(|(path, object)| (path.clone(), object.clone()))
                .collect()
        })
    }

    /// Plays the StatefulSet controller and the kubelets: pods and claims are as the StatefulSets say.
    pub async fn run_pods(&self, namespace: &str, nodes: &FakeCluster) {
        for (path, set) in self.all(&format!("/namespaces/{namespace}/statefulsets/")) {
            let mut hasher = DefaultHasher::new();
            set["spec"]["template"].to_string().hash(&mut hasher);
            let newest = format!("{:x}", hasher.finish());
            let name = set["metadata"]["name"].as_str().unwrap();
            let replicas = set["spec"]["replicas"].as_i64().unwrap() as i32;
            let seen =
                json!({ "observedGeneration": set["metadata"]["generation"], "updateRevision": newest });
            self.merge(&path, json!({ "status": seen }));
            for ordinal in 0..replicas {
                let pod = format!("{name}-{ordinal}");
                let labels = set["spec"]["template"]["metadata"]["labels"].clone();
                let claim = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/data-{pod}");
                if self.get(&claim).is_none() {
                    let metadata = json!({ "name": format!("data-{pod}"), "labels": labels });
                    self.merge(&claim, json!({ "metadata": metadata, "status": { "phase": "Bound" } }));
                }
                let at = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
                if self.get(&at).is_some() {
                    continue;
                }
                nodes.starts(&pod, ordinal).await;
                let mut labels = labels;
                labels["controller-revision-hash"] = newest.as_str().into();
                let ready = json!([{ "type": "Ready", "status": "True" }]);
                let body = json!({
                    "metadata": { "name": pod, "namespace": namespace, "labels": labels },
                    "spec": set["spec"]["template"]["spec"],
                    "status": { "podIP": nodes.address(ordinal).to_string(), "conditions": ready },
                });
                self.merge(&at, body);
            }
            for (at, pod) in self.all(&format!("/namespaces/{namespace}/pods/{name}-")) {
                let pod = pod["metadata"]["name"].as_str().unwrap();
                let ordinal: i32 = pod.rsplit('-').next().unwrap().parse().unwrap();
                if ordinal >= replicas {
                    nodes.gone(pod);
                    self.remove(&at);
                }
            }
        }
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
        let (status, answer) = self.with(|inner| {
            inner.requests.push(format!("{} {path}", parts.method));
            let fault = inner
                .faults
                .iter_mut()
                .find(|fault| fault.times > 0 && fault.method == parts.method && path.ends_with(&fault.path));
            if let Some(fault) = fault {
                fault.times -= 1;
                return match fault.status {
                    Some(status) => Ok(refusal(status, "played")),
                    None => Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
                };
            }
            Ok(inner.answer(&parts.method, &path, &query, body))
        })?;
        let builder = Response::builder().status(status).header("content-type", "application/json");
        builder.body(Body::from(answer.to_string().into_bytes())).map_err(std::io::Error::other)
    }
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason, "reason": reason, "code": code,
    });
    (code, status)
}

impl Inner {
    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> (u16, Value) {
        // /api/v1/namespaces/NS/PLURAL[/NAME[/SUBRESOURCE]], the same below /apis/GROUP/VERSION, or discovery.
        let Some((_, rest)) = path.split_once("/namespaces/") else { return self.discover(path) };
        let words: Vec<&str> = rest.split('/').collect();
        let at = path.strip_suffix("/status").unwrap_or(path);
        match (method.as_str(), words.len()) {
            ("GET", 2) => (200, self.list(path, query)),
            ("GET", _) => self.found(at),
            ("POST", _) => {
                let name = body["metadata"]["name"].as_str().unwrap_or("unnamed").to_owned();
                let at = format!("{path}/{name}");
                if self.objects.contains_key(&at) {
                    return refusal(409, "AlreadyExists");
                }
                (201, self.write(&at, body))
            }
            ("PATCH", _) if body.is_array() => self.patch_json(at, &body),
            // Only an apply makes objects.
            ("PATCH", _) if !query.contains("fieldManager") && !self.objects.contains_key(at) => {
                refusal(404, "NotFound")
            }
            ("PATCH", _) => (200, self.write(at, body)),
            ("DELETE", _) => match self.objects.remove(at) {
                Some(object) => (200, object),
                None => refusal(404, "NotFound"),
            },
            _ => refusal(405, "MethodNotAllowed"),
        }
    }

    fn discover(&self, path: &str) -> (u16, Value) {
        let group = path.trim_start_matches("/apis/");
        let Some(plurals) = self.groups.get(group) else { return refusal(404, "NotFound") };
        let resource = |name: &String| json!({ "name": name, "singularName": "", "namespaced": true, "kind": "Any", "verbs": [] });
        let resources: Vec<Value> = plurals.iter().map(resource).collect();
        (200, json!({ "kind": "APIResourceList", "groupVersion": group, "resources": resources }))
    }

    fn found(&self, at: &str) -> (u16, Value) {
        self.objects.get(at).map_or_else(|| refusal(404, "NotFound"), |object| (200, object.clone()))
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let selector = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector="));
        let wanted: Vec<(String, String)> = selector
            .unwrap_or_default()
            .replace("%3D", "=")
            .replace("%2C", ",")
            .replace("%2F", "/")
            .split(',')
            .filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.into(), value.into())))
            .collect();
        let is_wanted = |object: &&Value| {
            let labels = &object["metadata"]["labels"];
            wanted.iter().all(|(name, value)| labels[name.as_str()] == value.as_str())
        };
        let prefix = format!("{path}/");
        let items = self.objects.iter().filter(|(at, _)| at.starts_with(&prefix)).map(|(_, object)| object);
        let items: Vec<&Value> = items.filter(is_wanted).collect();
        json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items })
    }

    /// Nothing happens if nothing changes, as on a real one.
    fn write(&mut self, at: &str, body: Value) -> Value {
        let known = self.objects.get(at).cloned();
        let mut object = known.clone().unwrap_or_default();
        merge(&mut object, body);
        drop_nulls(&mut object);
        if known.as_ref() == Some(&object) {
            return object;
        }
        self.revision += 1;
        let changed = known.as_ref().is_none_or(|known| known["spec"] != object["spec"]);
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = self.revision.to_string().into();
        if known.is_none() {
            metadata["uid"] = format!("uid-{}", self.revision).into();
        }
        if changed {
            metadata["generation"] = (metadata["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        self.objects.insert(at.to_owned(), object.clone());
        object
    }

    /// The three operations that finalizers need.
    fn patch_json(&mut self, at: &str, operations: &Value) -> (u16, Value) {
        let Some(mut object) = self.objects.get(at).cloned() else { return refusal(404, "NotFound") };
        for operation in operations.as_array().into_iter().flatten() {
            let path = operation["path"].as_str().unwrap();
            let (parent, last) = path.rsplit_once('/').unwrap();
            match operation["op"].as_str() {
                Some("test") => {
                    if object.pointer(path).unwrap_or(&Value::Null) != &operation["value"] {
                        return refusal(422, "Invalid");
                    }
                }
                Some("add") => object.pointer_mut(parent).unwrap()[last] = operation["value"].clone(),
                Some("remove") => {
                    object.pointer_mut(parent).unwrap().as_array_mut().unwrap().remove(last.parse().unwrap());
                }
                other => panic!("{other:?} is not played"),
            }
        }
        let is_finished = object["metadata"]["deletionTimestamp"].is_string()
            && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        match is_finished {
            true => self.objects.remove(at),
            false => self.objects.insert(at.to_owned(), object.clone()),
        };
        (200, object)
    }
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}
