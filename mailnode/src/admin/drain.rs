//! Draining a node, through any node.

use super::{AdminState, ApiError};
use crate::healing::{DrainProgress, set_draining};
use crate::wire::{Failure, Request, Response};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use cluster::NodeId;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

pub async fn begin(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    set_draining(&state.node, &name, true).await?;
    Ok(StatusCode::ACCEPTED)
}

pub async fn cancel(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    set_draining(&state.node, &name, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn progress(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<DrainProgress>, ApiError> {
    let id = NodeId::of_name(&name);
    state.node.topology.member(id).ok_or(Failure::NotFound)?;
    match state.node.call(id, Request::DrainProgress, DEADLINE).await.map_err(Failure::from)? {
        Response::DrainProgress(progress) => Ok(Json(progress)),
        _ => Err(Failure::Temporary("unexpected answer".into()).into()),
    }
}
