//! The user database as the rest of the node sees it, and the shell around [`directory::embedded`]: it carries
//! requests to that machine and its effects to peers ([`Node::call`]) and to the log (`Write::Record`).
//!
//! - The machine's disk writes are done by one task in the order in which they were asked for, many to a commit.
//! - Addresses and domains are looked up for every delivery, so they are cached for a few seconds; a change made
//!   through this node empties its cache.
//! - What cannot be had now is [`Failure::Temporary`]; [`Failure::NotFound`] is said only if it is sure.

mod backend;
mod cache;
mod client;
mod encryption;
mod lists;
mod machine;
#[cfg(feature = "tikv")]
mod tikv;
mod transfer;
#[cfg(not(feature = "tikv"))]
mod without_tikv;

use crate::config::UserDatabaseConfig;
use crate::environment;
use crate::node::Node;
use crate::running::StartError;
use crate::topology::ClusterState;
use crate::wire::{Failure, Password};
use backend::Backend;
pub use backend::{RemoteStatus, check};
use cache::Cache;
use cluster::mailbox::Reservation;
use cluster::{Bucket, FolderId, NodeId, UidBlock, UserId};
use directory::accounts::{Profiles, Repair, Resolved};
use directory::embedded::{EmbeddedRequest, EmbeddedResponse};
use directory::encryption::Mode;
use directory::{AccountError, Accounts, Credentials, Profile, ProfileError};
pub use encryption::Opening;
use machine::Machine;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use storage::Store;

/// How long a look-up that found something is believed, and one that did not.
const FOUND: Duration = Duration::from_secs(5);
const MISSED: Duration = Duration::from_secs(1);
/// A step of the repair pass, at the node that manages bucket 0.
const REPAIR: Duration = Duration::from_secs(10);

pub struct UserDatabase {
    machine: Arc<Machine>,
    accounts: Arc<Accounts<Backend>>,
    addresses: Cache<Resolved>,
    logins: Cache<UserId>,
    domains: Cache<()>,
}

impl From<AccountError> for Failure {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::NotFound | AccountError::Profile(ProfileError::NotFound) => Self::NotFound,
            AccountError::AlreadyExists | AccountError::Profile(ProfileError::AlreadyExists) => {
                Self::AlreadyExists
            }
            AccountError::Temporary(text) => Self::Temporary(text),
            AccountError::Invalid(_) | AccountError::Address(_) | AccountError::Profile(_) => {
                Self::Invalid(error.to_string())
            }
        }
    }
}

impl UserDatabase {
    /// Reads what this node promised in its earlier lives.
    ///
    /// # Errors
    /// If the disk cannot be read, or what is there is damaged or newer than this program: a node that forgot
    /// its promises must not take part.
    pub fn new(
        node: Arc<OnceLock<Weak<Node>>>,
        me: NodeId,
        config: &UserDatabaseConfig,
        store: Store,
    ) -> Result<Self, StartError> {
        let replicas = config.embedded.unwrap_or_default().replicas;
        // Also beside TiKV, where it is never given a view: peers' requests are answered with a refusal.
        let machine = Machine::start(node.clone(), me, replicas, store)
            .map_err(|error| StartError::new("dataDirectory", error))?;
        let accounts =
            Arc::new(Accounts::new(Backend::new(config, node.clone())?, environment::random_bytes));
        tokio::spawn(repair_loop(node, Arc::downgrade(&accounts)));
        let caches = (Cache::default(), Cache::default(), Cache::default());
        Ok(Self { machine, accounts, addresses: caches.0, logins: caches.1, domains: caches.2 })
    }

    /// Answers a node's request about records.
    pub async fn serve(&self, from: NodeId, request: EmbeddedRequest) -> EmbeddedResponse {
        self.machine.serve(from, request).await
    }

    /// Routes by this view from now on; the records of our buckets are brought level in the background.
    #[allow(clippy::unused_async)]
    pub async fn install_view(&self, state: &ClusterState) {
        if self.accounts.records().is_embedded() {
            self.machine.install(state.view.clone());
        }
    }

