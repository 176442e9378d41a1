//! The kernel's rules: who may do what with which node. Nothing else in this crate decides about rights.
//!
//! They are those of a file system with `default_permissions` and ACLs, with `fs.protected_hardlinks` and
//! `fs.protected_symlinks` in force. Capabilities are one: the superuser has them all.

use cairn_client::FsResult;
use cairn_client::api::FileSystem;
use cairn_types::acl::{self, Acl};
use cairn_types::{Attr, AttrChange, AttrFlags, Errno, FileKind, NewNode};

use crate::Credentials;

/// Set-group-id, with which a directory passes on its group.
const SET_GID: u32 = 0o2000;
const SET_UID: u32 = 0o4000;
const STICKY: u32 = 0o1000;
const GROUP_EXECUTES: u32 = 0o010;
const ALL_WRITE: u32 = 0o002;
/// Bits of a mode that `chmod` sets.
const MODE: u32 = 0o7777;

/// What is wanted of a node: a union of three bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access(u32);

impl Access {
    pub(crate) const READ: Access = Access(4);
    pub(crate) const WRITE: Access = Access(2);
    /// Of directories: to use the names in it.
    pub(crate) const SEARCH: Access = Access(1);
    /// To make, remove and rename what is in a directory.
    pub(crate) const CHANGE_NAMES: Access = Access(2 | 1);
    pub(crate) const READ_WRITE: Access = Access(4 | 2);
}

/// Fails with `EACCES` if `who` may not.
pub(crate) async fn check<F: FileSystem>(fs: &F, who: &Credentials, attr: &Attr, wanted: Access) -> FsResult<()> {
    // Of the owner, and where the group class has no rights at all, an ACL says nothing beyond the mode.
    let asks_acl =
        attr.flags.contains(AttrFlags::HAS_ACL) && attr.mode & 0o070 != 0 && attr.uid != who.uid && !who.is_superuser();
    let acl = if asks_acl {
        match fs.get_xattr(attr.ino, bytes::Bytes::from_static(acl::ACCESS)).await {
            Ok(value) => Acl::parse(&value)?,
            // Of its ACLs, it has the one for its children alone; or it was removed this moment.
            Err(error) if error == Errno::ENODATA => None,
            Err(error) => return Err(error),
        }
    } else {
        None
    };
    if permits(who, attr, acl.as_ref(), wanted) { Ok(()) } else { Err(Errno::EACCES.into()) }
}

/// `generic_permission` of the kernel. `acl`: where it counts.
pub(crate) fn permits(who: &Credentials, attr: &Attr, acl: Option<&Acl>, Access(wanted): Access) -> bool {
    if who.is_superuser() {
        // Executing takes a file that somebody may execute; directories are all searched.
        return attr.is_dir() || wanted & 1 == 0 || attr.mode & 0o111 != 0;
    }
    if who.uid == attr.uid {
        return attr.mode >> 6 & wanted == wanted;
    }
    if let Some(acl) = acl {
        return acl.permits_other_than_owner(who.uid, attr.gid, |group| who.is_in(group), wanted);
    }
    let class = if who.is_in(attr.gid) { attr.mode >> 3 } else { attr.mode };
    class & wanted == wanted
}

fn owns(who: &Credentials, attr: &Attr) -> bool {
    who.is_superuser() || who.uid == attr.uid
}

/// Whether a sticky directory lets `who` remove or rename `node` in it.
pub(crate) fn check_sticky(who: &Credentials, directory: &Attr, node: &Attr) -> FsResult<()> {
    let kept = directory.mode & STICKY != 0 && !owns(who, node) && who.uid != directory.uid;
    if kept { Err(Errno::EPERM.into()) } else { Ok(()) }
}

/// Whether a symbolic link at the end of a path may be followed: nobody can lay one for others in a directory like `/tmp`.
pub(crate) fn check_following(who: &Credentials, directory: &Attr, link: &Attr) -> FsResult<()> {
    let shared = STICKY | ALL_WRITE;
    let trap = directory.mode & shared == shared && link.uid != who.uid && link.uid != directory.uid;
    if trap { Err(Errno::EACCES.into()) } else { Ok(()) }
}

