//! Changes to a volume's file tree. One vocabulary for a request that waits and for a buffered journal.
//!
//! What has to be known of a change wherever it passes is asked in `facts`.

mod facts;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::attr::Attr;
use crate::extent::Extent;
use crate::id::Ino;
use crate::name::Name;
use crate::time::Timestamp;

/// What a new node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewNode {
    Regular,
    Directory,
    /// With its target: 1 to [`crate::limits::SYMLINK_MAX`] bytes.
    Symlink(Bytes),
    Fifo,
    Socket,
    /// With the device number, as in [`Attr::rdev`].
    CharDevice(u32),
    BlockDevice(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces what is at the new name, if anything.
    Replace,
    /// `RENAME_NOREPLACE`: `EEXIST` if something is there.
    NoReplace,
    /// `RENAME_EXCHANGE`: both must exist and change places.
    Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    CreateOrReplace,
    /// `XATTR_CREATE`: `EEXIST` if it exists.
    Create,
    /// `XATTR_REPLACE`: `ENODATA` if it does not.
    Replace,
}

/// The fields of a `setattr`; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttrChange {
    /// Permission, set-id and sticky bits.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<Timestamp>,
    pub mtime: Option<Timestamp>,
    /// A program read the node at this time: becomes the access time and, as reading changes nothing, leaves the
    /// change time alone.
    pub read_at: Option<Timestamp>,
    /// Clear set-user-id, set-group-id (where group execution is allowed) and `security.capability`, as a write does.
    pub kill_privileges: bool,
}

/// Bytes `file_offset(chunk) + extent.offset ..` of a file now come from `extent.source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenExtent {
    /// Index of the chunk in the file (file offset divided by the volume's chunk size).
    pub chunk: u32,
    pub extent: Extent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllocateMode {
    /// Plain `fallocate`: allocate holes, grow the file unless `keep_size`.
    Reserve { keep_size: bool },
    /// `FALLOC_FL_PUNCH_HOLE` (always keeps the size).
    Punch,
    /// `FALLOC_FL_ZERO_RANGE`: reads as zeros and stays allocated.
    Zero { keep_size: bool },
}

/// One change. Atomic: it happens whole or, with an errno, not at all. `time` is the maker's clock and becomes
/// the change time of what is touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaOp {
    /// Makes a node called `name` in `parent`. `ino` is a number from the maker's range.
    /// `mode` is what the program asked for; the server applies the parent's default ACL or else `umask`,
    /// and the parent's set-group-id bit. `EEXIST` if the name is taken.
    Create {
        parent: Ino,
        name: Name,
        ino: Ino,
        node: NewNode,
        mode: u32,
        umask: u32,
        uid: u32,
        gid: u32,
        time: Timestamp,
    },
    /// Makes a regular file without a name (`O_TMPFILE`), kept alive by the maker's session until linked or released.
    CreateUnnamed {
        parent: Ino,
        ino: Ino,
        mode: u32,
        umask: u32,
        uid: u32,
        gid: u32,
        time: Timestamp,
    },
    Link {
        ino: Ino,
        parent: Ino,
        name: Name,
        time: Timestamp,
    },
    /// Removes the name of a non-directory. With `keep`, a file whose last name this was lives on for this
    /// session until [`MetaOp::ReleaseOrphan`] (it has it open).
    Unlink {
        parent: Ino,
        name: Name,
        keep: bool,
        time: Timestamp,
    },
    Rmdir {
        parent: Ino,
        name: Name,
        time: Timestamp,
    },
    /// `keep` as for [`MetaOp::Unlink`], for a file that is replaced.
    Rename {
        parent: Ino,
        name: Name,
        new_parent: Ino,
        new_name: Name,
        mode: RenameMode,
        keep: bool,
        time: Timestamp,
    },
    SetAttr {
        ino: Ino,
        change: AttrChange,
        time: Timestamp,
    },
    /// `clear_set_gid`: also drop the set-group-id bit (`FUSE_SETXATTR_ACL_KILL_SGID`). Setting an ACL updates the mode.
    SetXattr {
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
        clear_set_gid: bool,
        time: Timestamp,
    },
    RemoveXattr {
        ino: Ino,
        name: Bytes,
        time: Timestamp,
    },
    /// File content that is already at the chunk server. The size becomes at least `size`. `mtime` is set (it may have
    /// been given explicitly after the write); `time` is that of the last write, and never moves the change time back.
    Write {
        ino: Ino,
        extents: Vec<WrittenExtent>,
        size: u64,
        mtime: Timestamp,
        time: Timestamp,
    },
    /// `kill_privileges` as in [`AttrChange`].
    Allocate {
        ino: Ino,
        mode: AllocateMode,
        offset: u64,
        length: u64,
        kill_privileges: bool,
        time: Timestamp,
    },
    /// `copy_file_range` without moving bytes. Copies up to `length` bytes, cut at the source's end;
    /// [`OpReply::value`] is the number copied. `kill_privileges` as in [`AttrChange`], of the target.
    CopyRange {
        source: Ino,
        source_offset: u64,
        target: Ino,
        target_offset: u64,
        length: u64,
        kill_privileges: bool,
        time: Timestamp,
    },
    /// This session no longer has the nameless file open.
    ReleaseOrphan {
        ino: Ino,
    },
}

/// What a change brought about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpReply {
    /// Attributes, after the change, of every node that it touched and that still exists (or is kept open).
    pub attrs: Vec<Attr>,
    /// The node that was made, linked, moved or removed.
    pub subject: Option<Ino>,
    /// A node that lost its last name (by unlink or by being replaced). Its attributes are in `attrs` if it was kept.
    pub removed: Option<Ino>,
    /// For [`MetaOp::CopyRange`]: bytes copied.
    pub value: u64,
}
