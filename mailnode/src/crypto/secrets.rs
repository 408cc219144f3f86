//! The cluster's secret, in one or several versions, so that it can be replaced while everything runs (docs/security.md).
//!
//! - A wrapped key says by which version it is wrapped. Every version that a node has opens what it wrapped.
//! - New keys are made with the highest version that *all* members of the cluster have: each node tells its highest with every
//!   message. So it does not matter in which order the nodes are given a new version, and none meets a key that it cannot open.
//! - What is wrapped by an older version is wrapped anew ([`crate::rotation`]); then the older one can be taken away.
//!
//! Version 1 is the file that the configuration names; version N is in the file beside it whose name ends in `-N`.

use super::{CryptoError, key};
use ring::aead::LessSafeKey;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use zeroize::Zeroizing;

/// Bytes of a secret, at least.
const SHORTEST: usize = 32;
/// Bytes of a file that is read as a secret, at most.
const LONGEST: u64 = 64 * 1024;
/// Versions at a time, at most: one is in use, one goes, one comes.
const MOST: usize = 8;

/// Number of a version of the secret, from 1.
pub type Version = u16;

#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("{0}: no such file, and none beside it whose name ends in -2, -3, ...")]
    None(String),
    #[error("{0}: {1}")]
    File(String, CryptoError),
    #[error("{0}: {1}")]
    Unreadable(String, std::io::Error),
    #[error("version {0} was changed; a new secret is a new version, in a file of its own")]
    Changed(Version),
    #[error("{0}: more than {MOST} versions; remove those that no message needs any more")]
    Many(String),
}

/// The secret's versions, as they are in files. Never logged: `Debug` is not derived.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets(BTreeMap<Version, Zeroizing<Vec<u8>>>);

impl Secrets {
    /// Version 1 alone.
    pub fn one(secret: &[u8]) -> Self {
        Self([(1, Zeroizing::new(secret.to_vec()))].into())
    }

    /// Reads version 1 from `path`, and others from the files beside it.
    ///
    /// # Errors
    /// Names the file that is missing or wrong.
    pub fn read(path: &Path) -> Result<Self, SecretsError> {
        let named = |path: &Path| path.display().to_string();
        let mut secrets = BTreeMap::new();
        for (version, file) in versions(path).map_err(|error| SecretsError::Unreadable(named(path), error))? {
            let unreadable = |error| SecretsError::Unreadable(named(&file), error);
            if std::fs::metadata(&file).map_err(unreadable)?.len() > LONGEST {
                return Err(unreadable(ErrorKind::FileTooLarge.into()));
            }
            let secret = Zeroizing::new(std::fs::read(&file).map_err(unreadable)?);
            if secret.len() < SHORTEST {
                return Err(SecretsError::File(named(&file), CryptoError::ShortSecret));
            }
            secrets.insert(version, secret);
        }
        match secrets.len() {
            0 => Err(SecretsError::None(named(path))),
            1..=MOST => Ok(Self(secrets)),
            _ => Err(SecretsError::Many(named(path))),
        }
    }

    /// What was read after `before`.
    ///
    /// # Errors
    /// If a version is another secret than before: what it wrapped could not be opened any more.
    pub fn check_against(self, before: &Self) -> Result<Self, SecretsError> {
        let changed =
            |(version, secret): (&Version, _)| before.0.get(version).is_some_and(|known| known != secret);
        match self.0.iter().find(|&(version, secret)| changed((version, secret))) {
            Some((&version, _)) => Err(SecretsError::Changed(version)),
            None => Ok(self),
        }
    }

    /// Together with versions from `needed` on whose files were taken away, although keys are, or may be, wrapped by them.
    pub fn with_needed(mut self, before: &Self, needed: Version) -> Self {
        for (&version, secret) in before.0.range(needed..) {
            self.0.entry(version).or_insert_with(|| {
                tracing::error!(
                    version,
                    "the file of a version of the cluster's secret that messages need is gone: give it back"
                );
                secret.clone()
            });
        }
        self
    }

