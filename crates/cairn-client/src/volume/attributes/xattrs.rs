//! Extended attributes and ACLs: at the server, except that a node without any is known from its attributes, and that an ACL which
//! is no more than a mode is a `chmod`.

use bytes::Bytes;
use cairn_types::acl;
use cairn_types::limits::{XATTR_NAME_MAX, XATTR_VALUE_MAX};
use cairn_types::{AttrFlags, Errno, FileKind, Ino, LeaseMode, MetaOp, Timestamp, XattrMode};
use cairn_wire::Query;
use cairn_wire::message::QueryAnswer;

use super::Attributes;
use crate::error::FsResult;
use crate::node::Node;
use crate::stats::add;
use crate::volume::remote::{stale, unfitting};

/// The flag without which there is no attribute of this name.
fn flag_of(name: &[u8]) -> AttrFlags {
    match name {
        b"system.posix_acl_access" | b"system.posix_acl_default" => AttrFlags::HAS_ACL,
        b"security.capability" => AttrFlags::HAS_CAPABILITY,
        _ => AttrFlags::HAS_XATTR,
    }
}

impl Attributes {
    /// The node's flags, if they are known under a lease. Of a node that is gone, nothing is left.
    fn known_flags(&self, node: &Node) -> Option<AttrFlags> {
        let state = node.lock();
        if state.gone().is_some() {
            return Some(AttrFlags::default());
        }
        if !self.remote.nodes.usable(&state, LeaseMode::Shared) {
            return None;
        }
        state.attr().map(|attr| attr.flags)
    }

    /// Whether the node, which could have one, is known to have no ACL.
    fn has_no_acl(&self, node: &Node) -> bool {
        let state = node.lock();
        self.remote.nodes.usable(&state, LeaseMode::Shared)
            && state
                .attr()
                .is_some_and(|attr| attr.kind != FileKind::Symlink && !attr.flags.contains(AttrFlags::HAS_ACL))
    }

    pub(crate) async fn get_xattr(&self, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        let node = self.remote.nodes.table.get_or_insert(ino);
        if self.known_flags(&node).is_some_and(|flags| !flags.contains(flag_of(&name))) {
            add(&self.remote.counters.answered_locally, 1);
            return Err(Errno::ENODATA.into());
        }
        let reply = self.remote.query(Query::GetXattr { ino, name }, &[&node]).await.map_err(stale)?;
        self.remote.nodes.absorb(&reply.grants, &[]);
        match reply.answer {
            QueryAnswer::Bytes(value) => Ok(value),
            other => unfitting(&other),
        }
    }

    pub(crate) async fn list_xattr(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        let node = self.remote.nodes.table.get_or_insert(ino);
        let any = [AttrFlags::HAS_XATTR, AttrFlags::HAS_ACL, AttrFlags::HAS_CAPABILITY];
        if self.known_flags(&node).is_some_and(|flags| !any.iter().any(|flag| flags.contains(*flag))) {
            add(&self.remote.counters.answered_locally, 1);
            return Ok(Vec::new());
        }
        let reply = self.remote.query(Query::ListXattr { ino }, &[&node]).await.map_err(stale)?;
        self.remote.nodes.absorb(&reply.grants, &[]);
        match reply.answer {
            QueryAnswer::Names(names) => Ok(names),
            other => unfitting(&other),
        }
    }

    pub(crate) async fn set_xattr(
        &self,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
        clear_set_gid: bool,
    ) -> FsResult<()> {
        self.remote.writable()?;
        if name.is_empty() || name.len() > XATTR_NAME_MAX {
            return Err(Errno::ERANGE.into());
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err(Errno::E2BIG.into());
        }
        let node = self.remote.nodes.table.get_or_insert(ino);
        if self.set_acl_here(&node, &name, &value, mode, clear_set_gid).await? {
            return Ok(());
        }
        let op = MetaOp::SetXattr { ino, name, value, mode, clear_set_gid, time: Timestamp::now() };
        self.remote.call(op, &[&node]).await.map_err(stale)?;
        Ok(())
    }

    pub(crate) async fn remove_xattr(&self, ino: Ino, name: Bytes) -> FsResult<()> {
        self.remote.writable()?;
        let node = self.remote.nodes.table.get_or_insert(ino);
        if name.starts_with(acl::PREFIX) && self.has_no_acl(&node) {
            // Removing a list that is not there is no error, as on a local file system.
            add(&self.remote.counters.answered_locally, 1);
            return Ok(());
        }
        let op = MetaOp::RemoveXattr { ino, name, time: Timestamp::now() };
        self.remote.call(op, &[&node]).await.map_err(stale)?;
        Ok(())
    }
}
