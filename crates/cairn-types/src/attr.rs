//! What `stat` says of a node.

use serde::{Deserialize, Serialize};

use crate::allocation::Allocation;
use crate::id::Ino;
use crate::limits::STAT_BLOCK;
use crate::time::Timestamp;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum FileKind {
    Regular = 0,
    Directory = 1,
    Symlink = 2,
    Fifo = 3,
    Socket = 4,
    CharDevice = 5,
    BlockDevice = 6,
}

impl FileKind {
    /// The file-type bits of `st_mode` (`S_IFREG` and so on).
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::Regular => libc::S_IFREG,
            FileKind::Directory => libc::S_IFDIR,
            FileKind::Symlink => libc::S_IFLNK,
            FileKind::Fifo => libc::S_IFIFO,
            FileKind::Socket => libc::S_IFSOCK,
            FileKind::CharDevice => libc::S_IFCHR,
            FileKind::BlockDevice => libc::S_IFBLK,
        }
    }

    /// Reads the file-type bits of a `st_mode`.
    pub fn from_mode_bits(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::Regular,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            _ => return None,
        })
    }

    /// `d_type` of a directory entry.
    pub fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }

    /// Reads the number that is stored and sent.
    pub fn from_repr(number: u8) -> Option<Self> {
        Some(match number {
            0 => FileKind::Regular,
            1 => FileKind::Directory,
            2 => FileKind::Symlink,
            3 => FileKind::Fifo,
            4 => FileKind::Socket,
            5 => FileKind::CharDevice,
            6 => FileKind::BlockDevice,
            _ => return None,
        })
    }
}

/// Facts about a node that spare a reader a look-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttrFlags(pub u8);

impl AttrFlags {
    /// The node has at least one extended attribute.
    pub const HAS_XATTR: AttrFlags = AttrFlags(1);
    /// The node has `security.capability`, which a write must remove.
    pub const HAS_CAPABILITY: AttrFlags = AttrFlags(2);
    /// The node has an access or default ACL.
    pub const HAS_ACL: AttrFlags = AttrFlags(4);

    pub fn contains(self, other: AttrFlags) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn set(&mut self, other: AttrFlags, on: bool) {
        if on { self.0 |= other.0 } else { self.0 &= !other.0 }
    }
}

/// The attributes of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    pub ino: Ino,
    pub kind: FileKind,
    /// Permission, set-id and sticky bits (`0o7777` at most); the file type is in `kind`.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number as the kernel encodes it for FUSE (32 bits); 0 unless a device.
    pub rdev: u32,
    /// Bytes for files and symlinks; number of entries for directories.
    pub size: u64,
    /// Logical bytes that are allocated, holes left out; what quota and `st_blocks` count.
    pub allocated: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
    /// Grows with every change of this node: of two copies, the one with the larger number is the newer.
    pub version: u64,
    pub flags: AttrFlags,
}

impl Attr {
    /// `st_blocks`: units of 512 bytes.
    pub fn blocks(&self) -> u64 {
        self.allocated.div_ceil(STAT_BLOCK)
    }

    /// What this node adds to the volume's usage, in bytes: with [`Allocation::NATIVE`] the same figure that `du` adds up.
    /// Of a damaged row, too.
    pub fn charged(&self, allocation: Allocation) -> u64 {
        allocation.charged(self.allocated)
    }

    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// `st_mode`: file type and permission bits together.
    pub fn st_mode(&self) -> u32 {
        self.kind.mode_bits() | self.mode
    }
}
