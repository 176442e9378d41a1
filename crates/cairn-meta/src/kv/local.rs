//! A store in a directory of this machine: the one place that knows what its files are called.

use std::path::PathBuf;

use super::redb::RedbStore;
use super::{KeyValueStore, Opener, Restore};
use crate::error::StoreError;

const DATABASE: &str = "meta.redb";
const LOG: &str = "meta.log";

/// A redb file with its log. The process that has it open excludes every other.
#[derive(Clone, Debug)]
pub struct LocalOpener {
    directory: PathBuf,
    cache_bytes: usize,
}

impl LocalOpener {
    /// Memory for cached pages unless told otherwise, in bytes.
    pub const CACHE_BYTES_DEFAULT: usize = 128 * 1024 * 1024;

    /// Of files in `directory`, which must exist.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        LocalOpener { directory: directory.into(), cache_bytes: Self::CACHE_BYTES_DEFAULT }
    }

    /// Bounds the memory for cached pages, in bytes.
    pub fn with_cache(self, cache_bytes: usize) -> Self {
        LocalOpener { cache_bytes, ..self }
    }
}

impl Opener for LocalOpener {
    /// The caller makes the directory's entries durable.
    fn create(&self) -> Result<Box<dyn KeyValueStore>, StoreError> {
        let (database, log) = (self.directory.join(DATABASE), self.directory.join(LOG));
        Ok(Box::new(RedbStore::create(&database, &log, self.cache_bytes)?))
    }

    fn open(&self, restore: &mut Restore<'_>) -> Result<Box<dyn KeyValueStore>, StoreError> {
        let (database, log) = (self.directory.join(DATABASE), self.directory.join(LOG));
        Ok(Box::new(RedbStore::open(&database, &log, self.cache_bytes, restore)?))
    }
}
