//! `chmod`, `chown`, `truncate`, `utimens`.

use cairn_types::acl::{self, Acl};
use cairn_types::{AttrChange, AttrFlags, Errno, Ino, OpReply, Timestamp};

use super::{must_be_regular, reply};
use crate::batch::Batch;
use crate::edit::{CAPABILITY, file_size_max};
use crate::error::ApplyError;
use crate::record::InodeRecord;
use crate::view::Rows;

pub(super) fn set_attr(
    batch: &mut Batch,
    ino: Ino,
    change: &AttrChange,
    time: Timestamp,
) -> Result<OpReply, ApplyError> {
    let mut inode = batch.known(ino)?;
    let charged_before = inode.attr.charged(batch.volume.config.allocation);
    if inode.attr.loses_privileges(change) {
        kill_privileges(batch, &mut inode)?;
    }
    if let Some(size) = change.size {
        resize(batch, &mut inode, size)?;
        inode.attr.mtime = time;
    }
    inode.attr.change(change, time);
    if change.mode.is_some() {
        change_acl(batch, &mut inode)?;
    }
    batch.charge_bytes(charged_before, inode.attr.charged(batch.volume.config.allocation));
    batch.save(&mut inode);
    Ok(OpReply { subject: Some(ino), ..reply(batch, &[ino])? })
}

/// What a change of owner or content takes away: set-id bits and capabilities.
pub(super) fn kill_privileges(batch: &mut Batch, inode: &mut InodeRecord) -> Result<(), ApplyError> {
    inode.attr.mode = inode.attr.mode_without_set_ids();
    if inode.attr.flags.contains(AttrFlags::HAS_CAPABILITY) {
        batch.set_xattr_row(inode, CAPABILITY, None)?;
    }
    Ok(())
}

/// Lets the access list follow a new mode.
fn change_acl(batch: &mut Batch, inode: &mut InodeRecord) -> Result<(), ApplyError> {
    if !inode.attr.flags.contains(AttrFlags::HAS_ACL) {
        return Ok(());
    }
    let Some(value) = batch.xattr(inode.attr.ino, acl::ACCESS)? else { return Ok(()) };
    if let Some(mut access) = Acl::parse(&value)? {
        access.set_mode(inode.attr.mode);
        batch.set_xattr_row(inode, acl::ACCESS, Some(&access.encode()))?;
    }
    Ok(())
}

/// `truncate`: what is beyond the new end goes, also what was allocated there; a longer file ends in a hole.
fn resize(batch: &mut Batch, inode: &mut InodeRecord, size: u64) -> Result<(), ApplyError> {
    must_be_regular(inode.attr.kind)?;
    if size > file_size_max(batch.volume.config.chunk_size) {
        return Err(Errno::EFBIG.into());
    }
    if size <= inode.attr.size {
        batch.cut_content(inode, size)?;
    }
    inode.attr.size = size;
    Ok(())
}
