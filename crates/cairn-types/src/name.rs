//! Names of directory entries: 1 to 255 bytes, any but `/` and NUL, neither `.` nor `..`.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::errno::{Errno, FsResult};
use crate::limits::NAME_MAX;

/// A checked name of a directory entry. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Name(Bytes);

impl Name {
    /// Checks `bytes`. `ENAMETOOLONG` beyond 255 bytes, `EINVAL` for anything else that no entry can be called.
    pub fn new(bytes: &[u8]) -> FsResult<Self> {
        Self::check(bytes)?;
        Ok(Name(Bytes::copy_from_slice(bytes)))
    }

    fn check(bytes: &[u8]) -> FsResult<()> {
        if bytes.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.as_os_str())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.as_os_str().to_string_lossy())
    }
}

impl TryFrom<Bytes> for Name {
    type Error = Errno;

    fn try_from(bytes: Bytes) -> FsResult<Self> {
        Self::check(&bytes)?;
        Ok(Name(bytes))
    }
}

impl From<Name> for Bytes {
    fn from(name: Name) -> Self {
        name.0
    }
}
