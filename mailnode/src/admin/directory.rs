//! Accounts, domains and aliases.

use super::{AdminState, ApiError};
use crate::wire::Failure;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, ApiError>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    pub address: String,
    pub password: String,
    /// Bytes; 0 or absent is unlimited.
    #[serde(default)]
    pub quota_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    pub password: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDomain {
    pub domain: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    pub address: String,
    pub targets: Vec<String>,
}

/// What is shown of an account. Never its credentials.
#[derive(Serialize, Deserialize)]
pub struct User {
    pub id: String,
    pub addresses: Vec<String>,
    pub enabled: bool,
    pub quota_bytes: u64,
    pub folders: Vec<String>,
}

/// A page: what comes after `after`, at most `limit` (default and most 1000).
#[derive(Deserialize)]
pub struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(1000).clamp(1, 1000)
    }
}

/// A new password is refused if it could be guessed at once.
fn check_password(password: &str) -> Result<()> {
    if (8..=512).contains(&password.len()) {
        Ok(())
    } else {
        Err(Failure::Invalid("a password has 8 to 512 bytes".into()).into())
    }
}

fn shown(profile: &directory::Profile) -> User {
    User {
        id: profile.id.to_string(),
        addresses: profile.addresses.iter().map(ToString::to_string).collect(),
        enabled: profile.is_enabled(),
        quota_bytes: profile.quota,
        folders: profile.folders.values().map(|folder| folder.name.clone()).collect(),
    }
}

pub async fn list_users(
    State(state): State<AdminState>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<String>>> {
    Ok(Json(state.node.users.list_users(page.after.as_deref(), page.limit()).await?))
}

pub async fn add_user(
    State(state): State<AdminState>,
    Json(new): Json<NewUser>,
) -> Result<(StatusCode, Json<User>)> {
    check_password(&new.password)?;
    let profile = state.node.users.add_user(&new.address, new.password, new.quota_bytes).await?;
    Ok((StatusCode::CREATED, Json(shown(&profile))))
}

pub async fn show_user(State(state): State<AdminState>, Path(address): Path<String>) -> Result<Json<User>> {
    let user = state.node.users.login_name(&address).await?;
    Ok(Json(shown(&state.node.users.profile(user).await?)))
}

pub async fn remove_user(State(state): State<AdminState>, Path(address): Path<String>) -> Result<StatusCode> {
    let user = state.node.users.login_name(&address).await?;
    state.node.users.remove_user(&address).await?;
    state.node.profile_changed(user).await;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn set_password(
    State(state): State<AdminState>,
    Path(address): Path<String>,
    Json(new): Json<NewPassword>,
) -> Result<StatusCode> {
    check_password(&new.password)?;
    let user = state.node.users.login_name(&address).await?;
    state.node.users.set_password(user, new.password).await?;
    state.node.profile_changed(user).await;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn list_domains(
    State(state): State<AdminState>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<String>>> {
    Ok(Json(state.node.users.list_domains(page.after.as_deref(), page.limit()).await?))
}

pub async fn add_domain(State(state): State<AdminState>, Json(new): Json<NewDomain>) -> Result<StatusCode> {
    state.node.users.add_domain(&new.domain).await?;
    Ok(StatusCode::CREATED)
}

pub async fn remove_domain(
    State(state): State<AdminState>,
    Path(domain): Path<String>,
) -> Result<StatusCode> {
    state.node.users.remove_domain(&domain).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn list_aliases(
    State(state): State<AdminState>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Alias>>> {
    let aliases = state.node.users.list_aliases(page.after.as_deref(), page.limit()).await?;
    Ok(Json(aliases.into_iter().map(|(address, targets)| Alias { address, targets }).collect()))
}

pub async fn add_alias(State(state): State<AdminState>, Json(new): Json<Alias>) -> Result<StatusCode> {
    state.node.users.add_alias(&new.address, &new.targets).await?;
    Ok(StatusCode::CREATED)
}

pub async fn remove_alias(
    State(state): State<AdminState>,
    Path(address): Path<String>,
) -> Result<StatusCode> {
    state.node.users.remove_alias(&address).await?;
    Ok(StatusCode::NO_CONTENT)
}
