//! Extended attributes, access control lists among them.

use cairn_types::acl::{self, Acl};
use cairn_types::limits::{XATTR_NAME_MAX, XATTR_VALUE_MAX};
use cairn_types::{AttrFlags, Errno, FileKind, Ino, OpReply, Timestamp, XattrMode};

use super::reply;
use crate::batch::Batch;
use crate::error::ApplyError;
use crate::record::InodeRecord;
use crate::view::Rows;

/// Bytes of all names of one node, each with its NUL: more than `listxattr` can return (`XATTR_LIST_MAX`) would be
/// attributes that nobody sees.
const NAMES_MAX: usize = 65_536;

pub(super) fn set(
    batch: &mut Batch,
    ino: Ino,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
    clear_set_gid: bool,
    time: Timestamp,
) -> Result<OpReply, ApplyError> {
    let mut inode = batch.known(ino)?;
    check_name(name, inode.attr.kind)?;
    let before = (inode.attr.mode, batch.xattr(ino, name)?);
    if value.len() > XATTR_VALUE_MAX {
        return Err(Errno::E2BIG.into());
    }
    if name.starts_with(acl::PREFIX) {
        set_acl(batch, &mut inode, name, value, clear_set_gid)?;
    } else {
        let exists = before.1.is_some();
        match mode {
            XattrMode::Create if exists => return Err(Errno::EEXIST.into()),
            XattrMode::Replace if !exists => return Err(Errno::ENODATA.into()),
            _ => {}
        }
        if !exists && inode.attr.flags.contains(AttrFlags::HAS_XATTR) {
            let used: usize = batch.xattr_names(ino)?.iter().map(|name| name.len() + 1).sum();
            if used + name.len() + 1 > NAMES_MAX {
                return Err(Errno::ENOSPC.into());
            }
        }
        batch.set_xattr_row(&mut inode, name, Some(value))?;
    }
    // As on ext4, setting what was so already is no change.
    if (inode.attr.mode, batch.xattr(ino, name)?) != before {
        inode.attr.ctime = time;
        batch.save(&mut inode);
    }
    Ok(OpReply { subject: Some(ino), ..reply(batch, &[ino])? })
}

pub(super) fn remove(batch: &mut Batch, ino: Ino, name: &[u8], time: Timestamp) -> Result<OpReply, ApplyError> {
    let mut inode = batch.known(ino)?;
    check_name(name, inode.attr.kind)?;
    if batch.xattr(ino, name)?.is_some() {
        batch.set_xattr_row(&mut inode, name, None)?;
        inode.attr.ctime = time;
        batch.save(&mut inode);
    } else if !name.starts_with(acl::PREFIX) {
        // Removing a list that is not there is no error, as on a local file system.
        return Err(Errno::ENODATA.into());
    }
    Ok(OpReply { subject: Some(ino), ..reply(batch, &[ino])? })
}

/// `EOPNOTSUPP` for a namespace that is not kept, or lists on a symbolic link; `EPERM` for `user.` on what has no
/// content of its own; `ERANGE` for a name that is too long, `EINVAL` for a namespace without a name.
fn check_name(name: &[u8], kind: FileKind) -> Result<(), Errno> {
    if name.len() > XATTR_NAME_MAX {
        return Err(Errno::ERANGE);
    }
    if name == acl::ACCESS || name == acl::DEFAULT {
        return if kind == FileKind::Symlink { Err(Errno::EOPNOTSUPP) } else { Ok(()) };
    }
    let namespaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let Some(rest) = namespaces.iter().find_map(|namespace| name.strip_prefix(*namespace)) else {
        return Err(Errno::EOPNOTSUPP);
    };
    if rest.is_empty() || rest.contains(&0) {
        return Err(Errno::EINVAL);
    }
    if name.starts_with(b"user.") && !matches!(kind, FileKind::Regular | FileKind::Directory) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// An access list shows in the mode, and is not kept if it says no more than the mode does. The empty list removes.
/// `EACCES` for a default list on anything but a directory.
fn set_acl(
    batch: &mut Batch,
    inode: &mut InodeRecord,
    name: &[u8],
    value: &[u8],
    clear_set_gid: bool,
) -> Result<(), ApplyError> {
    let mut list = Acl::parse(value)?;
    if name == acl::DEFAULT {
        if !inode.attr.is_dir() && list.is_some() {
            return Err(Errno::EACCES.into());
        }
    } else if let Some(access) = &list
        && inode.attr.take_access_list(access, clear_set_gid)
    {
        list = None;
    }
    batch.set_xattr_row(inode, name, list.as_ref().map(|_| value))
}