    /// # Errors
    /// If none of this node's records can be read or written for now.
    pub async fn is_reachable(&self) -> Result<(), Failure> {
        self.accounts.records().is_reachable().await?;
        match self.machine.progress() {
            (0, total) if total > 0 => {
                Err(Failure::Temporary(format!("none of this node's {total} buckets is up to date yet")))
            }
            _ => Ok(()),
        }
    }

    /// What a database that is elsewhere has done so far.
    pub fn remote_status(&self) -> Option<RemoteStatus> {
        self.accounts.records().status()
    }

    /// False if this node may have an old state of a user's profile: others may have gone on without it. A database that is elsewhere
    /// has one state.
    pub fn is_certain(&self, user: UserId) -> bool {
        !self.accounts.records().is_embedded() || self.machine.is_certain(Bucket::of_user(user))
    }

    /// Buckets whose records this node should have and has not caught up with.
    pub fn buckets_left(&self) -> u64 {
        let (ready, all) = self.machine.progress();
        all.saturating_sub(ready) as u64
    }

    /// All users and lists an address leads to, aliases expanded.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if it surely leads nowhere; [`Failure::Invalid`] if it is no address.
    pub async fn resolve(&self, address: &str) -> Result<Resolved, Failure> {
        let look_up = async { self.accounts.resolve(address).await.map_err(Failure::from) };
        self.addresses.get(address, look_up).await
    }

    /// The user who logs in under this name.
    ///
    /// # Errors
    /// As [`UserDatabase::resolve`].
    pub async fn login_name(&self, name: &str) -> Result<UserId, Failure> {
        let look_up = async { self.accounts.login_name(name).await.map_err(Failure::from) };
        self.logins.get(name, look_up).await
    }

