//! Small documents on disk that are replaced as a whole: after a crash there is the old one or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a document or its folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    #[error("cannot use {path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is damaged ({reason}): move it away to start afresh; what it listed may then still be mounted",
        path = .path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("{path} is in use by another process: stop that process, or choose another folder with --state", path = .0.display())]
    InUse(PathBuf),
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DurableError + '_ {
    |source| DurableError::Io { path: path.to_path_buf(), source }
}

/// Makes a folder that is nobody else's to look into.
pub fn private_folder(path: &Path) -> Result<(), DurableError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))
}

/// Keeps other processes out of a folder until the file is dropped.
pub fn lock(path: &Path) -> Result<File, DurableError> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed(path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DurableError::InUse(path.to_path_buf())),
        Err(errno) => Err(failed(path)(errno.into())),
    }
}

/// The document, or the default where there is none yet.
pub fn load<T: DeserializeOwned + Default>(path: &Path) -> Result<T, DurableError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| DurableError::Damaged { path: path.to_path_buf(), reason: error.to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Replaces the document; it is on stable storage when this returns.
pub fn save<T: Serialize>(path: &Path, document: &T) -> Result<(), DurableError> {
    let mut bytes = serde_json::to_vec_pretty(document)
        .map_err(|error| DurableError::Damaged { path: path.to_path_buf(), reason: error.to_string() })?;
    bytes.push(b'\n');
    let next = path.with_extension("next");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&next, path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    write().map_err(failed(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_comes_back_and_a_damaged_one_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("list.json");
        assert_eq!(load::<Vec<String>>(&path).expect("none yet"), Vec::<String>::new());
        save(&path, &vec!["a".to_owned()]).expect("saved");
        save(&path, &vec!["a".to_owned(), "b".to_owned()]).expect("saved again");
        assert_eq!(load::<Vec<String>>(&path).expect("loaded"), ["a", "b"]);
        fs::write(&path, "[\"a\"").expect("written");
        let error = load::<Vec<String>>(&path).expect_err("damaged").to_string();
        assert!(error.contains("list.json") && error.contains("move it away"), "{error}");
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().expect("folder");
        let held = lock(&folder.path().join("lock")).expect("free");
        assert!(matches!(lock(&folder.path().join("lock")), Err(DurableError::InUse(_))));
        drop(held);
        lock(&folder.path().join("lock")).expect("free again");
    }
}
