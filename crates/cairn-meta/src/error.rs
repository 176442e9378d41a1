//! Why the store or an operation failed.
//!
//! Two kinds are kept apart: an [`Errno`] is the answer to a program and leaves everything as it was; a [`StoreError`]
//! means that the metadata themselves cannot be read or written.

use std::io;
use std::path::PathBuf;

use cairn_types::Errno;

/// The metadata cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path} is in use by another process")]
    Locked { path: PathBuf },
    #[error("{path} does not exist")]
    Missing { path: PathBuf },
    #[error("{path} already exists")]
    Exists { path: PathBuf },
    #[error("the metadata are damaged: {0}")]
    Damaged(String),
    #[error("the volume has format version {found}; this program knows versions up to {known}: use a newer one")]
    NewerFormat { found: u64, known: u64 },
    #[error("metadata: {0}")]
    Io(#[from] io::Error),
    /// Somebody opened the volume after whoever wanted to change it: see [`Ownership`](crate::Ownership).
    #[error("another server has opened the volume since; nothing is changed from here any more")]
    Superseded,
    #[error("another batch of this volume is still open")]
    BatchOpen,
    #[error("an earlier change of this batch could not be stored; nothing of it may be committed")]
    Poisoned,
}

impl StoreError {
    /// A row that does not decode.
    pub(crate) fn row(what: &str, key: &[u8]) -> Self {
        StoreError::Damaged(format!("{what} at key {}", key.escape_ascii()))
    }
}

/// Why an operation was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The answer to the program. The batch is as it was before.
    #[error("{0}")]
    Refused(#[from] Errno),
    /// The batch can no longer be committed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Turns the outcome of a read into what a program is told: trouble of the store is logged and becomes `EIO`.
pub(crate) fn for_program<T>(outcome: Result<T, ApplyError>) -> Result<T, Errno> {
    outcome.map_err(|error| match error {
        ApplyError::Refused(errno) => errno,
        ApplyError::Store(error) => {
            tracing::error!(%error, "metadata could not be read");
            Errno::EIO
        }
    })
}