    /// # Errors
    /// [`Failure::Temporary`].
    pub async fn is_local_domain(&self, domain: &str) -> Result<bool, Failure> {
        let look_up = async {
            match self.accounts.is_local_domain(domain).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(Failure::NotFound),
                Err(error) => Err(error.into()),
            }
        };
        match self.domains.get(domain, look_up).await {
            Ok(()) => Ok(true),
            Err(Failure::NotFound) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// A user's profile; an older state of it while the newest cannot be had.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if there surely is no such user.
    pub async fn profile(&self, user: UserId) -> Result<Profile, Failure> {
        Ok(self.accounts.profile(user).await?)
    }

    /// Changes a profile by compare-and-set. `change` may run several times.
    ///
    /// # Errors
    /// What `change` says; [`Failure::Temporary`]: the change may or may not have happened.
    pub async fn update_profile(
        &self,
        user: UserId,
        change: impl FnMut(&mut Profile) -> Result<(), ProfileError> + Send,
    ) -> Result<Profile, Failure> {
        Ok(self.accounts.update_profile(user, change).await?.0)
    }

    /// Reserves UIDs of a folder; None if somebody else did meanwhile.
    ///
    /// # Errors
    /// As [`UserDatabase::update_profile`]; a reservation of which nobody heard costs nothing.
    pub async fn reserve_uids(
        &self,
        user: UserId,
        folder: FolderId,
        asked: &Reservation,
    ) -> Result<(Profile, Option<UidBlock>), Failure> {
        Ok(self.accounts.reserve_uids(user, folder, asked).await?)
    }

    /// An account that the cluster can read, with a password that was hashed before.
    ///
    /// # Errors
    /// As [`Accounts::add_user`].
    pub async fn add_account(
        &self,
        address: &str,
        credentials: Credentials,
        quota: u64,
    ) -> Result<Profile, Failure> {
        let at = self.machine.node()?.clock.now();
        let outcome = self.accounts.add_user(address, credentials, quota, at).await;
        self.forget();
        Ok(outcome?)
    }

    /// # Errors
    /// As [`Accounts::remove_user`].
    pub async fn remove_user(&self, address: &str) -> Result<UserId, Failure> {
        let outcome = self.accounts.remove_user(address).await;
        self.forget();
        Ok(outcome?)
    }

    /// Records of accounts after one, in the order of the database.
    ///
    /// # Errors
    /// [`Failure::Temporary`].
    pub async fn profiles(&self, after: Option<&[u8]>, limit: usize) -> Result<Profiles, Failure> {
        Ok(self.accounts.profiles(after, limit).await?)
    }

    /// Addresses of users after one, in order, at most `limit`.
    ///
    /// # Errors
    /// [`Failure::Temporary`].
    pub async fn list_users(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, Failure> {
        Ok(self.accounts.list_users(after, limit).await?)
    }

    /// # Errors
    /// As [`Accounts::add_domain`].
    pub async fn add_domain(&self, domain: &str) -> Result<(), Failure> {
        let outcome = self.accounts.add_domain(domain).await;
        self.forget();
        Ok(outcome?)
    }

    /// What new accounts of a domain get.
    ///
    /// # Errors
    /// As [`Accounts::set_domain_encryption`].
    pub async fn set_domain_encryption(&self, domain: &str, mode: Mode) -> Result<(), Failure> {
        Ok(self.accounts.set_domain_encryption(domain, mode).await?)
    }

    /// # Errors
    /// As [`Accounts::remove_domain`].
    pub async fn remove_domain(&self, domain: &str) -> Result<(), Failure> {
        let outcome = self.accounts.remove_domain(domain).await;
        self.forget();
        Ok(outcome?)
    }

    /// Domains after one, in order, at most `limit`.
    ///
    /// # Errors
    /// [`Failure::Temporary`].
    pub async fn list_domains(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, Failure> {
        Ok(self.accounts.list_domains(after, limit).await?)
    }

    /// # Errors
    /// As [`Accounts::add_alias`].
    pub async fn add_alias(&self, address: &str, targets: &[String]) -> Result<(), Failure> {
        let outcome = self.accounts.add_alias(address, targets).await;
        self.forget();
        Ok(outcome?)
    }

    /// # Errors
    /// As [`Accounts::remove_alias`].
    pub async fn remove_alias(&self, address: &str) -> Result<(), Failure> {
        let outcome = self.accounts.remove_alias(address).await;
        self.forget();
        Ok(outcome?)
    }

    /// Aliases after one with their targets, in order, at most `limit`.
    ///
    /// # Errors
    /// [`Failure::Temporary`].
    pub async fn list_aliases(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Vec<String>)>, Failure> {
        Ok(self.accounts.list_aliases(after, limit).await?)
    }

    /// Something was changed through this node: the next look-up sees it.
    fn forget(&self) {
        self.addresses.clear();
        self.logins.clear();
        self.domains.clear();
    }
}

async fn hashed(password: String) -> Result<Credentials, Failure> {
    let password = Password(password);
    let failed = |error: &dyn std::fmt::Display| Failure::Temporary(format!("the password: {error}"));
    environment::blocking(move || Credentials::new(&password.0))
        .await
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))
}

/// Finishes what others began and did not end. One node does it.
async fn repair_loop(node: Arc<OnceLock<Weak<Node>>>, accounts: Weak<Accounts<Backend>>) {
    let mut state = Repair::default();
    let mut maintenance = Default::default();
    loop {
        tokio::time::sleep(REPAIR).await;
        let Some(accounts) = accounts.upgrade() else { return };
        let Some(node) = node.get().and_then(Weak::upgrade) else { continue };
        if node.topology.now().user_map.manager(Bucket(0)) != Some(node.id) {
            state = Repair::default();
            continue;
        }
        accounts.records().maintain(&mut maintenance).await;
        match accounts.repair(&mut state).await {
            Ok(done) if done.deleted_addresses + done.restored_addresses + done.deleted_profiles > 0 => {
                tracing::warn!(?done, "user database: half-made accounts repaired");
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "user database: repair pass waits"),
        }
    }
}
