//! Mailing lists, as the rest of the node sees them.

use super::UserDatabase;
use crate::wire::Failure;
use directory::Address;
use directory::accounts::lists::{Changed, ListChange, Members};
use directory::accounts::{List, Posting};

impl UserDatabase {
    /// # Errors
    /// As [`directory::Accounts::add_list`].
    pub async fn add_list(
        &self,
        address: &str,
        owners: &[String],
        posting: Posting,
        description: String,
    ) -> Result<(), Failure> {
        let outcome = self.accounts.add_list(address, owners, posting, description).await;
        self.forget();
        Ok(outcome?)
    }

    /// # Errors
    /// As [`directory::Accounts::change_list`].
    pub async fn change_list(&self, address: &str, to: ListChange) -> Result<List, Failure> {
        let outcome = self.accounts.change_list(address, to).await;
        self.forget();
        Ok(outcome?)
    }

    /// # Errors
    /// As [`directory::Accounts::remove_list`].
    pub async fn remove_list(&self, address: &str) -> Result<(), Failure> {
        let outcome = self.accounts.remove_list(address).await;
        self.forget();
        Ok(outcome?)
    }

    /// # Errors
    /// [`Failure::NotFound`] if there surely is no such list.
    pub async fn list(&self, address: &str) -> Result<List, Failure> {
        Ok(self.accounts.list(address).await?)
    }

    /// Lists after one, in order of addresses, at most `limit`.
    ///
    /// # Errors
    /// [`Failure::Temporary`].
    pub async fn lists(&self, after: Option<&str>, limit: usize) -> Result<Vec<(String, List)>, Failure> {
        Ok(self.accounts.lists(after, limit).await?)
    }

    /// # Errors
    /// [`Failure::Temporary`].
    pub async fn members(&self, list: &List, shard: u8) -> Result<Members, Failure> {
        Ok(self.accounts.members(list, shard).await?)
    }

    /// # Errors
    /// [`Failure::Temporary`].
    pub async fn is_member(&self, list: &List, address: &Address) -> Result<bool, Failure> {
        Ok(self.accounts.is_member(list, address).await?)
    }

    /// # Errors
    /// As [`directory::Accounts::subscribe`].
    pub async fn subscribe(&self, address: &str, members: &[String]) -> Result<Changed, Failure> {
        Ok(self.accounts.subscribe(address, members).await?)
    }

    /// # Errors
    /// As [`directory::Accounts::unsubscribe`].
    pub async fn unsubscribe(&self, address: &str, members: &[String]) -> Result<Changed, Failure> {
        Ok(self.accounts.unsubscribe(address, members).await?)
    }
}
