//! PEM files. Private keys are readable by their owner only, from the first byte on.

use super::PkiError;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Certificates and keys are small; what is larger than this is something else, in bytes.
const MAX_PEM: u64 = 1 << 20;

/// Reads a PEM file of at most 1 MiB.
///
/// # Errors
/// With the path, if it cannot be read, is too large or is not text.
pub fn read_file(path: &Path) -> Result<String, PkiError> {
    let read = || {
        if fs::metadata(path)?.len() > MAX_PEM {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
        }
        fs::read_to_string(path)
    };
    read().map_err(|error| PkiError::File { path: path.to_owned(), error })
}

/// Writes a private key, mode 0600, replacing the file as a whole.
///
/// # Errors
/// With the path.
pub fn write_private(path: &Path, pem: &str) -> Result<(), PkiError> {
    write(path, pem, 0o600)
}

/// Writes a certificate, mode 0644, replacing the file as a whole.
///
/// # Errors
/// With the path.
pub fn write_public(path: &Path, pem: &str) -> Result<(), PkiError> {
    write(path, pem, 0o644)
}

fn write(path: &Path, pem: &str, mode: u32) -> Result<(), PkiError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let write = || {
        // A leftover may have another mode; `create_new` makes the mode certain.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        PkiError::File { path: path.to_owned(), error }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_private_key_is_readable_by_its_owner_only_even_if_the_file_was_open_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        write_private(&path, "new").unwrap();
        assert_eq!(read_file(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_file_is_named_in_the_error() {
        let error = read_file(Path::new("/nowhere/at-all.pem")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/at-all.pem: "), "{error}");
    }
}
