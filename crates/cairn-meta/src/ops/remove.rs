//! `unlink`, `rmdir`, and the end of files that lived on without a name.

use cairn_types::{Errno, FileKind, Ino, Name, OpReply, SessionId, Timestamp};

use super::reply;
use crate::batch::{ApplyContext, Batch};
use crate::error::ApplyError;
use crate::layout;
use crate::view::{Rows, View};

pub(super) fn unlink(
    batch: &mut Batch,
    context: &ApplyContext<'_>,
    parent: Ino,
    name: &Name,
    keep: bool,
    time: Timestamp,
) -> Result<OpReply, ApplyError> {
    batch.directory(parent)?;
    let entry = batch.entry(parent, name)?.ok_or(Errno::ENOENT)?;
    if entry.kind == FileKind::Directory {
        return Err(Errno::EISDIR.into());
    }
    let mut inode = batch.target(entry)?;
    batch.remove_entry(parent, name, entry, time)?;
    let last = batch.drop_name(&mut inode, || holders(context, entry.ino, keep), time)?;
    let removed = last.then_some(entry.ino);
    Ok(OpReply { subject: Some(entry.ino), removed, ..reply(batch, &[entry.ino, parent])? })
}

pub(super) fn rmdir(batch: &mut Batch, parent: Ino, name: &Name, time: Timestamp) -> Result<OpReply, ApplyError> {
    batch.directory(parent)?;
    let entry = batch.entry(parent, name)?.ok_or(Errno::ENOENT)?;
    if entry.kind != FileKind::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    let inode = batch.target(entry)?;
    if inode.attr.size > 0 {
        return Err(Errno::ENOTEMPTY.into());
    }
    batch.remove_entry(parent, name, entry, time)?;
    batch.delete(&inode)?;
    Ok(OpReply { subject: Some(entry.ino), removed: Some(entry.ino), ..reply(batch, &[parent])? })
}

/// Sessions that keep a file alive when its last name goes.
pub(super) fn holders(context: &ApplyContext<'_>, ino: Ino, keep: bool) -> Vec<SessionId> {
    let mut holders = (context.open_elsewhere)(ino);
    holders.extend(keep.then_some(context.session));
    holders
}

/// Letting go of what one does not hold is no error: the request may have been sent twice.
pub(super) fn release_orphan(batch: &mut Batch, session: SessionId, ino: Ino) -> Result<OpReply, ApplyError> {
    release_pin(batch, ino, session)?;
    Ok(OpReply { subject: Some(ino), ..reply(batch, &[ino])? })
}

/// Takes away a session's hold on a nameless file, which goes with the last one.
pub(crate) fn release_pin(batch: &mut Batch, ino: Ino, session: SessionId) -> Result<(), ApplyError> {
    let pin = layout::orphan(ino, session);
    if batch.row(&pin)?.is_none() {
        return Ok(());
    }
    batch.set_row(pin, None);
    if let Some(inode) = batch.inode(ino)?
        && inode.attr.nlink == 0
        && batch.pins(ino, 1)?.is_empty()
    {
        batch.delete(&inode)?;
    }
    Ok(())
}
