//! What can go wrong with packs, and what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

use cairn_types::{BlobId, BlobPlace, Errno, PackId};

/// Why an operation on the packs failed.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// The bytes to append are not those that their maker computed the checksums of. Nothing was stored.
    #[error("blob {blob}: block {block} does not match its checksum; it was damaged on its way here")]
    DamagedOnArrival { blob: BlobId, block: usize },
    /// The blob to append is empty or longer than a chunk. Nothing was stored.
    #[error("blob {blob}: {length} bytes cannot be stored as one blob")]
    BadLength { blob: BlobId, length: usize },
    /// The disk (or the server's quota on it) is full. Nothing was stored; appending works again once there is room.
    #[error("no space for packs: {source}")]
    Full { source: io::Error },
    /// Stored bytes are not what was written.
    #[error(transparent)]
    Damaged(Problem),
    /// The place was freed or its pack deleted: look the blob up again, it may have moved.
    #[error("blob {blob} is no longer in pack {pack}")]
    Gone { blob: BlobId, pack: PackId },
    /// Asked for without waiting for the disk, and the disk is where it is.
    #[error("blob {blob} is not in memory")]
    NotInMemory { blob: BlobId },
    /// The caller asked for bytes that the blob does not have.
    #[error("blob {blob} has no bytes {start}..{end}")]
    OutOfRange { blob: BlobId, start: u32, end: u32 },
    /// The caller named a range that no record can have.
    #[error("no record can lie at {0:?}")]
    ImpossiblePlace(BlobPlace),
    /// The operation needs a pack that takes no more records: seal it first.
    #[error("pack {0} still takes new records")]
    NotSealed(PackId),
    /// There is no such pack.
    #[error("there is no pack {0}")]
    NoSuchPack(PackId),
    /// All pack numbers are used up.
    #[error("no pack numbers are left")]
    OutOfPackNumbers,
    /// An earlier flush failed: what was written since the one before it may be lost, so nothing more is written.
    #[error("{0}; no more is written until the server is restarted")]
    Poisoned(Poison),
    /// The pack was written by a newer program.
    #[error("{file}: pack format version {version} is newer than this program; use a newer one", file = .file.display())]
    NewerVersion { file: PathBuf, version: u32 },
    #[error("{file}: {action}: {source}", file = .file.display())]
    Io { action: &'static str, file: PathBuf, source: io::Error },
}

impl ChunkError {
    pub(crate) fn io(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> ChunkError {
        move |source| ChunkError::Io { action, file: file.to_owned(), source }
    }

    /// As [`ChunkError::io`], for what takes space: a full disk is an error of its own.
    pub(crate) fn writing(file: &Path) -> impl FnOnce(io::Error) -> ChunkError {
        move |source| match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => ChunkError::Full { source },
            _ => ChunkError::Io { action: "cannot write", file: file.to_owned(), source },
        }
    }

    /// The error number that a program should see: `ENOSPC`, `ESTALE` for [`ChunkError::Gone`], `EINVAL` for a
    /// caller's mistake, `EIO` for the rest.
    pub fn errno(&self) -> Errno {
        match self {
            ChunkError::Full { .. } => Errno::ENOSPC,
            ChunkError::Gone { .. } => Errno::ESTALE,
            ChunkError::NotInMemory { .. } => Errno::EAGAIN,
            ChunkError::BadLength { .. }
            | ChunkError::OutOfRange { .. }
            | ChunkError::ImpossiblePlace(_)
            | ChunkError::NotSealed(_)
            | ChunkError::NoSuchPack(_) => Errno::EINVAL,
            ChunkError::DamagedOnArrival { .. }
            | ChunkError::Damaged(_)
            | ChunkError::OutOfPackNumbers
            | ChunkError::Poisoned(_)
            | ChunkError::NewerVersion { .. }
            | ChunkError::Io { .. } => Errno::EIO,
        }
    }
}

/// The flush that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{file}: cannot flush to stable storage: {reason}", file = .file.display())]
pub struct Poison {
    pub file: PathBuf,
    pub reason: String,
}

/// One thing that is wrong with a pack on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} at {offset}{blob}: {kind}", file = .file.display(), blob = .blob.map(|blob| format!(" (blob {blob})")).unwrap_or_default())]
pub struct Problem {
    pub file: PathBuf,
    pub pack: PackId,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// The blob that suffers, if it is known.
    pub blob: Option<BlobId>,
    pub kind: ProblemKind,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    /// A pack that the metadata knows has no file. Harmless if nothing in it was live: a pack that is wholly dead may
    /// be deleted just before a crash keeps the metadata from forgetting it.
    #[error("the pack's file is missing")]
    MissingFile,
    /// Bytes that were on stable storage are not there any more.
    #[error("the file ends at {length}, where {expected} bytes had been made durable")]
    ShortFile { length: u64, expected: u64 },
    #[error("the header of the file is damaged")]
    BadFileHeader,
    #[error("the record's header is damaged or was never written")]
    BadRecordHeader,
    #[error("another record lies here, of blob {found}")]
    OtherRecord { found: BlobId },
    #[error("the file ends inside the record")]
    CutRecord,
    /// `block` counts units of [`CHECK_BLOCK`](cairn_types::limits::CHECK_BLOCK) bytes of the blob.
    #[error("block {block} does not match its checksum")]
    BadBlock { block: usize },
    #[error("the blob does not match its hash")]
    BadHash,
}
