//! Who can read an account's mail: mode, recovery key, app passwords.
//!
//! Secrets come in bodies of requests, never in paths, and those that are made here are shown once.

use super::{AdminState, ApiError};
use crate::wire::{Failure, Password};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use cluster::UserId;
use data_encoding::HEXLOWER;
use directory::Encryption;
use directory::encryption::{Mode, PublicKey};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, ApiError>;

/// What is shown of an account's encryption.
#[derive(Serialize, Deserialize)]
pub struct EncryptionState {
    pub mode: Mode,
    /// Messages that are still wrapped as before the mode was changed; absent if that cannot be told now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_to_rewrap: Option<u64>,
    pub recovery_key: bool,
    /// Keys that the password does not open, and with them mail that cannot be read with it.
    pub locked_keys: usize,
    pub app_passwords: usize,
    /// The key that new mail is sealed to in mode `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
    /// The CA vouches for the mode and key of now.
    #[serde(default)]
    pub signed: bool,
}

impl EncryptionState {
    pub fn of(encryption: &Encryption, left: Option<u64>) -> Self {
        Self {
            mode: encryption.mode,
            messages_to_rewrap: if encryption.rewrapping { left } else { Some(0) },
            recovery_key: encryption.has_recovery_key(),
            locked_keys: encryption.locked_pairs(),
            app_passwords: encryption.app_passwords().len(),
            public_key: encryption.newest_key(),
            signed: encryption.signature().is_some(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEncryption {
    pub mode: Mode,
    /// The account's password, the first time that mode `user` is turned on.
    #[serde(default)]
    pub password: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainEncryption {
    pub encryption: Mode,
}

/// The password, an app password or the recovery key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    pub secret: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAppPassword {
    pub name: String,
    /// Needed if the account has keys.
    #[serde(default)]
    pub secret: Option<String>,
}

/// A secret that was made; `id` is that of an app password.
#[derive(Serialize, Deserialize)]
pub struct MadeSecret {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    pub secret: String,
}

#[derive(Serialize, Deserialize)]
pub struct AppPassword {
    pub id: u32,
    pub name: String,
    /// Unix seconds.
    pub created: u64,
}

async fn user(state: &AdminState, address: &str) -> Result<UserId> {
    Ok(state.node.users.login_name(address).await?)
}

pub async fn set(
    State(state): State<AdminState>,
    Path(address): Path<String>,
    Json(new): Json<NewEncryption>,
) -> Result<StatusCode> {
    let user = user(&state, &address).await?;
    state.node.users.set_encryption(user, new.mode, new.password.map(Password)).await?;
    state.node.profile_changed(user).await;
    Ok(StatusCode::NO_CONTENT)
}

/// The CA's signature of an account's mode and key, in hexadecimal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountSignature {
    /// Of mode `user`; absent in mode `cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing_key: Option<PublicKey>,
    pub signature: String,
}

pub async fn sign(
    State(state): State<AdminState>,
    Path(address): Path<String>,
    Json(given): Json<AccountSignature>,
) -> Result<StatusCode> {
    let user = user(&state, &address).await?;
    let signature = HEXLOWER.decode(given.signature.as_bytes());
    let signature = signature.map_err(|_| Failure::Invalid("a signature is hexadecimal".into()))?;
    let users = &state.node.users;
    if !state.node.signed_accounts.accepts(user, given.sealing_key, Some(&signature)) {
        return Err(
            Failure::Invalid("the cluster's CA did not sign this mode and key for this user".into()).into()
        );
    }
    users
        .update_profile(user, |profile| Ok(profile.encryption.sign(given.sealing_key, signature.clone())?))
        .await?;
    state.node.profile_changed(user).await;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn new_recovery_key(
    State(state): State<AdminState>,
    Path(address): Path<String>,
    Json(given): Json<Secret>,
) -> Result<(StatusCode, Json<MadeSecret>)> {
    let user = user(&state, &address).await?;
    let made = state.node.users.new_recovery_key(user, Password(given.secret)).await?;
    state.node.profile_changed(user).await;
    Ok((StatusCode::CREATED, Json(MadeSecret { id: None, secret: made.to_string() })))
}

pub async fn recover(
    State(state): State<AdminState>,
    Path(address): Path<String>,
    Json(given): Json<Secret>,
) -> Result<StatusCode> {
    let user = user(&state, &address).await?;
    state.node.users.recover(user, Password(given.secret)).await?;
    state.node.profile_changed(user).await;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn list_app_passwords(
    State(state): State<AdminState>,
    Path(address): Path<String>,
) -> Result<Json<Vec<AppPassword>>> {
    let user = user(&state, &address).await?;
    let profile = state.node.users.profile(user).await?;
    let shown = profile.encryption.app_passwords().iter().map(|app| AppPassword {
        id: app.id,
        name: app.name.clone(),
        created: app.created.unix_millis() / 1000,
    });
    Ok(Json(shown.collect()))
}

pub async fn add_app_password(
    State(state): State<AdminState>,
    Path(address): Path<String>,
    Json(new): Json<NewAppPassword>,
) -> Result<(StatusCode, Json<MadeSecret>)> {
    let user = user(&state, &address).await?;
    let secret = new.secret.map(Password);
    let (id, made) = state.node.users.add_app_password(user, &new.name, secret).await?;
    state.node.profile_changed(user).await;
    Ok((StatusCode::CREATED, Json(MadeSecret { id: Some(id), secret: made.to_string() })))
}

pub async fn revoke_app_password(
    State(state): State<AdminState>,
    Path((address, id)): Path<(String, u32)>,
) -> Result<StatusCode> {
    let user = user(&state, &address).await?;
    state.node.users.revoke_app_password(user, id).await?;
    state.node.profile_changed(user).await;
    Ok(StatusCode::NO_CONTENT)
}
