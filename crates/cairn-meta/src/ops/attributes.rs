//! `chmod`, `chown`, `truncate`, `utimens`.

use cairn_types::{Attr, AttrChange, AttrFlags, Errno, Ino, OpReply, Timestamp};

use super::{must_be_regular, reply};
use crate::acl::{self, Acl};
use crate::batch::Batch;
use crate::edit::{CAPABILITY, file_size_max};
use crate::error::ApplyError;
use crate::record::InodeRecord;
use crate::view::Rows;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;

pub(super) fn set_attr(
    batch: &mut Batch,
    ino: Ino,
    change: &AttrChange,
    time: Timestamp,
) -> Result<OpReply, ApplyError> {
    let mut inode = batch.known(ino)?;
    let charged_before = inode.attr.charged();
    let changes_owner = change.uid.is_some() || change.gid.is_some();
    if !inode.attr.is_dir() && (changes_owner || change.kill_privileges) {
        kill_privileges(batch, &mut inode)?;
    }
    inode.attr.uid = change.uid.unwrap_or(inode.attr.uid);
    inode.attr.gid = change.gid.unwrap_or(inode.attr.gid);
    if let Some(mode) = change.mode {
        inode.attr.mode = mode & 0o7777;
        change_acl(batch, &mut inode)?;
    }
    if let Some(size) = change.size {
        resize(batch, &mut inode, size)?;
        inode.attr.mtime = time;
    }
    inode.attr.atime = change.atime.or(change.read_at).unwrap_or(inode.attr.atime);
    inode.attr.mtime = change.mtime.unwrap_or(inode.attr.mtime);
    // A read alone changes nothing.
    if *change != (AttrChange { read_at: change.read_at, ..AttrChange::default() }) || change.read_at.is_none() {
        inode.attr.ctime = time;
    }
    batch.charge_bytes(charged_before, inode.attr.charged());
    batch.save(&mut inode);
    Ok(OpReply { subject: Some(ino), ..reply(batch, &[ino])? })
}

/// What a change of owner or content takes away: the set-user-id bit, the set-group-id bit where the group may
/// execute (elsewhere it means mandatory locking), and capabilities.
pub(super) fn kill_privileges(batch: &mut Batch, inode: &mut InodeRecord) -> Result<(), ApplyError> {
    inode.attr.mode = without_set_ids(&inode.attr);
    if inode.attr.flags.contains(AttrFlags::HAS_CAPABILITY) {
        batch.set_xattr_row(inode, CAPABILITY, None)?;
    }
    Ok(())
}

fn without_set_ids(attr: &Attr) -> u32 {
    let mut mode = attr.mode & !SET_UID;
    if mode & GROUP_EXECUTE != 0 {
        mode &= !SET_GID;
    }
    mode
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
