//! What a change does to the attributes of the nodes it touches, for whoever makes it real (the store) and whoever
//! answers for it in advance (a client that buffers it under an exclusive lease): both must come to the same result.
//!
//! ACLs that a node has are not looked at here: with one ([`AttrFlags::HAS_ACL`]), or where a file's size changes, only
//! the store can tell.

use crate::acl::Acl;
use crate::attr::{Attr, AttrFlags, FileKind};
use crate::id::Ino;
use crate::op::{AttrChange, NewNode};
use crate::time::Timestamp;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;

/// Who makes a node, and how.
#[derive(Clone, Copy, Debug)]
pub struct Maker {
    /// What the program asked for.
    pub mode: u32,
    pub umask: u32,
    pub uid: u32,
    pub gid: u32,
    pub time: Timestamp,
}

impl NewNode {
    pub fn kind(&self) -> FileKind {
        match self {
            NewNode::Regular => FileKind::Regular,
            NewNode::Directory => FileKind::Directory,
            NewNode::Symlink(_) => FileKind::Symlink,
            NewNode::Fifo => FileKind::Fifo,
            NewNode::Socket => FileKind::Socket,
            NewNode::CharDevice(_) => FileKind::CharDevice,
            NewNode::BlockDevice(_) => FileKind::BlockDevice,
        }
    }
}

impl Attr {
    /// A node that was just made in this directory. The umask is applied as if the directory had no default ACL, and not
    /// at all if `default_acl` (whose owner knows the mode).
    pub fn born_here(&self, ino: Ino, node: &NewNode, maker: &Maker, default_acl: bool) -> Attr {
        let kind = node.kind();
        let mut mode = maker.mode & 0o7777;
        let mut gid = maker.gid;
        if self.mode & SET_GID != 0 {
            gid = self.gid;
            if kind == FileKind::Directory {
                mode |= SET_GID;
            }
        }
        if kind == FileKind::Symlink {
            mode = 0o777;
        } else if !default_acl {
            mode &= !(maker.umask & 0o777);
        }
        Attr {
            ino,
            kind,
            mode,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            uid: maker.uid,
            gid,
            rdev: match node {
                NewNode::CharDevice(rdev) | NewNode::BlockDevice(rdev) => *rdev,
                _ => 0,
            },
            size: match node {
                NewNode::Symlink(target) => target.len() as u64,
                _ => 0,
            },
            allocated: 0,
            atime: maker.time,
            mtime: maker.time,
            ctime: maker.time,
            btime: maker.time,
            version: 1,
            flags: AttrFlags::default(),
        }
    }

    /// This directory has one more entry.
    pub fn add_entry(&mut self, kind: FileKind, time: Timestamp) {
        self.size += 1;
        self.nlink += u32::from(kind == FileKind::Directory);
        self.entries_changed(time);
    }

    /// This directory has one entry fewer.
    pub fn remove_entry(&mut self, kind: FileKind, time: Timestamp) {
        self.size = self.size.saturating_sub(1);
        self.nlink = self.nlink.saturating_sub(u32::from(kind == FileKind::Directory));
        self.entries_changed(time);
    }

    /// Names in this directory have changed.
    pub fn entries_changed(&mut self, time: Timestamp) {
        self.mtime = time;
        self.ctime = time;
    }

    /// `chmod`, `chown`, `utimens`. Size and ACL are the store's.
    pub fn change(&mut self, change: &AttrChange, time: Timestamp) {
        if self.loses_privileges(change) {
            self.mode = self.mode_without_set_ids();
        }
        self.uid = change.uid.unwrap_or(self.uid);
        self.gid = change.gid.unwrap_or(self.gid);
        self.mode = change.mode.map_or(self.mode, |mode| mode & 0o7777);
        self.atime = change.atime.or(change.read_at).unwrap_or(self.atime);
        self.mtime = change.mtime.unwrap_or(self.mtime);
        // A read alone changes nothing.
        if *change != (AttrChange { read_at: change.read_at, ..AttrChange::default() }) || change.read_at.is_none() {
            self.ctime = time;
        }
    }

    /// An access list shows in the mode. Whether it says no more than the mode does, so that it is not kept.
    pub fn take_access_list(&mut self, access: &Acl, clear_set_gid: bool) -> bool {
        let (permissions, equivalent) = access.mode();
        self.mode = self.mode & !0o777 | permissions;
        if clear_set_gid {
            self.mode &= !SET_GID;
        }
        equivalent
    }

    /// Whether a change takes away the set-id bits and `security.capability`.
    pub fn loses_privileges(&self, change: &AttrChange) -> bool {
        !self.is_dir() && (change.uid.is_some() || change.gid.is_some() || change.kill_privileges)
    }

    /// The mode after a change of owner or content: without the set-user-id bit, and without the set-group-id bit where
    /// the group may execute (elsewhere it means mandatory locking).
    pub fn mode_without_set_ids(&self) -> u32 {
        let mut mode = self.mode & !SET_UID;
        if mode & GROUP_EXECUTE != 0 {
            mode &= !SET_GID;
        }
        mode
    }
}
