//! `stat`, `chmod`, `chown`, `utimens`, `truncate`, `readlink`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_types::{Attr, AttrChange, Errno, Ino, LeaseMode, MetaOp, Timestamp};
use cairn_wire::Query;
use cairn_wire::message::QueryAnswer;

use super::Mount;
use super::core::{stale, unfitting};
use crate::api::{AttrReply, Handle};
use crate::error::FsResult;
use crate::node::{FileState, Node, NodeState};

/// `relatime`: an access time older than this is renewed in any case.
const ACCESS_TIME_AGE: i64 = 24 * 60 * 60;

impl Mount {
    pub(crate) async fn getattr(self: &Arc<Self>, ino: Ino) -> FsResult<AttrReply> {
        self.current_attr(ino).await
    }

    pub(crate) async fn setattr(
        self: &Arc<Self>,
        ino: Ino,
        change: AttrChange,
        handle: Option<Handle>,
    ) -> FsResult<AttrReply> {
        self.writable()?;
        let node = self.nodes.table.get_or_insert(ino);
        if let Some(attr) = change_gone(&mut node.lock(), &change) {
            return Ok(AttrReply { attr, ttl: Duration::ZERO });
        }
        if let Some(reply) = self.setattr_here(&node, &change).await? {
            return Ok(reply);
        }
        if let Some(size) = change.size {
            if size > self.file_size_max() {
                return Err(Errno::EFBIG.into());
            }
            // What was written before must not be applied after: it would bring back what is cut off.
            self.writeback.flush_node(&node).await?;
            self.take_error_of(&node, handle)?;
        } else if change.mtime.is_some() {
            self.supersede_mtime(&node, change.mtime).await;
        }
        if change.atime.is_some() {
            node.lock().clear_access_time();
            self.writeback.await_access_times().await;
        }
        let op = MetaOp::SetAttr { ino, change, time: Timestamp::now() };
        let reply = match change.size {
            Some(size) => self.call_on_content(op, &node, Some(size)).await.map_err(stale)?,
            None => self.call(op, &[&node]).await.map_err(stale)?,
        };
        if change.atime.is_some() {
            node.lock().clear_access_time();
        }
        match reply.attrs.iter().find(|attr| attr.ino == ino) {
            Some(attr) => Ok(self.told_own(&node, attr)),
            None => self.current_attr(ino).await,
        }
    }

    /// What to say of a node after an own change: a recall that came meanwhile takes the time to live, not the content.
    fn told_own(&self, node: &Node, attr: &Attr) -> AttrReply {
        let mut reply = self.nodes.told(node, attr);
        if let Some(view) = node.lock().view()
            && reply.ttl == Duration::ZERO
        {
            reply.attr = view;
        }
        reply
    }

    /// An explicit modification time wins over that of writes made before it, whenever those are flushed.
    pub(super) async fn supersede_mtime(self: &Arc<Self>, node: &Arc<Node>, mtime: Option<Timestamp>) {
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
    pub(crate) async fn call_on_content(
        self: &Arc<Self>,
        op: MetaOp,
        node: &Arc<Node>,
        cut: Option<u64>,
    ) -> FsResult<cairn_types::OpReply> {
        let flushes = node.lock().file_mut().map_or(0, FileState::begin_content_call);
        let guard = ContentCall { node };
        let outcome = self.call(op, &[node]).await;
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
                            file.extents_mut().truncate(size, self.chunk_size);
                        } else {
                            file.extents_mut().clear();
                        }
                    }
                    (Ok(_), None) => file.extents_mut().clear(),
                    (Err(error), _) if error.may_have_happened() => file.extents_mut().clear(),
                    (Err(_), _) => {}
                }
            }
            self.space.return_unneeded(&mut state, 0);
        }
        drop(guard);
        outcome
    }

    pub(crate) async fn readlink(self: &Arc<Self>, ino: Ino) -> FsResult<Bytes> {
        let node = self.nodes.table.get_or_insert(ino);
        let reply = self.query(Query::ReadLink { ino }, &[&node]).await.map_err(stale)?;
        self.nodes.absorb(&reply.grants, &[]);
        let QueryAnswer::Bytes(target) = reply.answer else { return unfitting(&reply.answer) };
        self.note_access(&node);
        Ok(target)
    }

    /// A program has read the node: its access time may have to change (`relatime`).
    pub(crate) fn note_access(&self, node: &Node) {
        if self.options.noatime || self.options.read_only {
            return;
        }
        let mut state = node.lock();
        if self.options.nodiratime && state.directory().is_some() {
            return;
        }
        if state.access_time().is_some() || !state.holds(LeaseMode::Exclusive) {
            return;
        }
        let Some(attr) = state.view() else { return };
        if attr.atime > attr.mtime && attr.atime > attr.ctime {
            let now = Timestamp::now();
            if now.secs - attr.atime.secs < ACCESS_TIME_AGE {
                return;
            }
        }
        state.set_access_time(Timestamp::now());
        drop(state);
        self.writeback.note_access(node.ino);
    }
}

/// Changes the attributes of a node that only the kernel still refers to, if it is one.
fn change_gone(state: &mut NodeState, change: &AttrChange) -> Option<Attr> {
    let mut attr = state.gone()?;
    attr.mode = change.mode.unwrap_or(attr.mode);
    attr.uid = change.uid.unwrap_or(attr.uid);
    attr.gid = change.gid.unwrap_or(attr.gid);
    attr.atime = change.atime.unwrap_or(attr.atime);
    attr.mtime = change.mtime.unwrap_or(attr.mtime);
    attr.ctime = Timestamp::now();
    state.set_last_attr(attr);
    Some(attr)
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
