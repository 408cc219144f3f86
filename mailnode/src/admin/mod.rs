//! The admin HTTP API (axum), the same on every node: accounts, domains, aliases, the cluster's state. Described
//! by `openapi.json`. Everything under `/v1` needs the token of `admin.tokenFile`; health and metrics do not.

mod cluster;
mod directory;
mod drain;
mod encryption;
mod health;
mod lists;
mod queue;
pub mod transfer;

pub use self::cluster::ClusterStatus;
pub use self::directory::{Alias, NewDomain, NewPassword, NewUser, User};
pub use self::encryption::{
    AccountSignature, AppPassword, DomainEncryption, MadeSecret, NewAppPassword, NewEncryption, Secret,
};
pub use self::lists::{MEMBERS, MailingList, MembersChange, MembersPage};
pub use self::queue::{QueuePage, Retried};
use crate::node::Node;
use crate::wire::Failure;
use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::Serialize;
use std::sync::Arc;

/// The description that `/openapi.json` serves.
pub const OPENAPI: &str = include_str!("openapi.json");

#[derive(Clone)]
pub struct AdminState {
    pub node: Arc<Node>,
    /// Hash of the token, so that a comparison leaks nothing by its time.
    token: Arc<[u8; 32]>,
}

/// An error, as every path answers it.
#[derive(Serialize)]
struct ErrorBody {
    error: String,
}

/// A [`Failure`] as HTTP.
pub struct ApiError(Failure);

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            Failure::NotFound => StatusCode::NOT_FOUND,
            Failure::AlreadyExists => StatusCode::CONFLICT,
            Failure::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Failure::BadCredentials => StatusCode::UNAUTHORIZED,
            Failure::Locked => StatusCode::LOCKED,
            Failure::OverQuota => StatusCode::INSUFFICIENT_STORAGE,
            Failure::NotManager(_) | Failure::Temporary(_) | Failure::Late => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(ErrorBody { error: self.0.to_string() })).into_response()
    }
}

pub fn router(node: Arc<Node>, token: &str) -> Router {
    let token = Arc::new(*blake3::hash(token.as_bytes()).as_bytes());
    let state = AdminState { node, token };
    let long = DefaultBodyLimit::max(transfer::BODY);
    let authenticated = Router::new()
        .route("/v1/users", get(directory::list_users).post(directory::add_user))
        .route("/v1/users/{address}", get(directory::show_user).delete(directory::remove_user))
        .route("/v1/users/{address}/password", put(directory::set_password))
        .route("/v1/users/{address}/encryption", put(encryption::set))
        .route("/v1/users/{address}/signature", put(encryption::sign))
        .route("/v1/users/{address}/recovery-key", post(encryption::new_recovery_key))
        .route("/v1/users/{address}/recover", post(encryption::recover))
        .route(
            "/v1/users/{address}/app-passwords",
            get(encryption::list_app_passwords).post(encryption::add_app_password),
        )
        .route(
            "/v1/users/{address}/app-passwords/{id}",
            axum::routing::delete(encryption::revoke_app_password),
        )
        .route("/v1/domains", get(directory::list_domains).post(directory::add_domain))
        .route("/v1/domains/{domain}", axum::routing::delete(directory::remove_domain))
        .route("/v1/domains/{domain}/encryption", put(directory::set_domain_encryption))
        .route("/v1/aliases", get(directory::list_aliases).post(directory::add_alias))
        .route("/v1/aliases/{address}", axum::routing::delete(directory::remove_alias))
        .route("/v1/lists", get(lists::all).post(lists::add))
        .route("/v1/lists/{address}", get(lists::show).patch(lists::change).delete(lists::remove))
        .route("/v1/lists/{address}/members", get(lists::members).post(lists::change_members))
        .route("/v1/directory/export", get(transfer::export))
        .route("/v1/directory/import", post(transfer::import).layer(long))
        .route("/v1/directory/compare", post(transfer::compare).layer(long))
        .route("/v1/directory/check", get(transfer::check))
        .route("/v1/cluster", get(cluster::status))
        .route(
            "/v1/cluster/members/{name}/drain",
            get(drain::progress).put(drain::begin).delete(drain::cancel),
        )
        .route("/v1/queue", get(queue::list))
        .route("/v1/queue/retry", post(queue::retry_all))
        .route("/v1/queue/{id}", get(queue::show).delete(queue::remove))
        .route("/v1/queue/{id}/retry", post(queue::retry))
        .layer(middleware::from_fn_with_state(state.clone(), authenticate));
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) }))
        .merge(authenticated)
        .with_state(state)
}

async fn authenticate(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    // blake3::Hash compares in constant time.
    if blake3::hash(given.as_bytes()) == blake3::Hash::from_bytes(*state.token) {
        next.run(request).await
    } else {
        let body = ErrorBody { error: "wrong or no admin token (Authorization: Bearer ...)".into() };
        (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], Json(body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let described: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let source = include_str!("mod.rs").split("#[cfg(test)]").next().unwrap();
        let routes = source.split(".route(").skip(1);
        let routes = routes.filter_map(|text| text.trim_start().strip_prefix('"')?.split('"').next());
        let mut count = 0;
        for route in routes.filter(|route| *route != "/openapi.json") {
            assert!(described["paths"].get(route).is_some(), "{route} is not described");
            count += 1;
        }
        assert_eq!(count, described["paths"].as_object().unwrap().len());
    }
}
