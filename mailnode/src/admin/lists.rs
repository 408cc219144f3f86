//! Mailing lists.

use super::directory::Page;
use super::{AdminState, ApiError};
use crate::wire::Failure;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use directory::accounts::lists::{Changed, ListChange, SHARDS};
use directory::accounts::{List, Posting};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, ApiError>;

/// Members added or removed by one request.
pub const MEMBERS: usize = 1_000;

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailingList {
    pub address: String,
    /// Who is told of failures. Addresses of ours.
    pub owners: Vec<String>,
    #[serde(default)]
    pub posting: Posting,
    #[serde(default)]
    pub description: String,
}

/// Some members, in no order that means anything; `next` is the `from` of the next request, null at the end.
#[derive(Serialize, Deserialize)]
pub struct MembersPage {
    pub members: Vec<String>,
    pub next: Option<u8>,
}

#[derive(Deserialize)]
pub struct From {
    #[serde(default)]
    from: u8,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembersChange {
    #[serde(default)]
    pub add: Vec<String>,
    #[serde(default)]
    pub remove: Vec<String>,
}

fn shown(address: String, list: List) -> MailingList {
    let owners = list.owners.iter().map(ToString::to_string).collect();
    MailingList { address, owners, posting: list.posting, description: list.description }
}

pub async fn all(
    State(state): State<AdminState>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<MailingList>>> {
    let lists = state.node.users.lists(page.after.as_deref(), page.limit()).await?;
    Ok(Json(lists.into_iter().map(|(address, list)| shown(address, list)).collect()))
}

pub async fn add(State(state): State<AdminState>, Json(new): Json<MailingList>) -> Result<StatusCode> {
    let MailingList { address, owners, posting, description } = new;
    state.node.users.add_list(&address, &owners, posting, description).await?;
    Ok(StatusCode::CREATED)
}

pub async fn show(State(state): State<AdminState>, Path(address): Path<String>) -> Result<Json<MailingList>> {
    let list = state.node.users.list(&address).await?;
    Ok(Json(shown(address, list)))
}

pub async fn change(
    State(state): State<AdminState>,
    Path(address): Path<String>,
    Json(change): Json<ListChange>,
) -> Result<Json<MailingList>> {
    let list = state.node.users.change_list(&address, change).await?;
    Ok(Json(shown(address, list)))
}

pub async fn remove(State(state): State<AdminState>, Path(address): Path<String>) -> Result<StatusCode> {
    state.node.users.remove_list(&address).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A few records of members: as many as make a page, about.
pub async fn members(
    State(state): State<AdminState>,
    Path(address): Path<String>,
    Query(From { from }): Query<From>,
) -> Result<Json<MembersPage>> {
    let list = state.node.users.list(&address).await?;
    let mut page = MembersPage { members: Vec::new(), next: None };
    for shard in from..SHARDS {
        if page.members.len() >= MEMBERS {
            page.next = Some(shard);
            break;
        }
        page.members.extend(state.node.users.members(&list, shard).await?.into_keys());
    }
    Ok(Json(page))
}

pub async fn change_members(
    State(state): State<AdminState>,
    Path(address): Path<String>,
    Json(change): Json<MembersChange>,
) -> Result<Json<Changed>> {
    if change.add.len() + change.remove.len() > MEMBERS {
        return Err(Failure::Invalid(format!("at most {MEMBERS} members in one request")).into());
    }
    let users = &state.node.users;
    let removed = users.unsubscribe(&address, &change.remove).await?;
    let added = users.subscribe(&address, &change.add).await?;
    Ok(Json(Changed {
        changed: removed.changed + added.changed,
        unchanged: removed.unchanged + added.unchanged,
    }))
}
