//! Why something cannot be done to a volume: a sentence with the remedy, and the errno that stands for it.

use std::io;
use std::path::PathBuf;

use cairn_types::limits::{CHUNK_SIZE_MAX, CHUNK_SIZE_MIN};
use cairn_types::profile::ProfileError;
use cairn_types::{Errno, VolumeId};
use cairn_wire::message::Failure;
use cairn_wire::{Refusal, RefusalKind};

use super::rules::{BYTES_LIMIT_MAX, DATA_CENTER_MAX, INODES_LIMIT_MAX, NAME_MAX};
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("there is no volume with the id or name {0:?}: `cairn volume list` shows those there are")]
    UnknownVolume(String),
    #[error("several volumes are called {name:?}: use one of their ids, {}", list(.ids))]
    AmbiguousName { name: String, ids: Vec<VolumeId> },
    #[error(
        "{0:?} cannot be a volume's name: it takes 1 to {NAME_MAX} bytes, no slash, no control characters, no blanks around"
    )]
    InvalidName(String),
    #[error("a data centre's label takes at most {DATA_CENTER_MAX} bytes and no control characters")]
    InvalidDataCenter,
    #[error("a volume of {0} bytes cannot be made: it takes 1 to {BYTES_LIMIT_MAX} bytes")]
    InvalidBytesLimit(u64),
    #[error("a volume of {0} inodes cannot be made: it takes 1 to {INODES_LIMIT_MAX} inodes")]
    InvalidInodesLimit(u64),
    #[error(
        "a chunk of {0} bytes cannot be had: it takes a power of two from {CHUNK_SIZE_MIN} to {CHUNK_SIZE_MAX} bytes"
    )]
    InvalidChunkSize(u32),
    #[error(transparent)]
    InvalidProfile(ProfileError),
    #[error(
        "volume {volume} holds {used} {unit}, more than the {wanted} {unit} wanted: delete some of its content first"
    )]
    BelowUse { volume: VolumeId, unit: &'static str, used: u64, wanted: u64 },
    #[error("volume {volume} is in use by {}: unmount or end it first", list(.clients))]
    InUse { volume: VolumeId, clients: Vec<String> },
    #[error("volume {volume} cannot be deleted: {reason}")]
    Kept { volume: VolumeId, reason: String },
    #[error("volume {0} is being used or checked at the moment: try again later")]
    Busy(VolumeId),
    #[error("volume {0} is being opened, which may take long after a crash: try again later")]
    Opening(VolumeId),
    #[error("volume {volume} cannot be opened: {reason}")]
    Broken { volume: VolumeId, reason: String },
    #[error("volume {volume}: the operation failed: {reason}")]
    Engine { volume: VolumeId, reason: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("a task of the server ended unexpectedly")]
    TaskFailed,
}

impl CatalogueError {
    pub fn errno(&self) -> Errno {
        match self {
            CatalogueError::UnknownVolume(_) => Errno::ENOENT,
            CatalogueError::AmbiguousName { .. }
            | CatalogueError::InvalidName(_)
            | CatalogueError::InvalidDataCenter
            | CatalogueError::InvalidBytesLimit(_)
            | CatalogueError::InvalidInodesLimit(_)
            | CatalogueError::InvalidChunkSize(_)
            | CatalogueError::InvalidProfile(_) => Errno::EINVAL,
            CatalogueError::BelowUse { .. } => Errno::ENOSPC,
            CatalogueError::InUse { .. } | CatalogueError::Kept { .. } | CatalogueError::Busy(_) => Errno::EBUSY,
            CatalogueError::Opening(_) => Errno::EAGAIN,
            CatalogueError::Io { source, .. } => source.raw_os_error().map_or(Errno::EIO, Errno),
            CatalogueError::Broken { .. }
            | CatalogueError::Engine { .. }
            | CatalogueError::Store(_)
            | CatalogueError::TaskFailed => Errno::EIO,
        }
    }
}

impl From<CatalogueError> for Failure {
    fn from(error: CatalogueError) -> Self {
        Failure { errno: error.errno(), message: error.to_string() }
    }
}

/// For somebody who wanted to mount.
impl From<CatalogueError> for Refusal {
    fn from(error: CatalogueError) -> Self {
        let kind = match &error {
            CatalogueError::UnknownVolume(_) | CatalogueError::AmbiguousName { .. } => RefusalKind::UnknownVolume,
            _ => RefusalKind::Busy,
        };
        Refusal { kind, message: error.to_string() }
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
