//! Open files: from `open` to `release`, and what becomes of a file that nobody can reach any more.

use std::sync::Arc;

use cairn_types::{Errno, FileKind, Ino, LeaseMode, LockOwner};

use super::Content;
use crate::api::{Handle, Opened};
use crate::error::FsResult;
use crate::node::{Life, Node, NodeState};

fn wants_to_write(open_flags: i32) -> bool {
    open_flags & libc::O_ACCMODE != libc::O_RDONLY
}

impl Content {
    pub(crate) async fn open(&self, ino: Ino, open_flags: i32) -> FsResult<Opened> {
        if wants_to_write(open_flags) {
            self.remote.writable()?;
        }
        loop {
            // From here on a recall is answered with word that the file is about to be opened.
            self.remote.nodes.table.get_or_insert(ino).lock().expect_open();
            let node = self.remote.acquire(ino, LeaseMode::Shared).await?;
            let mut state = node.lock();
            // The lease that was just had may be gone again; an open file must be known to the server by one.
            if !self.remote.nodes.usable(&state, LeaseMode::Shared) {
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
    pub(crate) async fn open_made(&self, ino: Ino, open_flags: i32) -> FsResult<Opened> {
        let node = self.remote.nodes.table.get_or_insert(ino);
        {
            let mut state = node.lock();
            if self.remote.nodes.usable(&state, LeaseMode::Shared) {
                return Ok(self.open_locked(&mut state, ino, open_flags));
            }
        }
        self.remote.acquire(ino, LeaseMode::Shared).await?;
        Ok(self.open_locked(&mut node.lock(), ino, open_flags))
    }

    fn open_locked(&self, state: &mut NodeState, ino: Ino, open_flags: i32) -> Opened {
        let read_write = open_flags & libc::O_ACCMODE == libc::O_RDWR;
        let keep_cache = state.open(read_write);
        let direct_io = open_flags & libc::O_APPEND != 0 && wants_to_write(open_flags);
        let handle = self.files.open(ino, read_write, state.write_errors().sequence());
        Opened { handle, keep_cache, direct_io }
    }

    pub(crate) async fn release(self: &Arc<Self>, ino: Ino, handle: Handle, flock_owner: Option<LockOwner>) {
        let Some(closed) = self.files.close(handle) else { return };
        let node = self.remote.nodes.table.get_or_insert(ino);
        let declared = {
            let mut state = node.lock();
            state.close(closed.read_write) && state.take_declared_open()
        };
        self.drop_unreachable(&node);
        if declared {
            self.remote.session.close_files(vec![ino]);
        }
        if let Some(owner) = flock_owner {
            self.locks.released_by(ino, owner).await;
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
            self.space.reservation.return_unneeded(&mut state, 0);
            let dirty = !state.is_clean();
            if orphan && !dirty {
                self.remote.journal.release_orphan(node, &mut state);
            }
            (orphan, dirty)
        };
        if dirty {
            let (content, node) = (Arc::clone(self), Arc::clone(node));
            self.remote.runtime.spawn(async move {
                let flushed = content.writeback.flush_node(&node).await;
                tracing::debug!(ino = %node.ino, ?flushed, "a removed file is let go");
                if orphan {
                    content.remote.journal.release_orphan(&node, &mut node.lock());
                }
            });
        }
    }

    pub(crate) fn forget(self: &Arc<Self>, ino: Ino, references: u64) {
        let Some(node) = self.remote.nodes.table.get(ino) else { return };
        let unneeded = {
            let mut state = node.lock();
            state.drop_references(references);
            state.is_kept_for_nobody()
        };
        if unneeded {
            self.drop_unreachable(&node);
        }
    }
}
