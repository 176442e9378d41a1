//! The face of a mounted volume: what a front end (FUSE, a gateway, an importer) may ask of it.
//!
//! No type of any kernel interface appears here, so several front ends can stand side by side. Every method may be
//! polled once on the caller's own thread: it is ready at once when the answer is cached, and otherwise may be moved
//! to a task.

use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use cairn_types::{
    AllocateMode, Attr, AttrChange, FileKind, FileLock, Ino, LockOwner, Name, NewNode, RenameMode, XattrMode,
};

use crate::error::FsResult;

/// Who asks, as the kernel says. Permission checks on modes and ACLs are the kernel's (`default_permissions`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub umask: u32,
}

/// A node and for how long the kernel may rely on what is said here.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub attr: Attr,
    /// For how long the attributes hold without asking again.
    pub attr_ttl: Duration,
    /// For how long the name leads to this node without asking again.
    pub entry_ttl: Duration,
}

/// Outcome of a lookup: absent names may be cached too.
#[derive(Clone, Copy, Debug)]
pub enum Lookup {
    Found(Entry),
    Absent { entry_ttl: Duration },
}

/// Number of an open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub handle: Handle,
    /// The kernel's cached pages of this file are still true.
    pub keep_cache: bool,
    /// The kernel must pass reads and writes on without caching (append mode: it may not know the end of the file).
    pub direct_io: bool,
}

/// An entry of a directory listing.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// `b"."` and `b".."` included.
    pub name: Bytes,
    pub ino: Ino,
    pub kind: FileKind,
    /// Pass it as `cursor` to go on after this entry. Never 0. Stays valid while entries come and go.
    pub cursor: u64,
    /// Present in a listing with attributes (never for `.` and `..`).
    pub entry: Option<Entry>,
}

/// How a write must be treated.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteFlags {
    /// The file was opened with `O_APPEND`: the offset is the end of the file, whatever the kernel believes.
    pub append: bool,
    /// Dirty pages of the kernel's cache (shared `mmap`), written on nobody's behalf.
    pub from_cache: bool,
    /// Clear set-id bits and capabilities (`FUSE_WRITE_KILL_SUIDGID`).
    pub kill_privileges: bool,
    /// `O_SYNC` or `O_DSYNC`: durable before the answer.
    pub sync: bool,
}

/// Figures of `statfs`, in bytes and nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeUsage {
    pub bytes_total: u64,
    pub bytes_free: u64,
    pub inodes_total: u64,
    pub inodes_free: u64,
}

/// `SEEK_DATA` or `SEEK_HOLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTarget {
    Data,
    Hole,
}

/// Attributes as of now, with their time of validity.
#[derive(Clone, Copy, Debug)]
pub struct AttrReply {
    pub attr: Attr,
    pub ttl: Duration,
}

/// The caches that a front end keeps outside this process, which a recalled lease must empty.
///
/// The methods may block while the kernel writes dirty pages back through [`FileSystem::write`]; they are called from
/// threads that serve no request.
pub trait KernelCache: Send + Sync {
    /// Drops attributes and cached pages of a file (`FUSE_NOTIFY_INVAL_INODE`), dirty pages being written first.
    fn invalidate_data(&self, ino: Ino) {
        self.invalidate_range(ino, 0..u64::MAX);
    }
    /// As [`KernelCache::invalidate_data`], with pages of these bytes of the file alone. Waits for pages that are being
    /// read, which the kernel keeps locked until its request is answered.
    fn invalidate_range(&self, ino: Ino, range: Range<u64>);
    /// Drops cached attributes alone. Never blocks. Whether the kernel knew the node: if not, it may still be taking in the
    /// answer that tells of it, attributes included.
    fn invalidate_attr(&self, ino: Ino) -> bool;
    /// Makes every cached name of the mount be asked for again (`FUSE_NOTIFY_INC_EPOCH`). Never blocks.
    fn expire_entries(&self);
    /// Whether [`KernelCache::expire_entries`] works; otherwise no entry may be given a time to live.
    fn can_expire_entries(&self) -> bool;
}

/// Where a copy inside the volume goes.
#[derive(Clone, Copy, Debug)]
pub struct CopyTarget {
    pub ino: Ino,
    /// As in [`FileSystem::allocate`].
    pub handle: Option<Handle>,
    pub offset: u64,
}

