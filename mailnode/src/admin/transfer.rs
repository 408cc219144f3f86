//! All accounts, in pages: for moving them between user databases, and for checking them.

use super::{AdminState, ApiError};
use crate::wire::Failure;
use axum::Json;
use axum::extract::{Query, State};
use directory::accounts::transfer::{Cursor, Imported, Line};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, ApiError>;

/// Lines in one request.
pub const LINES: usize = 200;
/// Bytes of one request: an account's record has at most 256 KiB, which are more as JSON.
pub const BODY: usize = 8 * 1024 * 1024;

/// Where a pass over all records goes on; from the start if absent.
#[derive(Deserialize)]
pub struct From {
    from: Option<String>,
}

impl From {
    fn cursor(&self) -> Result<Cursor> {
        let text = self.from.as_deref().filter(|text| !text.is_empty());
        let invalid = |_| Failure::Invalid("from: not where an earlier page said to go on".into());
        Ok(text.map_or(Ok(Cursor::START), str::parse).map_err(invalid)?)
    }
}

/// Lines of an export.
#[derive(Serialize, Deserialize)]
pub struct Page {
    pub lines: Vec<Line>,
    pub next: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lines {
    pub lines: Vec<Line>,
}

/// What became of a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome", content = "reason")]
pub enum Outcome {
    Made,
    /// It is there, as the line says.
    Present,
    /// It is wrong, or something else is there. Repeating it is of no use.
    Refused(String),
    /// Repeat it.
    Temporary(String),
}

/// Records that were looked at, and what does not fit.
#[derive(Serialize, Deserialize)]
pub struct Report {
    pub records: usize,
    pub problems: Vec<Problem>,
    pub next: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct Problem {
    pub record: String,
    pub problem: String,
}

fn failed(failure: Failure) -> Outcome {
    match failure {
        Failure::Temporary(reason) => Outcome::Temporary(reason),
        other => Outcome::Refused(other.to_string()),
    }
}

pub async fn export(State(state): State<AdminState>, Query(from): Query<From>) -> Result<Json<Page>> {
    let page = state.node.users.export(from.cursor()?).await?;
    Ok(Json(Page { lines: page.lines, next: page.next.map(|next| next.to_string()) }))
}

fn bounded(lines: &Lines) -> Result<()> {
    if lines.lines.len() > LINES {
        return Err(Failure::Invalid(format!("at most {LINES} lines at once")).into());
    }
    Ok(())
}

pub async fn import(State(state): State<AdminState>, Json(lines): Json<Lines>) -> Result<Json<Vec<Outcome>>> {
    bounded(&lines)?;
    let outcomes = state.node.users.import(lines.lines).await;
    let outcome = |outcome| match outcome {
        Ok(Imported::Made) => Outcome::Made,
        Ok(Imported::Present) => Outcome::Present,
        Err(failure) => failed(failure),
    };
    Ok(Json(outcomes.into_iter().map(outcome).collect()))
}

pub async fn compare(
    State(state): State<AdminState>,
    Json(lines): Json<Lines>,
) -> Result<Json<Vec<Outcome>>> {
    bounded(&lines)?;
    let differences = state.node.users.differences(lines.lines).await;
    let outcome = |difference| match difference {
        Ok(None) => Outcome::Present,
        Ok(Some(difference)) => Outcome::Refused(difference),
        Err(failure) => failed(failure),
    };
    Ok(Json(differences.into_iter().map(outcome).collect()))
}

pub async fn check(State(state): State<AdminState>, Query(from): Query<From>) -> Result<Json<Report>> {
    let page = state.node.users.inspect(from.cursor()?).await?;
    let problem = |found: directory::accounts::transfer::Problem| Problem {
        record: found.record,
        problem: found.problem,
    };
    Ok(Json(Report {
        records: page.records,
        problems: page.problems.into_iter().map(problem).collect(),
        next: page.next.map(|next| next.to_string()),
    }))
}
