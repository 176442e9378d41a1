//! One mount at a time uses a cache directory: the file `LOCK` in it is locked for as long, and says by whom.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::DiskCacheError;
use crate::private;

const NAME: &str = "LOCK";

/// Held until dropped, also by the end of the process.
#[derive(Debug)]
pub(super) struct DirectoryLock(#[expect(dead_code, reason = "held for its lock")] File);

/// Makes the directory if need be and takes its lock.
pub(super) fn take(directory: &Path, owner: &str) -> Result<DirectoryLock, DiskCacheError> {
    let failed = |source| DiskCacheError::Io { directory: directory.to_owned(), source };
    private::parents(directory).map_err(failed)?;
    let mut file = private::file().truncate(false).open(directory.join(NAME)).map_err(failed)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut owner = String::new();
        // Only for the message.
        let _ = file.read_to_string(&mut owner);
        let owner = if owner.trim().is_empty() { "another process".to_owned() } else { owner.trim().to_owned() };
        return Err(DiskCacheError::InUse { directory: directory.to_owned(), owner });
    }
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{owner}")).map_err(failed)?;
    Ok(DirectoryLock(file))
}

/// Who uses the directory now.
///
/// # Errors
/// [`DiskCacheError::NotACache`] if nobody ever has.
pub(super) fn owner(directory: &Path) -> Result<Option<String>, DiskCacheError> {
    let mut file =
        File::open(directory.join(NAME)).map_err(|_| DiskCacheError::NotACache { directory: directory.to_owned() })?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return Ok(None);
    }
    let mut owner = String::new();
    file.read_to_string(&mut owner).map_err(|source| DiskCacheError::Io { directory: directory.to_owned(), source })?;
    Ok(Some(owner.trim().to_owned()))
}