/// Whether `who` may give `node` a further name: one's own, or a plain file that one may read and write.
pub(crate) async fn check_linking<F: FileSystem>(fs: &F, who: &Credentials, node: &Attr) -> FsResult<()> {
    if node.is_dir() {
        return Err(Errno::EPERM.into());
    }
    if owns(who, node) {
        return Ok(());
    }
    let executes_as_group = SET_GID | GROUP_EXECUTES;
    let plain = node.kind == FileKind::Regular
        && node.mode & SET_UID == 0
        && node.mode & executes_as_group != executes_as_group;
    let allowed = plain && check(fs, who, node, Access::READ_WRITE).await.is_ok();
    if allowed { Ok(()) } else { Err(Errno::EPERM.into()) }
}

/// Whether `who` may make such a node.
pub(crate) fn check_kind(who: &Credentials, node: &NewNode) -> FsResult<()> {
    let device = matches!(node, NewNode::CharDevice(_) | NewNode::BlockDevice(_));
    if device && !who.is_superuser() { Err(Errno::EPERM.into()) } else { Ok(()) }
}

/// The mode of a new node that is no directory: who is not in the group that a directory passes on cannot make
/// programs that run as it.
pub(crate) fn mode_of_new(who: &Credentials, directory: &Attr, mode: u32) -> u32 {
    let runs_as_group = SET_GID | GROUP_EXECUTES;
    let strips = directory.mode & SET_GID != 0
        && mode & runs_as_group == runs_as_group
        && !who.is_superuser()
        && !who.is_in(directory.gid);
    mode & MODE & !(if strips { SET_GID } else { 0 })
}

/// Whether `who` may change these attributes (`setattr_prepare` of the kernel), and what the change is then.
pub(crate) async fn check_change<F: FileSystem>(
    fs: &F,
    who: &Credentials,
    node: &Attr,
    mut change: AttrChange,
) -> FsResult<AttrChange> {
    // Whoever changes owners takes set-id bits away.
    let gives_away = (change.uid.is_some() || change.gid.is_some()) && !node.is_dir();
    if who.is_superuser() {
        change.kill_privileges |= gives_away && change.mode.is_none();
        return Ok(change);
    }
    let refused = || Err(Errno::EPERM.into());
    if change.uid.is_some_and(|uid| uid != node.uid || who.uid != node.uid) {
        return refused();
    }
    if change.gid.is_some_and(|gid| who.uid != node.uid || (gid != node.gid && !who.is_in(gid))) {
        return refused();
    }
    let owner_changes = change.mode.is_some() || change.atime.is_some() || change.mtime.is_some();
    if owner_changes && who.uid != node.uid {
        return refused();
    }
    if let Some(mode) = &mut change.mode {
        *mode &= MODE;
        if !who.is_in(change.gid.unwrap_or(node.gid)) {
            *mode &= !SET_GID;
        }
    }
    if change.size.is_some() {
        check(fs, who, node, Access::WRITE).await?;
    }
    change.kill_privileges |= gives_away || change.size.is_some();
    Ok(change)
}

/// What is done with an extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XattrUse {
    Read,
    Write,
}

/// Whether `who` may read or write the extended attribute `name` (`xattr_permission` and the handlers of the kernel).
pub(crate) async fn check_xattr<F: FileSystem>(
    fs: &F,
    who: &Credentials,
    node: &Attr,
    name: &[u8],
    wanted: XattrUse,
) -> FsResult<()> {
    if who.is_superuser() {
        return Ok(());
    }
    if name.starts_with(b"user.") {
        if !matches!(node.kind, FileKind::Regular | FileKind::Directory) {
            return Err(if wanted == XattrUse::Write { Errno::EPERM } else { Errno::ENODATA }.into());
        }
        if wanted == XattrUse::Write && node.is_dir() && node.mode & STICKY != 0 && !owns(who, node) {
            return Err(Errno::EPERM.into());
        }
        let access = if wanted == XattrUse::Write { Access::WRITE } else { Access::READ };
        return check(fs, who, node, access).await;
    }
    if name.starts_with(acl::PREFIX) && (wanted == XattrUse::Read || owns(who, node)) {
        return Ok(());
    }
    if name.starts_with(b"security.") && wanted == XattrUse::Read {
        return Ok(());
    }
    Err(if wanted == XattrUse::Write { Errno::EPERM } else { Errno::ENODATA }.into())
}
