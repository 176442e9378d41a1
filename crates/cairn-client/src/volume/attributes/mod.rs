//! What is said of a node rather than in it: `stat`, `chmod`, `chown`, `utimens`, `truncate`, `readlink`, extended attributes
//! and ACLs.
//!
//! Changes are made here first where a lease allows it ([`buffered`]). It stands on [`Content`], because a size and times are
//! said of content that may still be on its way, and knows nothing of names.

mod buffered;
mod xattrs;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_types::{Attr, AttrChange, Errno, Ino, MetaOp, Timestamp};
use cairn_wire::Query;
use cairn_wire::message::QueryAnswer;

use super::content::Content;
use super::remote::{Remote, stale, unfitting};
use crate::api::{AttrReply, Handle};
use crate::error::FsResult;
use crate::node::{Node, NodeState};
use crate::writeback::WriteBack;

/// Operations on attributes.
pub(super) struct Attributes {
    remote: Arc<Remote>,
    content: Arc<Content>,
    writeback: Arc<WriteBack>,
}

impl Attributes {
    pub(super) fn new(remote: Arc<Remote>, content: Arc<Content>, writeback: Arc<WriteBack>) -> Self {
        Attributes { remote, content, writeback }
    }

    pub(crate) async fn getattr(&self, ino: Ino) -> FsResult<AttrReply> {
        self.remote.current_attr(ino).await
    }

    pub(crate) async fn setattr(&self, ino: Ino, change: AttrChange, handle: Option<Handle>) -> FsResult<AttrReply> {
        self.remote.writable()?;
        let node = self.remote.nodes.table.get_or_insert(ino);
        if let Some(attr) = change_gone(&mut node.lock(), &change) {
            return Ok(AttrReply { attr, ttl: Duration::ZERO });
        }
        if let Some(reply) = self.setattr_here(&node, &change).await? {
            return Ok(reply);
        }
        if let Some(size) = change.size {
            if size > self.content.file_size_max() {
                return Err(Errno::EFBIG.into());
            }
            // What was written before must not be applied after: it would bring back what is cut off.
            self.content.settle(&node, handle).await?;
        } else if change.mtime.is_some() {
            self.content.supersede_mtime(&node, change.mtime).await;
        }
        if change.atime.is_some() {
            node.lock().clear_access_time();
            self.writeback.await_access_times().await;
        }
        let op = MetaOp::SetAttr { ino, change, time: Timestamp::now() };
        let reply = match change.size {
            Some(size) => self.content.call_on_content(op, &node, Some(size)).await.map_err(stale)?,
            None => self.remote.call(op, &[&node]).await.map_err(stale)?,
        };
        if change.atime.is_some() {
            node.lock().clear_access_time();
        }
        match reply.attrs.iter().find(|attr| attr.ino == ino) {
            Some(attr) => Ok(self.told_own(&node, attr)),
            None => self.remote.current_attr(ino).await,
        }
    }

    /// What to say of a node after an own change: a recall that came meanwhile takes the time to live, not the content.
    fn told_own(&self, node: &Node, attr: &Attr) -> AttrReply {
        let mut reply = self.remote.nodes.told(node, attr);
        if let Some(view) = node.lock().view()
            && reply.ttl == Duration::ZERO
        {
            reply.attr = view;
        }
        reply
    }

    pub(crate) async fn readlink(&self, ino: Ino) -> FsResult<Bytes> {
        let node = self.remote.nodes.table.get_or_insert(ino);
        let reply = self.remote.query(Query::ReadLink { ino }, &[&node]).await.map_err(stale)?;
        self.remote.nodes.absorb(&reply.grants, &[]);
        let QueryAnswer::Bytes(target) = reply.answer else { return unfitting(&reply.answer) };
        self.content.note_access(&node);
        Ok(target)
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
