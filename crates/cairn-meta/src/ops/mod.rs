//! The operations of POSIX by verb: what each demands, refuses and changes.
//!
//! The reference is ext4 on Linux behind the kernel's VFS. What the VFS does before it calls a file system (permission
//! checks, sticky directories, trailing slashes) is not repeated; what it does with its own cached view of the tree
//! (loops, emptiness, link counts) is, because another mount may have changed it since.

mod attributes;
mod content;
mod create;
mod link;
mod remove;
mod rename;
mod xattr;

use cairn_types::{Errno, Ino, Maker, MetaOp, Name, OpReply};

pub(crate) use self::remove::release_pin;
use crate::batch::{ApplyContext, Batch};
use crate::error::{ApplyError, StoreError};
use crate::view::Rows;

/// Applies `op`. What a refused operation has already changed is undone by the caller.
pub(crate) fn apply(batch: &mut Batch, context: &ApplyContext<'_>, op: &MetaOp) -> Result<OpReply, ApplyError> {
    match op {
        MetaOp::Create { parent, name, ino, node, mode, umask, uid, gid, time } => {
            let maker = Maker { mode: *mode, umask: *umask, uid: *uid, gid: *gid, time: *time };
            create::create(batch, *parent, name, *ino, node, &maker)
        }
        MetaOp::CreateUnnamed { parent, ino, mode, umask, uid, gid, time } => {
            let maker = Maker { mode: *mode, umask: *umask, uid: *uid, gid: *gid, time: *time };
            create::create_unnamed(batch, context, *parent, *ino, &maker)
        }
        MetaOp::Link { ino, parent, name, time } => link::link(batch, *ino, *parent, name, *time),
        MetaOp::Unlink { parent, name, keep, time } => remove::unlink(batch, context, *parent, name, *keep, *time),
        MetaOp::Rmdir { parent, name, time } => remove::rmdir(batch, *parent, name, *time),
        MetaOp::Rename { parent, name, new_parent, new_name, mode, keep, time } => {
            let from = rename::Place { parent: *parent, name };
            let to = rename::Place { parent: *new_parent, name: new_name };
            rename::rename(batch, context, from, to, *mode, *keep, *time)
        }
        MetaOp::SetAttr { ino, change, time } => attributes::set_attr(batch, *ino, change, *time),
        MetaOp::SetXattr { ino, name, value, mode, clear_set_gid, time } => {
            xattr::set(batch, *ino, name, value, *mode, *clear_set_gid, *time)
        }
        MetaOp::RemoveXattr { ino, name, time } => xattr::remove(batch, *ino, name, *time),
        MetaOp::Write { ino, extents, size, mtime, time } => {
            let times = content::Times { mtime: *mtime, time: *time };
            content::write(batch, context, *ino, extents, *size, times)
        }
        MetaOp::Allocate { ino, mode, offset, length, kill_privileges, time } => {
            let change = content::Change { kill_privileges: *kill_privileges, time: *time };
            content::allocate(batch, context, *ino, *mode, *offset, *length, change)
        }
        MetaOp::CopyRange { source, source_offset, target, target_offset, length, kill_privileges, time } => {
            let from = content::Position { ino: *source, offset: *source_offset };
            let to = content::Position { ino: *target, offset: *target_offset };
            let change = content::Change { kill_privileges: *kill_privileges, time: *time };
            content::copy_range(batch, from, to, *length, change)
        }
        MetaOp::ReleaseOrphan { ino } => remove::release_orphan(batch, context.session, *ino),
    }
}

/// The existing nodes that `op` reads or changes, each once.
pub(crate) fn touched(view: &(impl Rows + ?Sized), op: &MetaOp) -> Result<Vec<Ino>, ApplyError> {
    let called = |parent: Ino, name: &Name| Ok::<_, StoreError>(view.entry(parent, name)?.map(|entry| entry.ino));
    let mut inos = match op {
        MetaOp::Create { parent, .. } | MetaOp::CreateUnnamed { parent, .. } => vec![*parent],
        MetaOp::Link { ino, parent, .. } => vec![*parent, *ino],
        MetaOp::Unlink { parent, name, .. } | MetaOp::Rmdir { parent, name, .. } => {
            [Some(*parent), called(*parent, name)?].into_iter().flatten().collect()
        }
        MetaOp::Rename { parent, name, new_parent, new_name, .. } => {
            let (moved, replaced) = (called(*parent, name)?, called(*new_parent, new_name)?);
            [Some(*parent), Some(*new_parent), moved, replaced].into_iter().flatten().collect()
        }
        MetaOp::SetAttr { ino, .. }
        | MetaOp::SetXattr { ino, .. }
        | MetaOp::RemoveXattr { ino, .. }
        | MetaOp::Write { ino, .. }
        | MetaOp::Allocate { ino, .. } => vec![*ino],
        MetaOp::CopyRange { source, target, .. } => vec![*source, *target],
        MetaOp::ReleaseOrphan { .. } => Vec::new(),
    };
    inos.sort_unstable();
    inos.dedup();
    let mut existing = Vec::with_capacity(inos.len());
    for ino in inos {
        if view.inode(ino)?.is_some() {
            existing.push(ino);
        }
    }
    Ok(existing)
}

/// The reply of an operation that was applied earlier, as far as the present state tells.
pub(crate) fn rebuild_reply(view: &(impl Rows + ?Sized), op: &MetaOp) -> Result<OpReply, ApplyError> {
    let (subject, value) = match op {
        MetaOp::Create { ino, .. }
        | MetaOp::CreateUnnamed { ino, .. }
        | MetaOp::Link { ino, .. }
        | MetaOp::SetAttr { ino, .. }
        | MetaOp::SetXattr { ino, .. }
        | MetaOp::RemoveXattr { ino, .. }
        | MetaOp::Write { ino, .. }
        | MetaOp::Allocate { ino, .. } => (Some(*ino), 0),
        MetaOp::CopyRange { target, length, .. } => (Some(*target), *length),
        MetaOp::Rename { new_parent, new_name, .. } => (view.entry(*new_parent, new_name)?.map(|entry| entry.ino), 0),
        MetaOp::Unlink { .. } | MetaOp::Rmdir { .. } | MetaOp::ReleaseOrphan { .. } => (None, 0),
    };
    let mut inos = touched(view, op)?;
    inos.extend(subject);
    Ok(OpReply { subject, value, ..reply(view, &inos)? })
}

/// A reply with the attributes of those of `inos` that still exist, each once.
fn reply(view: &(impl Rows + ?Sized), inos: &[Ino]) -> Result<OpReply, ApplyError> {
    let mut attrs = Vec::with_capacity(inos.len());
    for (index, ino) in inos.iter().enumerate() {
        if !inos.get(..index).unwrap_or_default().contains(ino)
            && let Some(inode) = view.inode(*ino)?
        {
            attrs.push(inode.attr);
        }
    }
    Ok(OpReply { attrs, ..OpReply::default() })
}

/// `EISDIR` for a directory, `EINVAL` for anything else that has no content.
fn must_be_regular(kind: cairn_types::FileKind) -> Result<(), Errno> {
    match kind {
        cairn_types::FileKind::Regular => Ok(()),
        cairn_types::FileKind::Directory => Err(Errno::EISDIR),
        _ => Err(Errno::EINVAL),
    }
}
