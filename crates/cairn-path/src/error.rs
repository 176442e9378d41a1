//! What could not be done to which path, and why.

use std::path::{Path, PathBuf};

use cairn_client::FsResult;
use cairn_types::Errno;

/// An operation by path that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action} {path}: {source}", path = shown(.path).display())]
pub struct PathError {
    /// A verb, as in "cannot open".
    pub action: &'static str,
    /// As it was given.
    pub path: PathBuf,
    /// The reason, with its kind and error number.
    pub source: cairn_client::Error,
}

impl PathError {
    pub fn errno(&self) -> Errno {
        self.source.errno()
    }
}

/// The root itself has an empty path.
fn shown(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new("/") } else { path }
}

pub(crate) type Outcome<T> = Result<T, PathError>;

/// Adds to a reason what was being done to which path.
pub(crate) fn during<T>(outcome: FsResult<T>, action: &'static str, path: &Path) -> Outcome<T> {
    outcome.map_err(|source| PathError { action, path: path.to_owned(), source })
}
