//! Open files: from `open` to `close`, `fsync`, and the end of the mount.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_types::{Errno, FileKind, Ino, LeaseMode, LockFamily, LockOwner};
use cairn_wire::message::LeaseReturn;

use super::{CloseError, Mount};
use crate::api::{Handle, Opened};
use crate::cache::disk::DiskCache;
use crate::error::FsResult;
use crate::node::{Life, Node, NodeState};
use crate::timer::sleep;
use crate::writeback::FLUSH_SOON;

fn wants_to_write(open_flags: i32) -> bool {
    open_flags & libc::O_ACCMODE != libc::O_RDONLY
}

impl Mount {
    pub(crate) async fn open(self: &Arc<Self>, ino: Ino, open_flags: i32) -> FsResult<Opened> {
        if wants_to_write(open_flags) {
            self.writable()?;
        }
        loop {
            // From here on a recall is answered with word that the file is about to be opened.
            self.nodes.table.get_or_insert(ino).lock().expect_open();
            let node = self.acquire(ino, LeaseMode::Shared).await?;
            let mut state = node.lock();
            // The lease that was just had may be gone again; an open file must be known to the server by one.
            if !self.nodes.usable(&state, LeaseMode::Shared) {
                continue;
            }
            // Without a name it is as good as any other while the server keeps it for this mount: it had one when the
            // kernel came to it.
            let kept = state.is_open() || state.is_declared_open() || state.life() == Life::Orphaned;
            if state.life() == Life::Gone || (!kept && state.attr().is_some_and(|attr| attr.nlink == 0)) {
                return Err(Errno::ESTALE.into());
            }
            if state.attr().is_some_and(|attr| attr.kind == FileKind::Directory) && wants_to_write(open_flags) {
                return Err(Errno::EISDIR.into());
            }
            return Ok(self.open_locked(&mut state, ino, open_flags));
        }
    }

    /// Opens a node that this session has just made, whatever became of its lease since.
    pub(crate) async fn open_made(self: &Arc<Self>, ino: Ino, open_flags: i32) -> FsResult<Opened> {
        let node = self.nodes.table.get_or_insert(ino);
        {
            let mut state = node.lock();
            if self.nodes.usable(&state, LeaseMode::Shared) {
                return Ok(self.open_locked(&mut state, ino, open_flags));
            }
        }
        self.acquire(ino, LeaseMode::Shared).await?;
        Ok(self.open_locked(&mut node.lock(), ino, open_flags))
    }

    fn open_locked(&self, state: &mut NodeState, ino: Ino, open_flags: i32) -> Opened {
        let keep_cache = state.open();
        let direct_io = open_flags & libc::O_APPEND != 0 && wants_to_write(open_flags);
        let handle = self.handles.open_file(ino, self.prefetch.opened(), state.write_errors().sequence());
        Opened { handle, keep_cache, direct_io }
    }

    /// As [`Mount::take_error`], for changes of content at the server. After the flush: had what was written before been
    /// lost, a cut or a hole would be all that reaches a file that others have changed since.
    pub(crate) fn take_error_of(&self, node: &Node, handle: Option<Handle>) -> FsResult<()> {
        handle.map_or(Ok(()), |handle| self.take_error(node, handle))
    }

    /// The error of lost writes that this handle was not told of yet.
    pub(crate) fn take_error(&self, node: &Node, handle: Handle) -> FsResult<()> {
        let Some(handle) = self.handles.file(handle) else { return Ok(()) };
        let errors = node.lock().write_errors();
        errors.since(&mut handle.error_seen.lock()).map_or(Ok(()), |errno| Err(errno.into()))
    }

    pub(crate) async fn flush(self: &Arc<Self>, ino: Ino, handle: Handle, owner: LockOwner) -> FsResult<()> {
        let node = self.nodes.table.get_or_insert(ino);
        let much = node.lock().file().is_some_and(|file| file.overlay().dirty_bytes() >= FLUSH_SOON);
        if much {
            self.buffer.files.hurry(&node);
        }
        if self.locks.drop_owner(ino, owner, LockFamily::Posix) {
            self.session.unlock(ino, owner, Some(LockFamily::Posix)).await?;
        }
        self.take_error(&node, handle)
    }

    pub(crate) async fn release(self: &Arc<Self>, ino: Ino, handle: Handle, flock_owner: Option<LockOwner>) {
        if self.handles.close_file(handle).is_none() {
            return;
        }
        let node = self.nodes.table.get_or_insert(ino);
        let declared = {
            let mut state = node.lock();
            state.close() && state.take_declared_open()
        };
        self.drop_unreachable(&node);
        if declared {
            self.session.close_files(vec![ino]);
        }
        if let Some(owner) = flock_owner {
            self.locks.drop_owner(ino, owner, LockFamily::Flock);
            if let Err(errno) = self.session.unlock(ino, owner, Some(LockFamily::Flock)).await {
                tracing::warn!(%ino, ?errno, "a lock could not be given back");
            }
        }
    }

