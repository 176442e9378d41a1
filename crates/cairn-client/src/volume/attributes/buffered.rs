//! Changes of attributes that are made here first: under an exclusive lease nobody else can see or make a change, so its outcome
//! is known here, and the server hears of it by the journal.
//!
//! Every function answers "not here" (`None`, `false`) where a lease or a rule is missing that it would take to know the
//! outcome; the caller then asks the server. The journal is entered while the node is locked.

use std::sync::Arc;

use bytes::Bytes;
use cairn_types::{Acl, Attr, AttrChange, AttrFlags, FileKind, MetaOp, Timestamp, XattrMode, acl};

use super::Attributes;
use crate::api::AttrReply;
use crate::error::FsResult;
use crate::node::{Node, NodeState};

impl Attributes {
    /// `chmod`, `chown` and `utimens`.
    pub(super) async fn setattr_here(&self, node: &Arc<Node>, change: &AttrChange) -> FsResult<Option<AttrReply>> {
        let fits = |state: &NodeState| {
            let simple = change.size.is_none();
            let reaches_xattrs = |attr: &Attr| {
                (change.mode.is_some() && attr.flags.contains(AttrFlags::HAS_ACL))
                    || (attr.loses_privileges(change) && attr.flags.contains(AttrFlags::HAS_CAPABILITY))
            };
            simple && self.remote.may_change_here(state) && state.attr().is_some_and(|attr| !reaches_xattrs(attr))
        };
        if !fits(&node.lock()) {
            return Ok(None);
        }
        self.remote.journal.wait_for_space().await?;
        if change.mtime.is_some() {
            self.content.supersede_mtime(node, change.mtime).await;
        }
        let generation = self.remote.session.generation();
        let time = Timestamp::now();
        let mut state = node.lock();
        if !fits(&state) {
            return Ok(None);
        }
        if change.mtime.is_some()
            && let Some(file) = state.file_mut()
        {
            if file.is_flushing() {
                return Ok(None);
            }
            file.supersede_mtime(change.mtime);
        }
        state.begin_change();
        state.alter_attr(|attr| attr.change(change, time));
        if change.atime.is_some() {
            state.clear_access_time();
        }
        let op = MetaOp::SetAttr { ino: node.ino, change: *change, time };
        self.remote.journal.enter(op, vec![Arc::clone(node)], generation, None);
        let reply = state.view().map(|attr| AttrReply { attr, ttl: self.remote.nodes.time_to_live(&state) });
        drop(state);
        Ok(reply)
    }

    /// Lists of a node that has none, as `cp -a` sets them on every file: one that only repeats the mode, or is empty.
    pub(super) async fn set_acl_here(
        &self,
        node: &Arc<Node>,
        name: &Bytes,
        value: &Bytes,
        mode: XattrMode,
        clear_set_gid: bool,
    ) -> FsResult<bool> {
        let Ok(list) = Acl::parse(value) else { return Ok(false) };
        let shows_in_mode = match (name.as_ref(), &list) {
            (acl::ACCESS, Some(list)) => list.mode().1,
            (acl::ACCESS | acl::DEFAULT, None) => true,
            _ => false,
        };
        let fits = |state: &NodeState| {
            let listless = |attr: &Attr| attr.kind != FileKind::Symlink && !attr.flags.contains(AttrFlags::HAS_ACL);
            self.remote.may_change_here(state) && state.attr().is_some_and(listless)
        };
        if !shows_in_mode || !fits(&node.lock()) {
            return Ok(false);
        }
        self.remote.journal.wait_for_space().await?;
        let generation = self.remote.session.generation();
        let time = Timestamp::now();
        let mut state = node.lock();
        let Some(before) = state.attr().copied().filter(|_| fits(&state)) else { return Ok(false) };
        let mut attr = before;
        if let Some(list) = &list {
            attr.take_access_list(list, clear_set_gid);
        }
        // As at the server, what was so already is no change.
        if attr != before {
            attr.ctime = time;
            state.begin_change();
            state.alter_attr(|known| *known = attr);
            let op =
                MetaOp::SetXattr { ino: node.ino, name: name.clone(), value: value.clone(), mode, clear_set_gid, time };
            self.remote.journal.enter(op, vec![Arc::clone(node)], generation, None);
        }
        Ok(true)
    }
}
