//! Why a disk cache cannot be used: sentences for the user.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum DiskCacheError {
    #[error("the cache directory {directory} is in use by {owner}: give each mount a cache directory of its own")]
    InUse { directory: PathBuf, owner: String },
    #[error("the disk cache cannot be smaller than {least} bytes: give --disk-cache-size a larger size")]
    TooSmall { least: u64 },
    #[error("the cache directory {directory} cannot be used: {source}; name another with --cache-dir")]
    Io { directory: PathBuf, source: io::Error },
    #[error("{directory} is no cache directory of Cairn")]
    NotACache { directory: PathBuf },
}
