//! Changes of content other than writes: what they have in common, and how they get along with what is buffered and being
//! flushed.
//!
//! Invariant: a change of content at the server comes after every write that was made here before it, and leaves no extent
//! here that it may have outdated.

use std::sync::Arc;

use cairn_types::{MetaOp, OpReply, Timestamp};

use super::Content;
use crate::api::Handle;
use crate::error::FsResult;
use crate::node::{FileState, Node};

impl Content {
    /// Largest file, in bytes.
    pub(crate) fn file_size_max(&self) -> u64 {
        let chunks = u64::from(u32::MAX) * u64::from(self.remote.nodes.chunk_size());
        chunks.min(cairn_types::limits::FILE_SIZE_MAX)
    }

    /// Sends what was written before a change of content at the server, and tells of what was lost of it: otherwise a cut or a
    /// hole would be all that reaches a file that others have changed since.
    pub(crate) async fn settle(&self, node: &Arc<Node>, handle: Option<Handle>) -> FsResult<()> {
        self.writeback.flush_node(node).await?;
        handle.map_or(Ok(()), |handle| self.take_error(node, handle))
    }

    /// An explicit modification time wins over that of writes made before it, whenever those are flushed.
    pub(crate) async fn supersede_mtime(&self, node: &Arc<Node>, mtime: Option<Timestamp>) {
        loop {
            let changed = node.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = node.lock();
                let Some(file) = state.file_mut() else { return };
                if !file.await_flush() {
                    file.supersede_mtime(mtime);
                    return;
                }
            }
            changed.await;
        }
    }

    /// Makes a change of the file's content at the server, with everything written before already flushed. `cut`: the
    /// size, if it is a truncation; otherwise what is known of the extents is forgotten.
    pub(crate) async fn call_on_content(&self, op: MetaOp, node: &Arc<Node>, cut: Option<u64>) -> FsResult<OpReply> {
        let flushes = node.lock().file_mut().map_or(0, FileState::begin_content_call);
        let guard = ContentCall { node };
        let outcome = self.remote.call(op, &[node]).await;
        {
            let mut state = node.lock();
            if let Some(file) = state.file_mut() {
                let undisturbed = file.is_undisturbed_since(flushes);
                match (&outcome, cut) {
                    (Ok(_), Some(size)) => {
                        let before = file.overlay().bytes();
                        file.overlay_mut().truncate(size);
                        self.buffer.files.adjust(before, file.overlay().bytes());
                        if undisturbed {
                            file.extents_mut().truncate(size, self.remote.nodes.chunk_size());
                        } else {
                            file.extents_mut().clear();
                        }
                    }
                    (Ok(_), None) => file.extents_mut().clear(),
                    (Err(error), _) if error.may_have_happened() => file.extents_mut().clear(),
                    (Err(_), _) => {}
                }
            }
            self.space.reservation.return_unneeded(&mut state, 0);
        }
        drop(guard);
        outcome
    }
}

/// Counts a change of content at the server.
struct ContentCall<'node> {
    node: &'node Arc<Node>,
}

impl Drop for ContentCall<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.node.lock().file_mut() {
            file.end_content_call();
        }
    }
}
