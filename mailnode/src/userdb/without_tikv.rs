//! In place of `tikv` in builds without that feature: there is no such database, which is said at the start.

use super::backend::{FIELD, RemoteStatus};
use crate::config::TikvDatabaseConfig;
use crate::running::StartError;
use crate::wire::Failure;
use bytes::Bytes;
use directory::{DatabaseError, Key, Kind, Read, Records, Token};

pub enum TikvBackend {}

#[derive(Default)]
pub struct Maintenance;

impl TikvBackend {
    pub fn check(config: &TikvDatabaseConfig) -> Result<(), StartError> {
        Self::new(config).map(|_| ())
    }

    pub fn new(_: &TikvDatabaseConfig) -> Result<Self, StartError> {
        Err(StartError::new(FIELD, "this mailnode was built without `--features tikv`"))
    }

    pub const fn records(&self) -> &Self {
        self
    }

    pub async fn is_reachable(&self) -> Result<(), Failure> {
        match *self {}
    }

    pub fn status(&self) -> RemoteStatus {
        match *self {}
    }

    pub async fn maintain(&self, _: &mut Maintenance) {
        match *self {}
    }
}

impl Records for TikvBackend {
    async fn read(&self, _: &Key, _: bool) -> Result<Read, DatabaseError> {
        match *self {}
    }

    async fn compare_and_set(
        &self,
        _: &Key,
        _: u64,
        _: Token,
        _: Option<Bytes>,
    ) -> Result<u64, DatabaseError> {
        match *self {}
    }

    async fn list(&self, _: Kind, _: Option<&[u8]>, _: usize) -> Result<Vec<(Key, Read)>, DatabaseError> {
        match *self {}
    }
}