/// Everything a mounted volume does. Implementations are cheap to clone (a shared handle).
///
/// The kernel's reference counts: each [`Entry`] returned by `lookup`, `create`, `make_node`, `link`, `make_unnamed` and by a listing
/// with attributes counts one reference, given back with `forget`.
pub trait FileSystem: Clone + Send + Sync + 'static {
    fn lookup(&self, parent: Ino, name: Name) -> impl Future<Output = FsResult<Lookup>> + Send;
    fn forget(&self, ino: Ino, references: u64);
    fn getattr(&self, ino: Ino) -> impl Future<Output = FsResult<AttrReply>> + Send;
    /// `truncate` of an open file passes its handle, which hears first of writes that were lost.
    fn setattr(
        &self,
        ino: Ino,
        change: AttrChange,
        handle: Option<Handle>,
    ) -> impl Future<Output = FsResult<AttrReply>> + Send;
    fn readlink(&self, ino: Ino) -> impl Future<Output = FsResult<Bytes>> + Send;
    /// `mknod`, `mkdir` and `symlink`.
    fn make_node(
        &self,
        caller: Caller,
        parent: Ino,
        name: Name,
        node: NewNode,
        mode: u32,
    ) -> impl Future<Output = FsResult<Entry>> + Send;
    /// Makes and opens a regular file (`open_flags` as in `open(2)`).
    fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: Name,
        mode: u32,
        open_flags: i32,
    ) -> impl Future<Output = FsResult<(Entry, Opened)>> + Send;
    /// `O_TMPFILE`.
    fn make_unnamed(
        &self,
        caller: Caller,
        parent: Ino,
        mode: u32,
        open_flags: i32,
    ) -> impl Future<Output = FsResult<(Entry, Opened)>> + Send;
    fn link(&self, ino: Ino, new_parent: Ino, new_name: Name) -> impl Future<Output = FsResult<Entry>> + Send;
    fn unlink(&self, parent: Ino, name: Name) -> impl Future<Output = FsResult<()>> + Send;
    fn rmdir(&self, parent: Ino, name: Name) -> impl Future<Output = FsResult<()>> + Send;
    fn rename(
        &self,
        parent: Ino,
        name: Name,
        new_parent: Ino,
        new_name: Name,
        mode: RenameMode,
    ) -> impl Future<Output = FsResult<()>> + Send;
    fn open(&self, ino: Ino, open_flags: i32) -> impl Future<Output = FsResult<Opened>> + Send;
    /// Exactly the bytes asked for, fewer only at the end of the file; in pieces that need not be joined.
    fn read(
        &self,
        ino: Ino,
        handle: Handle,
        offset: u64,
        length: u32,
    ) -> impl Future<Output = FsResult<Vec<Bytes>>> + Send;
    /// Number of bytes taken (all of them, or an error).
    fn write(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        offset: u64,
        data: Bytes,
        flags: WriteFlags,
    ) -> impl Future<Output = FsResult<u32>> + Send;
    /// A descriptor is closed (`close(2)`): reports errors of earlier buffered writes; drops the owner's POSIX locks.
    fn flush(&self, ino: Ino, handle: Handle, owner: LockOwner) -> impl Future<Output = FsResult<()>> + Send;
    /// The last descriptor is closed; `flock_owner` if it held a `flock` lock.
    fn release(&self, ino: Ino, handle: Handle, flock_owner: Option<LockOwner>) -> impl Future<Output = ()> + Send;
    fn fsync(&self, ino: Ino, data_only: bool) -> impl Future<Output = FsResult<()>> + Send;
    fn sync_all(&self) -> impl Future<Output = FsResult<()>> + Send;
    fn open_dir(&self, ino: Ino) -> impl Future<Output = FsResult<Handle>> + Send;
    /// Entries after `cursor` (0: from the start), about `max_bytes` worth of names; empty at the end.
    fn read_dir(
        &self,
        ino: Ino,
        handle: Handle,
        cursor: u64,
        max_bytes: u32,
        with_attributes: bool,
    ) -> impl Future<Output = FsResult<Vec<DirEntry>>> + Send;
    fn release_dir(&self, handle: Handle);
    fn get_xattr(&self, ino: Ino, name: Bytes) -> impl Future<Output = FsResult<Bytes>> + Send;
    fn list_xattr(&self, ino: Ino) -> impl Future<Output = FsResult<Vec<Bytes>>> + Send;
    fn set_xattr(
        &self,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
        clear_set_gid: bool,
    ) -> impl Future<Output = FsResult<()>> + Send;
    fn remove_xattr(&self, ino: Ino, name: Bytes) -> impl Future<Output = FsResult<()>> + Send;
    /// `handle`: through which the program asks; it hears first of writes that were lost, as a write does.
    /// `kill_privileges`: clear set-id bits and capabilities, as a write does.
    fn allocate(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        mode: AllocateMode,
        offset: u64,
        length: u64,
        kill_privileges: bool,
    ) -> impl Future<Output = FsResult<()>> + Send;
    /// Number of bytes copied. `kill_privileges` (of the target) as in [`FileSystem::allocate`].
    fn copy_range(
        &self,
        source: Ino,
        source_offset: u64,
        target: CopyTarget,
        length: u64,
        kill_privileges: bool,
    ) -> impl Future<Output = FsResult<u64>> + Send;
    fn seek(&self, ino: Ino, offset: u64, target: SeekTarget) -> impl Future<Output = FsResult<u64>> + Send;
    fn stat_fs(&self) -> impl Future<Output = FsResult<VolumeUsage>> + Send;
    /// The lock that stands in the way of `lock`, if any (`F_GETLK`).
    fn test_lock(&self, lock: FileLock) -> impl Future<Output = FsResult<Option<FileLock>>> + Send;
    /// Takes or gives back a lock; with `wait` until it can be had. Dropping the future gives up waiting.
    fn set_lock(&self, lock: FileLock, wait: bool) -> impl Future<Output = FsResult<()>> + Send;
}
