//! Making nodes: `open(O_CREAT)`, `mkdir`, `mknod`, `symlink`, `open(O_TMPFILE)`.

use cairn_types::acl::{self, Acl};
use cairn_types::limits::SYMLINK_MAX;
use cairn_types::{AttrFlags, Errno, FileKind, Ino, Maker, Name, NewNode, OpReply};

use super::reply;
use crate::batch::{ApplyContext, Batch};
use crate::edit::xattr_flags;
use crate::error::ApplyError;
use crate::layout;
use crate::record::{EntryRecord, InodeRecord};
use crate::view::{Rows, View};

pub(super) fn create(
    batch: &mut Batch,
    parent: Ino,
    name: &Name,
    ino: Ino,
    node: &NewNode,
    maker: &Maker,
) -> Result<OpReply, ApplyError> {
    let directory = batch.directory(parent)?;
    if batch.entry(parent, name)?.is_some() {
        return Err(Errno::EEXIST.into());
    }
    check_number(batch, ino)?;
    if let NewNode::Symlink(target) = node {
        check_target(target)?;
    }
    let mut inode = new_inode(batch, &directory, ino, node, maker)?;
    match node {
        NewNode::Directory => inode.parent = Some(parent),
        NewNode::Symlink(target) => inode.target = target.clone(),
        _ => {}
    }
    batch.insert(&inode);
    batch.add_entry(parent, name, EntryRecord { ino, kind: node.kind() }, maker.time)?;
    Ok(OpReply { subject: Some(ino), ..reply(batch, &[ino, parent])? })
}

pub(super) fn create_unnamed(
    batch: &mut Batch,
    context: &ApplyContext<'_>,
    parent: Ino,
    ino: Ino,
    maker: &Maker,
) -> Result<OpReply, ApplyError> {
    let directory = batch.directory(parent)?;
    check_number(batch, ino)?;
    let mut inode = new_inode(batch, &directory, ino, &NewNode::Regular, maker)?;
    inode.attr.nlink = 0;
    inode.linkable = true;
    batch.insert(&inode);
    batch.set_row(layout::orphan(ino, context.session), Some(Vec::new()));
    Ok(OpReply { subject: Some(ino), ..reply(batch, &[ino, parent])? })
}

/// A number must have been handed out and not be in use (`EINVAL`), not even by content that is still to be dropped.
fn check_number(batch: &Batch, ino: Ino) -> Result<(), ApplyError> {
    let handed_out = ino > Ino::ROOT && ino.0 < batch.next_ino();
    if !handed_out || batch.inode(ino)?.is_some() || batch.row(&layout::trash(ino))?.is_some() {
        return Err(Errno::EINVAL.into());
    }
    Ok(())
}

fn check_target(target: &[u8]) -> Result<(), Errno> {
    match target.len() {
        0 => Err(Errno::ENOENT),
        length if length > SYMLINK_MAX => Err(Errno::ENAMETOOLONG),
        _ if target.contains(&0) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// A node with what it inherits from its directory: group, set-group-id bit and lists of access. Its attributes'
/// rows are written, its own is not.
fn new_inode(
    batch: &mut Batch,
    directory: &InodeRecord,
    ino: Ino,
    node: &NewNode,
    maker: &Maker,
) -> Result<InodeRecord, ApplyError> {
    let default = if node.kind() == FileKind::Symlink { None } else { default_acl(batch, directory)? };
    let mut attr = directory.attr.born_here(ino, node, maker, default.is_some());
    let mut names = Vec::new();
    if let Some((value, mut access)) = default {
        attr.mode = attr.mode & !0o777 | access.restrict(attr.mode);
        if !access.mode().1 {
            batch.set_row(layout::xattr(ino, acl::ACCESS), Some(access.encode()));
            names.push(acl::ACCESS.to_vec());
        }
        if node.kind() == FileKind::Directory {
            batch.set_row(layout::xattr(ino, acl::DEFAULT), Some(value));
            names.push(acl::DEFAULT.to_vec());
        }
    }
    attr.flags = xattr_flags(&names);
    Ok(InodeRecord::new(attr))
}

/// The list that nodes made in `directory` start with, as stored and as understood.
fn default_acl(batch: &Batch, directory: &InodeRecord) -> Result<Option<(Vec<u8>, Acl)>, ApplyError> {
    if !directory.attr.flags.contains(AttrFlags::HAS_ACL) {
        return Ok(None);
    }
    let Some(value) = batch.xattr(directory.attr.ino, acl::DEFAULT)? else { return Ok(None) };
    Ok(Acl::parse(&value)?.map(|acl| (value, acl)))
}
