//! What lies between a source and a sink: one node of a tree.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use cairn_types::Timestamp;

use crate::TransferError;

/// A node, where it belongs, and how to get its bytes.
pub struct Item {
    /// Below the root of the transfer; empty for the root itself. Only plain names, see [`clean`].
    pub path: PathBuf,
    pub meta: Meta,
    pub kind: Kind,
}

/// What is kept of a node besides its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub xattrs: Attributes,
}

/// Extended attributes: names with their values.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

pub enum Kind {
    Directory,
    Regular {
        size: u64,
        content: Box<dyn Content>,
    },
    Symlink(Vec<u8>),
    /// A further name of the file at this path of the same transfer.
    HardLink(PathBuf),
    Fifo,
    Socket,
    /// With the device number as in `st_rdev`.
    CharDevice(u32),
    BlockDevice(u32),
}

/// The bytes of a file, in pieces. What lies between pieces, and after the last one, are zeros.
pub trait Content: Send {
    /// The next piece with its offset: beyond the one before, at most [`PIECE`] bytes, never empty.
    fn next(&mut self) -> Result<Option<(u64, Bytes)>, TransferError>;
}

/// Most bytes of a piece.
pub const PIECE: usize = 1 << 20;

/// A path with plain names alone: leading slashes and `.` are dropped, as tar does.
///
/// # Errors
/// `None` for a path that climbs (`..`) or holds a NUL byte.
pub fn clean(path: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if !name.as_bytes().contains(&0) => cleaned.push(name),
            Component::CurDir | Component::RootDir => {}
            _ => return None,
        }
    }
    Some(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_climb() {
        assert_eq!(clean(Path::new("/a/./b//c")), Some(PathBuf::from("a/b/c")));
        assert_eq!(clean(Path::new("./")), Some(PathBuf::new()));
        assert_eq!(clean(Path::new("a/../../etc/passwd")), None);
    }
}
