//! The outbound queue, of all nodes through any one.

use super::{AdminState, ApiError};
use crate::node::Node;
use crate::outbound::control::{PAGE, QueueAnswer, QueueRequest, QueuedMessage};
use crate::wire::{Failure, Request, Response};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use cluster::EntryId;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueuePage {
    pub messages: Vec<QueuedMessage>,
    /// Nodes whose messages are missing here, because they do not answer.
    pub missing: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Retried {
    pub messages: u64,
}

#[derive(Deserialize)]
pub struct Page {
    limit: Option<usize>,
    after: Option<String>,
}

pub async fn list(
    State(state): State<AdminState>,
    Query(page): Query<Page>,
) -> Result<Json<QueuePage>, ApiError> {
    let limit = page.limit.unwrap_or(100).clamp(1, PAGE);
    let after = page.after.filter(|after| !after.is_empty()).map(|after| parse(&after)).transpose()?;
    let request = QueueRequest::List { after, limit: limit as u32 };
    let (mut messages, mut missing) = (Vec::new(), Vec::new());
    for (name, answer) in ask(&state.node, &request).await {
        match answer {
            Ok(QueueAnswer::Messages(some)) => messages.extend(some),
            _ => missing.push(name),
        }
    }
    messages.sort_by_key(|message| message.id);
    // While a message changes hands two nodes may show it.
    messages.dedup_by_key(|message| message.id);
    messages.truncate(limit);
    Ok(Json(QueuePage { messages, missing }))
}

pub async fn show(
    State(state): State<AdminState>,
    Path(id): Path<String>,
) -> Result<Json<QueuedMessage>, ApiError> {
    match one(&state.node, QueueRequest::Show { id: parse(&id)? }).await? {
        QueueAnswer::Messages(messages) => Ok(Json(messages.into_iter().next().ok_or(Failure::NotFound)?)),
        _ => Err(Failure::Temporary("unexpected answer".into()).into()),
    }
}

pub async fn retry(
    State(state): State<AdminState>,
    Path(id): Path<String>,
) -> Result<Json<Retried>, ApiError> {
    match one(&state.node, QueueRequest::Retry { id: Some(parse(&id)?) }).await? {
        QueueAnswer::Done(messages) => Ok(Json(Retried { messages })),
        _ => Err(Failure::Temporary("unexpected answer".into()).into()),
    }
}

pub async fn retry_all(State(state): State<AdminState>) -> Json<Retried> {
    let answers = ask(&state.node, &QueueRequest::Retry { id: None }).await;
    let done = answers.into_iter().map(|(_, answer)| match answer {
        Ok(QueueAnswer::Done(messages)) => messages,
        _ => 0,
    });
    Json(Retried { messages: done.sum() })
}

pub async fn remove(State(state): State<AdminState>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    one(&state.node, QueueRequest::Drop { id: parse(&id)? }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(id: &str) -> Result<EntryId, Failure> {
    id.parse().map_err(|error| Failure::Invalid(format!("the id of a queued message: {error}")))
}

/// All members that serve, by name.
async fn ask(node: &Arc<Node>, request: &QueueRequest) -> Vec<(String, Result<QueueAnswer, Failure>)> {
    let view = node.topology.now().view.clone();
    let answers = view.serving().map(|member| async move {
        let answer = node.call(member.id, Request::Queue(request.clone()), DEADLINE).await;
        let answer = match answer {
            Ok(Response::Queue(answer)) => Ok(answer),
            Ok(_) => Err(Failure::Temporary("unexpected answer".into())),
            Err(error) => Err(error.into()),
        };
        (member.name.clone(), answer)
    });
    join_all(answers).await
}

/// The answer of the node that holds the message.
async fn one(node: &Arc<Node>, request: QueueRequest) -> Result<QueueAnswer, Failure> {
    let mut missing = Vec::new();
    for (name, answer) in ask(node, &request).await {
        match answer {
            Ok(answer) => return Ok(answer),
            Err(Failure::NotFound) => {}
            Err(failure) => missing.push(format!("{name} ({failure})")),
        }
    }
    if missing.is_empty() {
        return Err(Failure::NotFound);
    }
    Err(Failure::Temporary(format!("no answer from {}", missing.join(", "))))
}
