//! The layer itself: each request goes through unchanged but for the quirks of the profile, at its pace.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_client::FsResult;
use cairn_client::api::{
    AttrReply, Caller, CopyTarget, DirEntry, Entry, FileSystem, Handle, Lookup, Opened, SeekTarget, VolumeUsage,
    WriteFlags,
};
use cairn_locks::Mutex;
use cairn_types::profile::{
    FIXED_DIRECTORY_MODE, FIXED_FILE_MODE, MOOSEFS_ATTRIBUTE_TIME, POOL_BYTES, POOL_BYTES_FREE,
};
use cairn_types::{
    AllocateMode, Attr, AttrChange, Errno, FileKind, FileLock, Ino, LockOwner, Name, NewNode, Profile, RenameMode,
    XattrMode,
};

use crate::lock_order;
use crate::pace::{Direction, Pace, Paced};

/// A file system that behaves as a profile says. Clones share everything.
pub struct Emulated<F> {
    inner: F,
    shared: Arc<Behaviour>,
}

struct Behaviour {
    profile: Profile,
    pace: Pace,
    /// Files with content that was written and not flushed: the next flush of each waits for it.
    unflushed: Mutex<HashSet<Ino>, lock_order::Unflushed>,
}

impl<F: Clone> Clone for Emulated<F> {
    fn clone(&self) -> Self {
        Emulated { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<F> Emulated<F> {
    /// # Errors
    /// If no thread can be had for the pace.
    pub fn new(inner: F, profile: Profile) -> std::io::Result<Self> {
        let pace = Pace::new(&profile)?;
        Ok(Emulated { inner, shared: Arc::new(Behaviour { profile, pace, unflushed: Mutex::default() }) })
    }

    /// Tells what was held back so far, also after the file system is gone.
    pub fn watch(&self) -> impl Fn() -> Paced + Send + Sync + use<F> {
        let shared = Arc::clone(&self.shared);
        move || shared.pace.paced()
    }
}

impl Behaviour {
    fn attr(&self, mut attr: Attr) -> Attr {
        if self.profile.fixed_modes {
            attr.mode = match attr.kind {
                FileKind::Directory | FileKind::Symlink => FIXED_DIRECTORY_MODE,
                _ => FIXED_FILE_MODE,
            };
        }
        attr
    }

    fn attributes(&self, AttrReply { attr, ttl }: AttrReply) -> AttrReply {
        AttrReply { attr: self.attr(attr), ttl: self.attribute_time(ttl) }
    }

    fn entry(&self, entry: Entry) -> Entry {
        Entry {
            attr: self.attr(entry.attr),
            attr_ttl: self.attribute_time(entry.attr_ttl),
            entry_ttl: self.name_time(entry.entry_ttl, entry.attr.is_dir()),
        }
    }

    fn attribute_time(&self, ttl: Duration) -> Duration {
        if self.profile.moosefs_caching { ttl.min(MOOSEFS_ATTRIBUTE_TIME) } else { ttl }
    }

    fn name_time(&self, ttl: Duration, of_directory: bool) -> Duration {
        match (self.profile.moosefs_caching, of_directory) {
            (false, _) => ttl,
            (true, true) => ttl.min(MOOSEFS_ATTRIBUTE_TIME),
            (true, false) => Duration::ZERO,
        }
    }

    /// Mode and umask with which a node is made. The mode is stored as it is shown, so that it stays when the profile goes.
    fn mode_for(&self, caller: Caller, mode: u32, fixed: u32) -> (Caller, u32) {
        if self.profile.fixed_modes { (Caller { umask: 0, ..caller }, fixed) } else { (caller, mode) }
    }

    /// Notes that `ino` must be flushed if the change to it worked.
    fn written<T>(&self, ino: Ino, outcome: FsResult<T>) -> FsResult<T> {
        if outcome.is_ok() {
            self.unflushed.lock().insert(ino);
        }
        outcome
    }

    /// Runs a flush of one file, which waits only if there is something to flush.
    async fn flushing<T>(&self, ino: Ino, flush: impl Future<Output = T>) -> T {
        let unflushed = self.unflushed.lock().remove(&ino);
        if unflushed { self.pace.data(flush).await } else { flush.await }
    }
}

impl<F: FileSystem> FileSystem for Emulated<F> {
    async fn lookup(&self, parent: Ino, name: Name) -> FsResult<Lookup> {
        let shared = &self.shared;
        Ok(match shared.pace.metadata(self.inner.lookup(parent, name)).await? {
            Lookup::Found(entry) => Lookup::Found(shared.entry(entry)),
            Lookup::Absent { entry_ttl } => Lookup::Absent { entry_ttl: shared.name_time(entry_ttl, false) },
        })
    }

    fn forget(&self, ino: Ino, references: u64) {
        self.inner.forget(ino, references);
    }

    async fn getattr(&self, ino: Ino) -> FsResult<AttrReply> {
        let reply = self.shared.pace.metadata(self.inner.getattr(ino)).await?;
        Ok(self.shared.attributes(reply))
    }

    async fn setattr(&self, ino: Ino, mut change: AttrChange, handle: Option<Handle>) -> FsResult<AttrReply> {
        let Behaviour { profile, pace, .. } = &*self.shared;
        if profile.refuse_chown && (change.uid.is_some() || change.gid.is_some()) {
            pace.count_quirk();
            return pace.metadata(async { Err(Errno::EPERM.into()) }).await;
        }
        if profile.fixed_modes && change.mode.take().is_some() {
            pace.count_quirk();
            if change == AttrChange::default() {
                return self.getattr(ino).await;
            }
        }
        let resized = change.size.is_some();
        let outcome = pace.metadata(self.inner.setattr(ino, change, handle)).await;
        let reply = if resized { self.shared.written(ino, outcome)? } else { outcome? };
        Ok(self.shared.attributes(reply))
    }

    async fn readlink(&self, ino: Ino) -> FsResult<Bytes> {
        self.shared.pace.metadata(self.inner.readlink(ino)).await
    }

    async fn make_node(&self, caller: Caller, parent: Ino, name: Name, node: NewNode, mode: u32) -> FsResult<Entry> {
        let fixed = if node.kind() == FileKind::Directory { FIXED_DIRECTORY_MODE } else { FIXED_FILE_MODE };
        let (caller, mode) = self.shared.mode_for(caller, mode, fixed);
        let made = self.inner.make_node(caller, parent, name, node, mode);
        Ok(self.shared.entry(self.shared.pace.metadata(made).await?))
    }

    async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: Name,
        mode: u32,
        open_flags: i32,
    ) -> FsResult<(Entry, Opened)> {
        let (caller, mode) = self.shared.mode_for(caller, mode, FIXED_FILE_MODE);
        let made = self.inner.create(caller, parent, name, mode, open_flags);
        let (entry, opened) = self.shared.pace.metadata(made).await?;
        Ok((self.shared.entry(entry), opened))
    }

    async fn make_unnamed(&self, caller: Caller, parent: Ino, mode: u32, open_flags: i32) -> FsResult<(Entry, Opened)> {
        let (caller, mode) = self.shared.mode_for(caller, mode, FIXED_FILE_MODE);
        let made = self.inner.make_unnamed(caller, parent, mode, open_flags);
        let (entry, opened) = self.shared.pace.metadata(made).await?;
        Ok((self.shared.entry(entry), opened))
    }

    async fn link(&self, ino: Ino, new_parent: Ino, new_name: Name) -> FsResult<Entry> {
        let linked = self.shared.pace.metadata(self.inner.link(ino, new_parent, new_name)).await?;
        Ok(self.shared.entry(linked))
    }

    async fn unlink(&self, parent: Ino, name: Name) -> FsResult<()> {
        self.shared.pace.metadata(self.inner.unlink(parent, name)).await
    }

    async fn rmdir(&self, parent: Ino, name: Name) -> FsResult<()> {
        self.shared.pace.metadata(self.inner.rmdir(parent, name)).await
    }

    async fn rename(&self, parent: Ino, name: Name, new_parent: Ino, new_name: Name, mode: RenameMode) -> FsResult<()> {
        self.shared.pace.metadata(self.inner.rename(parent, name, new_parent, new_name, mode)).await
    }

    async fn open(&self, ino: Ino, open_flags: i32) -> FsResult<Opened> {
        self.shared.pace.metadata(self.inner.open(ino, open_flags)).await
    }

    async fn read(&self, ino: Ino, handle: Handle, offset: u64, length: u32) -> FsResult<Vec<Bytes>> {
        let begun = Instant::now();
        let pieces = self.inner.read(ino, handle, offset, length).await?;
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.shared.pace.transfer(Direction::Read, bytes, begun).await;
        Ok(pieces)
    }

    async fn write(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        offset: u64,
        data: Bytes,
        flags: WriteFlags,
    ) -> FsResult<u32> {
        let begun = Instant::now();
        let synced = flags.sync;
        let taken = self.inner.write(ino, handle, offset, data, flags).await;
        let taken = self.shared.written(ino, taken)?;
        let transfer = self.shared.pace.transfer(Direction::Write, u64::from(taken), begun);
        if synced {
            self.shared.flushing(ino, transfer).await;
        } else {
            transfer.await;
        }
        Ok(taken)
    }

    async fn flush(&self, ino: Ino, handle: Handle, owner: LockOwner) -> FsResult<()> {
        self.shared.flushing(ino, self.inner.flush(ino, handle, owner)).await
    }

    async fn release(&self, ino: Ino, handle: Handle, flock_owner: Option<LockOwner>) {
        self.shared.unflushed.lock().remove(&ino);
        self.inner.release(ino, handle, flock_owner).await;
    }

    async fn fsync(&self, ino: Ino, data_only: bool) -> FsResult<()> {
        self.shared.unflushed.lock().remove(&ino);
        self.shared.pace.data(self.inner.fsync(ino, data_only)).await
    }

    async fn sync_all(&self) -> FsResult<()> {
        self.shared.pace.data(self.inner.sync_all()).await
    }

    async fn open_dir(&self, ino: Ino) -> FsResult<Handle> {
        self.inner.open_dir(ino).await
    }

    async fn read_dir(
        &self,
        ino: Ino,
        handle: Handle,
        cursor: u64,
        max_bytes: u32,
        with_attributes: bool,
    ) -> FsResult<Vec<DirEntry>> {
        let listed = self.inner.read_dir(ino, handle, cursor, max_bytes, with_attributes);
        let mut entries = self.shared.pace.metadata(listed).await?;
        for entry in &mut entries {
            entry.entry = entry.entry.map(|entry| self.shared.entry(entry));
        }
        Ok(entries)
    }

    fn release_dir(&self, handle: Handle) {
        self.inner.release_dir(handle);
    }

    async fn get_xattr(&self, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        // A question of Cairn's own tools, which the emulated volume would not have.
        if name == cairn_client::STATS_ATTRIBUTE.as_bytes() {
            return self.inner.get_xattr(ino, name).await;
        }
        self.shared.pace.metadata(self.inner.get_xattr(ino, name)).await
    }

    async fn list_xattr(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        self.shared.pace.metadata(self.inner.list_xattr(ino)).await
    }

    async fn set_xattr(
        &self,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
        clear_set_gid: bool,
    ) -> FsResult<()> {
        self.shared.pace.metadata(self.inner.set_xattr(ino, name, value, mode, clear_set_gid)).await
    }

    async fn remove_xattr(&self, ino: Ino, name: Bytes) -> FsResult<()> {
        self.shared.pace.metadata(self.inner.remove_xattr(ino, name)).await
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
        self.shared.pace.metadata(self.inner.allocate(ino, handle, mode, offset, length, kill_privileges)).await
    }

    async fn copy_range(
        &self,
        source: Ino,
        source_offset: u64,
        target: CopyTarget,
        length: u64,
        kill_privileges: bool,
    ) -> FsResult<u64> {
        let begun = Instant::now();
        let copied = self.inner.copy_range(source, source_offset, target, length, kill_privileges).await?;
        // The emulated client would read and write every byte.
        self.shared.pace.transfer(Direction::Read, copied, begun).await;
        self.shared.pace.transfer(Direction::Write, copied, begun).await;
        Ok(copied)
    }

    async fn seek(&self, ino: Ino, offset: u64, target: SeekTarget) -> FsResult<u64> {
        self.shared.pace.metadata(self.inner.seek(ino, offset, target)).await
    }

    async fn stat_fs(&self) -> FsResult<VolumeUsage> {
        let usage = self.shared.pace.metadata(self.inner.stat_fs()).await?;
        Ok(if self.shared.profile.pool_df {
            VolumeUsage { bytes_total: POOL_BYTES, bytes_free: POOL_BYTES_FREE, ..usage }
        } else {
            usage
        })
    }

    async fn test_lock(&self, lock: FileLock) -> FsResult<Option<FileLock>> {
        self.shared.pace.metadata(self.inner.test_lock(lock)).await
    }

    async fn set_lock(&self, lock: FileLock, wait: bool) -> FsResult<()> {
        self.shared.pace.metadata(self.inner.set_lock(lock, wait)).await
    }
}
