//! `link`: another name for a node that is there.

use cairn_types::limits::LINK_MAX;
use cairn_types::{Errno, Ino, Name, OpReply, Timestamp};

use super::reply;
use crate::batch::Batch;
use crate::error::ApplyError;
use crate::layout;
use crate::record::EntryRecord;
use crate::view::Rows;

pub(super) fn link(
    batch: &mut Batch,
    ino: Ino,
    parent: Ino,
    name: &Name,
    time: Timestamp,
) -> Result<OpReply, ApplyError> {
    let mut inode = batch.known(ino)?;
    batch.directory(parent)?;
    if batch.entry(parent, name)?.is_some() {
        return Err(Errno::EEXIST.into());
    }
    if inode.attr.is_dir() {
        return Err(Errno::EPERM.into());
    }
    // A file that was unlinked while open stays without a name; one that was made without may be given one.
    if inode.attr.nlink == 0 && !inode.linkable {
        return Err(Errno::ENOENT.into());
    }
    if inode.attr.nlink >= LINK_MAX {
        return Err(Errno::EMLINK.into());
    }
    if inode.attr.nlink == 0 {
        for session in batch.pins(ino, usize::MAX)? {
            batch.set_row(layout::orphan(ino, session), None);
        }
    }
    inode.linkable = false;
    inode.attr.nlink += 1;
    inode.attr.ctime = time;
    batch.save(&mut inode);
    batch.add_entry(parent, name, EntryRecord { ino, kind: inode.attr.kind }, time)?;
    Ok(OpReply { subject: Some(ino), ..reply(batch, &[ino, parent])? })
}
