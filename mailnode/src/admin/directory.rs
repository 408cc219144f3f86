//! Accounts, domains and aliases.

use super::encryption::{DomainEncryption, EncryptionState};
use super::{AdminState, ApiError};
use crate::userdb::Opening;
use crate::wire::{Failure, Password};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use directory::encryption::Mode;
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
    /// That of the domain if absent.
    #[serde(default)]
    pub encryption: Option<Mode>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    pub password: String,
    /// The old password, an app password or the recovery key: opens the keys of an encrypted account.
    #[serde(default)]
    pub secret: Option<String>,
    /// Without a secret: mail that only the old password opens may become unreadable.
    #[serde(default)]
    pub lose_mail: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDomain {
    pub domain: String,
    /// What new accounts get.
    #[serde(default)]
    pub encryption: Mode,
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
    pub encryption: EncryptionState,
}

/// A page: what comes after `after`, at most `limit` (default and most 1000).
#[derive(Deserialize)]
pub struct Page {
    pub(super) after: Option<String>,
    limit: Option<usize>,
}

impl Page {
    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(1000).clamp(1, 1000)
    }
}

/// A new password is refused if it could be guessed at once.
pub(super) fn check_password(password: &str) -> Result<()> {
    if (8..=512).contains(&password.len()) {
        Ok(())
    } else {
        Err(Failure::Invalid("a password has 8 to 512 bytes".into()).into())
    }
}

fn shown(profile: &directory::Profile, left: Option<u64>) -> User {
    User {
        id: profile.id.to_string(),
        addresses: profile.addresses.iter().map(ToString::to_string).collect(),
        enabled: profile.is_enabled(),
        quota_bytes: profile.quota,
        folders: profile.folders.values().map(|folder| folder.name.clone()).collect(),
        encryption: EncryptionState::of(&profile.encryption, left),
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
    let NewUser { address, password, quota_bytes, encryption } = new;
    let profile = state.node.users.add_user(&address, Password(password), quota_bytes, encryption).await?;
    Ok((StatusCode::CREATED, Json(shown(&profile, None))))
}

pub async fn show_user(State(state): State<AdminState>, Path(address): Path<String>) -> Result<Json<User>> {
    let user = state.node.users.login_name(&address).await?;
    let profile = state.node.users.profile(user).await?;
    // Old mail may wait for many seconds; the rest is told all the same.
    let left = match profile.encryption.rewrapping {
        true => state.node.entries_to_rewrap(user).await.ok(),
        false => Some(0),
    };
    Ok(Json(shown(&profile, left)))
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
    let NewPassword { password, secret, lose_mail } = new;
    let opening = match secret {
        Some(secret) => Opening::With(Password(secret)),
        None if lose_mail => Opening::LoseMail,
        None => Opening::Nothing,
    };
    state.node.users.set_password(user, Password(password), opening).await?;
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
    if new.encryption != Mode::default() {
        state.node.users.set_domain_encryption(&new.domain, new.encryption).await?;
    }
    Ok(StatusCode::CREATED)
}

pub async fn set_domain_encryption(
    State(state): State<AdminState>,
    Path(domain): Path<String>,
    Json(new): Json<DomainEncryption>,
) -> Result<StatusCode> {
    state.node.users.set_domain_encryption(&domain, new.encryption).await?;
    Ok(StatusCode::NO_CONTENT)
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
