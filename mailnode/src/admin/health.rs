//! Liveness, readiness, metrics.

use super::AdminState;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use cluster::MemberState;

/// The process runs and answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The node is an active member of a view, its disk takes writes, and its user database can be read.
pub async fn readyz(State(state): State<AdminState>) -> Response {
    match not_ready(&state).await {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn not_ready(state: &AdminState) -> Option<String> {
    let node = &state.node;
    match node.topology.member(node.id).map(|member| member.state) {
        Some(MemberState::Active) => {}
        Some(other) => return Some(format!("this node is {other:?} in the view")),
        None => return Some("this node is in no view yet".into()),
    }
    if node.membership.is_isolated() {
        return Some("cut off from the Lease service and from all peers".into());
    }
    if let Some(reason) = node.store.failed() {
        return Some(format!("the disk takes no writes: {reason}"));
    }
    node.users.is_reachable().await.err().map(|failure| format!("the user database: {failure}"))
}

pub async fn metrics(State(state): State<AdminState>) -> Response {
    state.node.update_gauges();
    match state.node.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
