//! Export, import and inspection of all accounts, for `mailnode directory`.

use super::UserDatabase;
use crate::wire::Failure;
use directory::accounts::transfer::{Cursor, Exported, Imported, Inspected, Line};
use futures_util::stream::{self, StreamExt};

/// Lines worked on at once: each is several round trips, one after the other.
const AT_ONCE: usize = 8;

impl UserDatabase {
    /// # Errors
    /// As [`directory::Accounts::export`].
    pub async fn export(&self, from: Cursor) -> Result<Exported, Failure> {
        Ok(self.accounts.export(from).await?)
    }

    /// # Errors
    /// As [`directory::Accounts::inspect`].
    pub async fn inspect(&self, from: Cursor) -> Result<Inspected, Failure> {
        Ok(self.accounts.inspect(from).await?)
    }

    /// What became of each line, in order of lines. Domains must come in an earlier call than what is in them.
    pub async fn import(&self, lines: Vec<Line>) -> Vec<Result<Imported, Failure>> {
        let each = lines.into_iter().map(|line| async move { Ok(self.accounts.import(line).await?) });
        let outcomes = stream::iter(each).buffered(AT_ONCE).collect().await;
        self.forget();
        outcomes
    }

    /// How this database differs from each line, in order of lines.
    pub async fn differences(&self, lines: Vec<Line>) -> Vec<Result<Option<String>, Failure>> {
        let each = lines.into_iter().map(|line| async move { Ok(self.accounts.difference(&line).await?) });
        stream::iter(each).buffered(AT_ONCE).collect().await
    }
}