    /// Lets a node without a name go that has just been closed or forgotten, if it was the last that anybody could do with
    /// it.
    fn drop_unreachable(self: &Arc<Self>, node: &Arc<Node>) {
        let private = {
            let state = node.lock();
            let over = state.is_kept_for_nobody() || (state.life() == Life::Gone && !state.is_open());
            if !over {
                return;
            }
            state.lease().is_since_birth()
        };
        self.drop_orphan(node, !private);
    }

    /// Nobody can reach the node here any more: the server may let it go, and what is buffered of it needs no home,
    /// unless another mount may have it open.
    pub(crate) fn drop_orphan(self: &Arc<Self>, node: &Arc<Node>, open_elsewhere: bool) {
        let (orphan, dirty) = {
            let mut state = node.lock();
            let orphan = state.let_go();
            if let Some(file) = state.file_mut()
                && !file.is_flushing()
                && !open_elsewhere
            {
                let before = file.overlay().bytes();
                file.take_buffered();
                self.buffer.files.adjust(before, 0);
            }
            self.space.return_unneeded(&mut state, 0);
            let dirty = !state.is_clean();
            if orphan && !dirty {
                self.journal.release_orphan(node, &mut state);
            }
            (orphan, dirty)
        };
        if dirty {
            let (mount, node) = (Arc::clone(self), Arc::clone(node));
            self.runtime.spawn(async move {
                let flushed = mount.writeback.flush_node(&node).await;
                tracing::debug!(ino = %node.ino, ?flushed, "a removed file is let go");
                if orphan {
                    mount.journal.release_orphan(&node, &mut node.lock());
                }
            });
        }
    }

    pub(crate) async fn fsync(self: &Arc<Self>, ino: Ino) -> FsResult<()> {
        let node = self.nodes.table.get_or_insert(ino);
        let synced = if self.options.read_only { None } else { self.journal.sync_little(&node).await };
        let is_synced = synced.is_some();
        let flushed = match synced {
            Some(synced) => synced,
            None => self.writeback.flush_node(&node).await,
        };
        if let Some(errno) = node.lock().take_error_for_fsync() {
            return Err(errno.into());
        }
        flushed?;
        if self.options.read_only || is_synced {
            return Ok(());
        }
        self.journal.flush().await?;
        self.session.sync().await
    }

    pub(crate) async fn sync_all(self: &Arc<Self>) -> FsResult<()> {
        if self.options.read_only {
            return Ok(());
        }
        self.writeback.flush_all().await?;
        self.journal.flush().await?;
        self.session.sync().await
    }

    pub(crate) fn forget(self: &Arc<Self>, ino: Ino, references: u64) {
        let Some(node) = self.nodes.table.get(ino) else { return };
        let unneeded = {
            let mut state = node.lock();
            state.drop_references(references);
            state.is_kept_for_nobody()
        };
        if unneeded {
            self.drop_unreachable(&node);
        }
    }

    pub(crate) async fn close(self: &Arc<Self>, deadline: Duration) -> Result<(), CloseError> {
        if self.closing.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.warm_jobs.stop();
        let limit = sleep(&self.runtime, deadline);
        let outcome = tokio::select! {
            outcome = self.sync_all() => outcome,
            () = limit => Err(Errno::ETIMEDOUT.into()),
        };
        let lost = self.buffer.save_unwritten().await;
        self.give_back_leases();
        let free = self.space.take_free();
        self.session.give_back(free.bytes, free.nodes);
        self.buffer.files.stop();
        let shared = Arc::clone(self);
        // A moment for what is still to be written to the disk cache.
        let closed = self.runtime.spawn_blocking(move || shared.blocks.disk().map(DiskCache::close)).await;
        if closed.is_err() {
            tracing::error!("the disk cache could not be closed in good order");
        }
        self.session.clone().close().await;
        if lost > 0 {
            let recovery = self.buffer.recovery().folder().display().to_string();
            return Err(CloseError::NotWritten { files: lost, recovery });
        }
        outcome.map_err(CloseError::NotDurable)
    }

    /// Gives back every lease, so that other mounts need not wait for the end of the session.
    fn give_back_leases(&self) {
        let mut returns = Vec::new();
        for node in self.nodes.table.all() {
            if let Some(stamp) = node.lock().give_back_lease() {
                returns.push(LeaseReturn { ino: node.ino, stamp, keep: LeaseMode::None, open: false });
            }
        }
        for part in returns.chunks(1024) {
            self.session.return_leases(part.to_vec());
        }
    }
}