    pub fn versions(&self) -> Vec<Version> {
        self.0.keys().copied().collect()
    }

    pub(super) fn derive(&self) -> Result<BTreeMap<Version, Derived>, CryptoError> {
        self.0.iter().map(|(&version, secret)| Ok((version, Derived::new(secret)?))).collect()
    }
}

/// The files of all versions.
fn versions(first: &Path) -> std::io::Result<Vec<(Version, std::path::PathBuf)>> {
    let mut files = Vec::new();
    if first.try_exists()? {
        files.push((1, first.to_owned()));
    }
    let Some(name) = first.file_name().and_then(|name| name.to_str()) else { return Ok(files) };
    let folder = first.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(files),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|other| {
            let number = other.strip_prefix(name)?.strip_prefix('-')?;
            // One name for one version: no -02.
            number.parse().ok().filter(|version: &Version| *version > 1 && version.to_string() == number)
        });
        files.extend(number.map(|version| (version, entry.path())));
    }
    Ok(files)
}

/// What follows from one version of the secret.
pub(super) struct Derived {
    pub convergence: [u8; 32],
    /// For whatever begins with a head: no key may be that of a whole body with such bytes.
    pub convergence_with_head: [u8; 32],
    pub wrapping: LessSafeKey,
}

impl Derived {
    fn new(secret: &[u8]) -> Result<Self, CryptoError> {
        if secret.len() < SHORTEST {
            return Err(CryptoError::ShortSecret);
        }
        let wrapping = Zeroizing::new(blake3::derive_key("prickle 2026-11 cluster key wrapping", secret));
        Ok(Self {
            convergence: blake3::derive_key("prickle 2026-11 convergent body keys", secret),
            convergence_with_head: blake3::derive_key("prickle 2026-11 convergent keys of parts", secret),
            wrapping: key(&wrapping)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_the_file_and_those_beside_it_with_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let first = folder.path().join("cluster.secret");
        assert!(matches!(Secrets::read(&first), Err(SecretsError::None(_))));
        let other_names = ["cluster.secret-02", "cluster.secret-1", "cluster.secret-x", "cluster.secret2"];
        for name in ["cluster.secret", "cluster.secret-2", "cluster.secret-10"].iter().chain(&other_names) {
            std::fs::write(folder.path().join(name), [7; 32]).unwrap();
        }
        assert_eq!(Secrets::read(&first).map(|secrets| secrets.versions()).ok(), Some(vec![1, 2, 10]));
        std::fs::remove_file(&first).unwrap();
        assert_eq!(Secrets::read(&first).map(|secrets| secrets.versions()).ok(), Some(vec![2, 10]));
    }

    #[test]
    fn a_version_never_changes_and_one_that_is_needed_stays() {
        let two = |second: u8| Secrets([(1, vec![1; 32].into()), (2, vec![second; 32].into())].into());
        let one = Secrets::one(&[1; 32]);
        assert!(two(2).check_against(&one).is_ok());
        assert!(matches!(two(3).check_against(&two(2)), Err(SecretsError::Changed(2))));
        assert_eq!(one.clone().with_needed(&two(2), 0).versions(), [1, 2]);
        let second = Secrets([(2, vec![2; 32].into())].into());
        assert_eq!(second.clone().with_needed(&two(2), 2).versions(), [2]);
        assert_eq!(second.with_needed(&one, 1).versions(), [1, 2]);
        assert_eq!(one.check_against(&two(2)).map(|secrets| secrets.versions()).ok(), Some(vec![1]));
    }

    #[test]
    fn a_short_or_a_huge_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let first = folder.path().join("secret");
        std::fs::write(&first, [7; 32]).unwrap();
        for length in [31, 64 * 1024 + 1] {
            std::fs::write(folder.path().join("secret-2"), vec![7; length]).unwrap();
            let refused = Secrets::read(&first).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(refused.contains("secret-2: "), "{refused}");
        }
    }
}
