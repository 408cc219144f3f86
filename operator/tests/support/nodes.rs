//! A stand-in for the mail nodes: it answers the admin API's calls that the operator makes, nothing else. It exists
//! because this test is about the operator and a real API server; real nodes are the business of the end-to-end test.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

#[derive(Clone, Default)]
pub struct FakeCluster(Arc<Mutex<Inner>>);

#[derive(Default)]
pub struct Inner {
    /// Nodes that live, and how far they are drained (entries to move; None: not asked).
    pub members: BTreeMap<String, Option<u64>>,
    pub under_replicated: u64,
    /// Nodes whose logs were put aside: when, and why.
    pub quarantined: BTreeMap<String, (i64, String)>,
    /// False: nodes of a version that cannot move mail.
    pub can_drain: bool,
    pub domains: BTreeSet<String>,
    pub tokens: BTreeSet<String>,
    /// Pods without a StatefulSet stay, as after an orphan deletion.
    pub orphans_stay: bool,
    listening: BTreeSet<i32>,
    network: u8,
}

impl FakeCluster {
    pub fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    /// With loopback addresses of its own, so that several can be there at one time.
    pub fn of_network(network: u8) -> Self {
        let new = Self::default();
        new.with(|inner| inner.network = network);
        new
    }

    pub fn address(&self, ordinal: i32) -> IpAddr {
        let network = 77 + self.with(|inner| inner.network);
        Ipv4Addr::new(127, 0, network, 10 + u8::try_from(ordinal).unwrap()).into()
    }

    pub fn gone(&self, name: &str) {
        self.with(|inner| inner.members.remove(name));
    }

    pub async fn starts(&self, name: &str, ordinal: i32) {
        if self.with(|inner| inner.listening.insert(ordinal)) {
            let address = (self.address(ordinal), operator::children::config::HTTP_PORT);
            let listener = TcpListener::bind(address).await.unwrap();
            let router = Router::new()
                .route("/v1/cluster", get(cluster))
                .route("/v1/cluster/members/{name}/drain", put(drain).delete(cancel))
                .route("/v1/domains", post(domain))
                .with_state(self.clone());
            tokio::spawn(async move { axum::serve(listener, router).await });
        }
        self.with(|inner| {
            inner.members.entry(name.to_owned()).or_default();
        });
    }
}

async fn cluster(State(nodes): State<FakeCluster>, headers: HeaderMap) -> Json<Value> {
    nodes.with(|inner| {
        if let Some(token) = headers.get("authorization") {
            inner.tokens.insert(token.to_str().unwrap().to_owned());
        }
        let members = inner.members.iter().map(|(name, drained)| {
            let state = if drained.is_some() { "draining" } else { "active" };
            let mut member = json!({ "name": name, "state": state, "reachable": true });
            let quarantined = inner.quarantined.get(name);
            let quarantined = quarantined.map(|(at, reason)| json!({ "at": at, "reason": reason }));
            member["node"] = json!({ "quarantined": quarantined });
            if inner.can_drain {
                member["drain"] = match drained {
                    None => json!({ "state": "none" }),
                    Some(0) => json!({ "state": "done" }),
                    Some(entries) => json!({ "state": "moving", "entriesToMove": entries }),
                };
            }
            member
        });
        let members: Vec<Value> = members.collect();
        Json(json!({ "epoch": 3, "members": members, "underReplicatedEntries": inner.under_replicated }))
    })
}

async fn drain(State(nodes): State<FakeCluster>, Path(name): Path<String>) -> StatusCode {
    nodes.with(|inner| match inner.members.get_mut(&name) {
        Some(drained) if inner.can_drain => {
            drained.get_or_insert(5);
            StatusCode::ACCEPTED
        }
        _ => StatusCode::NOT_FOUND,
    })
}

async fn cancel(State(nodes): State<FakeCluster>, Path(name): Path<String>) -> StatusCode {
    nodes.with(|inner| inner.members.insert(name, None));
    StatusCode::NO_CONTENT
}

async fn domain(State(nodes): State<FakeCluster>, Json(body): Json<Value>) -> StatusCode {
    let domain = body["domain"].as_str().unwrap().to_owned();
    match nodes.with(|inner| inner.domains.insert(domain)) {
        true => StatusCode::CREATED,
        false => StatusCode::CONFLICT,
    }
}
