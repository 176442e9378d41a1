//! [`FileSystem`] for a [`Volume`]: each operation is handed to the part that it belongs to, and what fetching ahead watches
//! is told to it here, because the parts do not know of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_types::{AllocateMode, AttrChange, FileLock, Ino, LockOwner, Name, NewNode, RenameMode, XattrMode};

use super::content::Planned;
use super::{STATS_ATTRIBUTE, Volume, warm};
use crate::api::{
    AttrReply, Caller, CopyTarget, DirEntry, Entry, FileSystem, Handle, Lookup, Opened, SeekTarget, VolumeUsage,
    WriteFlags,
};
use crate::error::FsResult;
use crate::node::Node;
use crate::prefetch::FileRead;

/// For how long the kernel may keep attributes that it takes over from the answer to a change whatever it was told while
/// the answer was on its way (`fuse_do_setattr`, `fuse_iget` without a version, both of Linux 6.18): a recall that came in
/// between would be undone. Answers to look-ups and `getattr` it drops then.
const UNGUARDED: Duration = Duration::ZERO;

impl FileSystem for Volume {
    async fn lookup(&self, parent: Ino, name: Name) -> FsResult<Lookup> {
        let found = self.0.names.lookup(parent, name.clone()).await;
        if let Ok(Lookup::Found(entry)) = &found {
            self.0.prefetch.looked_up(parent, &name, &entry.attr);
        }
        found
    }

    fn forget(&self, ino: Ino, references: u64) {
        self.0.content.forget(ino, references);
    }

    async fn getattr(&self, ino: Ino) -> FsResult<AttrReply> {
        self.0.attributes.getattr(ino).await
    }

    async fn setattr(&self, ino: Ino, change: AttrChange, handle: Option<Handle>) -> FsResult<AttrReply> {
        let reply = self.0.attributes.setattr(ino, change, handle).await?;
        Ok(AttrReply { ttl: UNGUARDED, ..reply })
    }

    async fn readlink(&self, ino: Ino) -> FsResult<Bytes> {
        self.0.attributes.readlink(ino).await
    }

    async fn make_node(&self, caller: Caller, parent: Ino, name: Name, node: NewNode, mode: u32) -> FsResult<Entry> {
        self.0.names.make_node(caller, parent, name, node, mode).await
    }

    async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: Name,
        mode: u32,
        open_flags: i32,
    ) -> FsResult<(Entry, Opened)> {
        self.0.names.create(caller, parent, name, mode, open_flags).await
    }

    async fn make_unnamed(&self, caller: Caller, parent: Ino, mode: u32, open_flags: i32) -> FsResult<(Entry, Opened)> {
        self.0.names.make_unnamed(caller, parent, mode, open_flags).await
    }

    async fn link(&self, ino: Ino, new_parent: Ino, new_name: Name) -> FsResult<Entry> {
        let entry = self.0.names.link(ino, new_parent, new_name).await?;
        Ok(Entry { attr_ttl: UNGUARDED, ..entry })
    }

    async fn unlink(&self, parent: Ino, name: Name) -> FsResult<()> {
        self.0.names.unlink(parent, name).await
    }

    async fn rmdir(&self, parent: Ino, name: Name) -> FsResult<()> {
        self.0.names.rmdir(parent, name).await
    }

    async fn rename(&self, parent: Ino, name: Name, new_parent: Ino, new_name: Name, mode: RenameMode) -> FsResult<()> {
        self.0.names.rename(parent, name, new_parent, new_name, mode).await
    }

    async fn open(&self, ino: Ino, open_flags: i32) -> FsResult<Opened> {
        self.0.content.open(ino, open_flags).await
    }

    async fn read(&self, ino: Ino, handle: Handle, offset: u64, length: u32) -> FsResult<Vec<Bytes>> {
        let mount = &self.0;
        let tell = |planned: Planned<'_>| {
            let seen = FileRead { offset, length: u64::from(length), file_size: planned.size };
            let streams = planned.file.map(|file| &file.read_ahead);
            mount.prefetch.read(mount, planned.node, streams, seen, planned.parts);
        };
        mount.content.read(ino, handle, offset, length, tell).await
    }

    async fn write(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        offset: u64,
        data: Bytes,
        flags: WriteFlags,
    ) -> FsResult<u32> {
        self.0.content.write(ino, handle, offset, data, flags).await
    }

    async fn flush(&self, ino: Ino, handle: Handle, owner: LockOwner) -> FsResult<()> {
        self.0.content.flush(ino, handle, owner).await
    }

    async fn release(&self, ino: Ino, handle: Handle, flock_owner: Option<LockOwner>) {
        self.0.content.release(ino, handle, flock_owner).await;
    }

    async fn fsync(&self, ino: Ino, _data_only: bool) -> FsResult<()> {
        self.0.content.fsync(ino).await
    }

    async fn sync_all(&self) -> FsResult<()> {
        self.0.content.sync_all().await
    }

    async fn open_dir(&self, ino: Ino) -> FsResult<Handle> {
        self.0.names.open_dir(ino).await
    }

    async fn read_dir(
        &self,
        ino: Ino,
        handle: Handle,
        cursor: u64,
        max_bytes: u32,
        with_attributes: bool,
    ) -> FsResult<Vec<DirEntry>> {
        let mount = &self.0;
        let mut begun = None;
        let tell = |directory: &Arc<Node>| {
            begun = Some((Arc::clone(directory), mount.prefetch.listing_begins(directory)));
        };
        let entries = mount.names.read_dir(ino, handle, cursor, max_bytes, with_attributes, tell).await?;
        if let Some((directory, window)) = begun {
            mount.prefetch.listed(mount, &directory, window);
        }
        Ok(entries)
    }

    fn release_dir(&self, handle: Handle) {
        self.0.names.release_dir(handle);
    }

    async fn get_xattr(&self, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        if ino == Ino::ROOT
            && name == STATS_ATTRIBUTE.as_bytes()
            && let Some(report) = self.0.report.get()
        {
            return Ok(report().into());
        }
        if let Some(range) = warm::range_asked_for(&name) {
            return self.0.warm.ask(ino, &range);
        }
        self.0.attributes.get_xattr(ino, name).await
    }

    async fn list_xattr(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        self.0.attributes.list_xattr(ino).await
    }

    async fn set_xattr(
        &self,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
        clear_set_gid: bool,
    ) -> FsResult<()> {
        self.0.attributes.set_xattr(ino, name, value, mode, clear_set_gid).await
    }

    async fn remove_xattr(&self, ino: Ino, name: Bytes) -> FsResult<()> {
        self.0.attributes.remove_xattr(ino, name).await
    }

    async fn allocate(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        mode: AllocateMode,
        offset: u64,
        length: u64,
        kill_privileges: bool,
    ) -> FsResult<()> {
        self.0.content.allocate(ino, handle, mode, offset, length, kill_privileges).await
    }

    async fn copy_range(
        &self,
        source: Ino,
        source_offset: u64,
        target: CopyTarget,
        length: u64,
        kill_privileges: bool,
    ) -> FsResult<u64> {
        self.0.content.copy_range(source, source_offset, target, length, kill_privileges).await
    }

    async fn seek(&self, ino: Ino, offset: u64, target: SeekTarget) -> FsResult<u64> {
        self.0.content.seek(ino, offset, target).await
    }

    async fn stat_fs(&self) -> FsResult<VolumeUsage> {
        self.0.space.stat_fs().await
    }

    async fn test_lock(&self, lock: FileLock) -> FsResult<Option<FileLock>> {
        self.0.locks.test(lock).await
    }

    async fn set_lock(&self, lock: FileLock, wait: bool) -> FsResult<()> {
        self.0.locks.set(lock, wait).await
    }
}
