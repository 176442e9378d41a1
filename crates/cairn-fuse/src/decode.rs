//! From the bytes of a request to a typed [`Operation`]. Pure: no I/O, no state, no panic, whatever the bytes are.
//!
//! A request is a header, a structure that its opcode decides, then names or data. Names come out checked, so nothing
//! behind this module meets `.`, `..`, an empty or an overlong one. The bytes of a write are not copied here but
//! pointed at ([`Span`]): only the transport knows whether its buffer can be handed over.

use bytes::Bytes;
use cairn_client::api::{Caller, Handle, SeekTarget, WriteFlags};
use cairn_types::limits::{SYMLINK_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX};
use cairn_types::{
    AllocateMode, AttrChange, ByteRange, Errno, FileKind, FileLock, FsResult, Ino, LockFamily, LockKind, LockOwner,
    Name, NewNode, RenameMode, Timestamp, XattrMode,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::abi::{self, fattr, opcode};

/// What both sides agreed on at mount time, as far as it changes how requests look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dialect {
    /// `FUSE_SETXATTR_EXT`: the longer `fuse_setxattr_in`.
    pub(crate) extended_setxattr: bool,
}

/// A part of the request's bytes; always inside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) length: usize,
}

/// What the kernel asks for. `Ino`s that are not named otherwise are the header's node.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Lookup {
        name: Name,
    },
    Forget {
        references: u64,
    },
    BatchForget(Vec<(Ino, u64)>),
    Getattr,
    Statx,
    Setattr {
        change: AttrChange,
        handle: Option<Handle>,
    },
    Readlink,
    MakeNode {
        name: Name,
        node: NewNode,
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: Name,
    },
    Rmdir {
        name: Name,
    },
    Rename {
        name: Name,
        new_parent: Ino,
        new_name: Name,
        mode: RenameMode,
    },
    Link {
        ino: Ino,
        new_name: Name,
    },
    Open {
        flags: i32,
        kill_privileges: bool,
    },
    Create {
        name: Name,
        mode: u32,
        umask: u32,
        flags: i32,
    },
    Tmpfile {
        mode: u32,
        umask: u32,
        flags: i32,
    },
    Read {
        handle: Handle,
        offset: u64,
        length: u32,
    },
    Write {
        handle: Option<Handle>,
        offset: u64,
        data: Span,
        flags: WriteFlags,
    },
    Release {
        handle: Handle,
        flock_owner: Option<LockOwner>,
    },
    Flush {
        handle: Handle,
        owner: LockOwner,
    },
    Fsync {
        data_only: bool,
    },
    Syncfs,
    Opendir,
    Readdir {
        handle: Handle,
        cursor: u64,
        size: u32,
        with_attributes: bool,
    },
    Releasedir {
        handle: Handle,
    },
    Statfs,
    Setxattr {
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
        clear_set_gid: bool,
    },
    /// `size` 0 asks for the length alone.
    Getxattr {
        name: Bytes,
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Removexattr {
        name: Bytes,
    },
    Getlk {
        lock: FileLock,
    },
    Setlk {
        handle: Handle,
        lock: FileLock,
        wait: bool,
    },
    Fallocate {
        handle: Handle,
        mode: AllocateMode,
        offset: u64,
        length: u64,
    },
    Lseek {
        offset: u64,
        target: SeekTarget,
    },
    /// `wide`: the answer has room for 64 bits.
    CopyFileRange {
        offset: u64,
        target: Ino,
        target_handle: Handle,
        target_offset: u64,
        length: u64,
        wide: bool,
    },
    Interrupt {
        unique: u64,
    },
    Destroy,
    NotifyReply,
}

/// Reads the header. `None` if the bytes are fewer than a header or than it says.
pub(crate) fn decode_header(message: &[u8]) -> Option<abi::InHeader> {
    let (header, _) = abi::InHeader::read_from_prefix(message).ok()?;
    (header.len as usize <= message.len() && header.len as usize >= size_of::<abi::InHeader>()).then_some(header)
}

/// Who asks, without the umask (which few requests carry).
pub(crate) fn caller(header: &abi::InHeader, umask: u32) -> Caller {
    Caller { uid: header.uid, gid: header.gid, pid: header.pid, umask }
}

/// Reads what `header` announces from `message`, the whole request with its header.
///
/// # Errors
/// The errno with which the request is to be answered: `ENOSYS` for an unknown opcode (the kernel then stops asking),
/// `ENAMETOOLONG` or `EINVAL` for a name, `EIO` for arguments that are cut short.
#[expect(clippy::too_many_lines, reason = "one arm for each operation of the kernel")]
pub(crate) fn decode(header: &abi::InHeader, message: &[u8], dialect: Dialect) -> FsResult<Operation> {
    let mut body = Body::new(header, message)?;
    let ino = Ino(header.nodeid);
    Ok(match header.opcode {
        opcode::LOOKUP => Operation::Lookup { name: body.name()? },
        opcode::FORGET => Operation::Forget { references: body.take::<abi::ForgetIn>()?.nlookup },
        opcode::BATCH_FORGET => Operation::BatchForget(batch_forget(&mut body)?),
        opcode::GETATTR => Operation::Getattr,
        opcode::STATX => Operation::Statx,
        opcode::SETATTR => setattr(&body.take::<abi::SetattrIn>()?),
        opcode::READLINK => Operation::Readlink,
        opcode::SYMLINK => {
            let name = body.name()?;
            let target = body.text(SYMLINK_MAX)?;
            Operation::MakeNode { name, node: NewNode::Symlink(target), mode: 0o777, umask: 0 }
        }
        opcode::MKNOD => mknod(&mut body)?,
        opcode::MKDIR => {
            let arguments = body.take::<abi::MkdirIn>()?;
            let mode = arguments.mode & 0o7777;
            Operation::MakeNode { name: body.name()?, node: NewNode::Directory, mode, umask: arguments.umask }
        }
        opcode::UNLINK => Operation::Unlink { name: body.name()? },
        opcode::RMDIR => Operation::Rmdir { name: body.name()? },
        opcode::RENAME => {
            let new_parent = Ino(body.take::<abi::RenameIn>()?.newdir);
            rename(&mut body, new_parent, 0)?
        }
        opcode::RENAME2 => {
            let arguments = body.take::<abi::Rename2In>()?;
            rename(&mut body, Ino(arguments.newdir), arguments.flags)?
        }
        opcode::LINK => {
            let ino = Ino(body.take::<abi::LinkIn>()?.oldnodeid);
            Operation::Link { ino, new_name: body.name()? }
        }
        opcode::OPEN => {
            let arguments = body.take::<abi::OpenIn>()?;
            let kill_privileges = arguments.open_flags & abi::OPEN_KILL_SUIDGID != 0;
            Operation::Open { flags: arguments.flags as i32, kill_privileges }
        }
        opcode::CREATE => {
            let arguments = body.take::<abi::CreateIn>()?;
            Operation::Create {
                name: body.name()?,
                mode: arguments.mode & 0o7777,
                umask: arguments.umask,
                flags: arguments.flags as i32,
            }
        }
        opcode::TMPFILE => {
            // A name follows, but it is a placeholder of the kernel's.
            let abi::CreateIn { mode, umask, flags, .. } = body.take()?;
            Operation::Tmpfile { mode: mode & 0o7777, umask, flags: flags as i32 }
        }
        opcode::READ => {
            let abi::ReadIn { fh, offset, size, .. } = body.take()?;
            Operation::Read { handle: Handle(fh), offset, length: size }
        }
        opcode::WRITE => write(&mut body)?,
        opcode::RELEASE => {
            let arguments = body.take::<abi::ReleaseIn>()?;
            let held_flock = arguments.release_flags & abi::RELEASE_FLOCK_UNLOCK != 0;
            let flock_owner = held_flock.then_some(LockOwner(arguments.lock_owner));
            Operation::Release { handle: Handle(arguments.fh), flock_owner }
        }
        opcode::FLUSH => {
            let arguments = body.take::<abi::FlushIn>()?;
            Operation::Flush { handle: Handle(arguments.fh), owner: LockOwner(arguments.lock_owner) }
        }
        opcode::FSYNC | opcode::FSYNCDIR => {
            let arguments = body.take::<abi::FsyncIn>()?;
            Operation::Fsync { data_only: arguments.fsync_flags & abi::FSYNC_FDATASYNC != 0 }
        }
        opcode::SYNCFS => Operation::Syncfs,
        opcode::OPENDIR => Operation::Opendir,
        opcode::READDIR | opcode::READDIRPLUS => {
            let abi::ReadIn { fh, offset, size, .. } = body.take()?;
            let with_attributes = header.opcode == opcode::READDIRPLUS;
            Operation::Readdir { handle: Handle(fh), cursor: offset, size, with_attributes }
        }
        opcode::RELEASEDIR => Operation::Releasedir { handle: Handle(body.take::<abi::ReleaseIn>()?.fh) },
        opcode::STATFS => Operation::Statfs,
        opcode::SETXATTR => setxattr(&mut body, dialect)?,
        opcode::GETXATTR => {
            let size = body.take::<abi::GetxattrIn>()?.size;
            Operation::Getxattr { name: body.text_or(XATTR_NAME_MAX, Errno::ERANGE)?, size }
        }
        opcode::LISTXATTR => Operation::Listxattr { size: body.take::<abi::GetxattrIn>()?.size },
        opcode::REMOVEXATTR => Operation::Removexattr { name: body.text_or(XATTR_NAME_MAX, Errno::ERANGE)? },
        opcode::GETLK => Operation::Getlk { lock: lock(ino, &body.take()?)? },
        opcode::SETLK | opcode::SETLKW => {
            let arguments = body.take::<abi::LkIn>()?;
            let wait = header.opcode == opcode::SETLKW;
            Operation::Setlk { handle: Handle(arguments.fh), lock: lock(ino, &arguments)?, wait }
        }
        opcode::FALLOCATE => fallocate(&body.take()?)?,
        opcode::LSEEK => {
            let arguments = body.take::<abi::LseekIn>()?;
            let target = match arguments.whence as i32 {
                libc::SEEK_DATA => SeekTarget::Data,
                libc::SEEK_HOLE => SeekTarget::Hole,
                _ => return Err(Errno::EINVAL),
            };
            Operation::Lseek { offset: arguments.offset, target }
        }
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => {
            let arguments = body.take::<abi::CopyFileRangeIn>()?;
            Operation::CopyFileRange {
                offset: arguments.off_in,
                target: Ino(arguments.nodeid_out),
                target_handle: Handle(arguments.fh_out),
                target_offset: arguments.off_out,
                length: arguments.len,
                wide: header.opcode == opcode::COPY_FILE_RANGE_64,
            }
        }
        opcode::INTERRUPT => Operation::Interrupt { unique: body.take::<abi::InterruptIn>()?.unique },
        opcode::DESTROY => Operation::Destroy,
        opcode::NOTIFY_REPLY => Operation::NotifyReply,
        opcode::IOCTL => return Err(Errno(libc::ENOTTY)),
        // ACCESS is the kernel's (`default_permissions`); POLL and BMAP mean nothing here; INIT came before.
        _ => return Err(Errno::ENOSYS),
    })
}

/// The arguments of a request: what is left of them after each step.
struct Body<'a> {
    rest: &'a [u8],
    /// Where `rest` begins in the whole message.
    position: usize,
}

impl<'a> Body<'a> {
    /// Leaves out the header in front and extensions (none were agreed on) behind.
    fn new(header: &abi::InHeader, message: &'a [u8]) -> FsResult<Self> {
        let position = size_of::<abi::InHeader>();
        let extensions = usize::from(header.total_extlen) * 8;
        let end = (header.len as usize).checked_sub(extensions).ok_or(Errno::EIO)?;
        let rest = message.get(position..end).ok_or(Errno::EIO)?;
        Ok(Body { rest, position })
    }

    fn skip(&mut self, count: usize) -> FsResult<&'a [u8]> {
        let (front, rest) = self.rest.split_at_checked(count).ok_or(Errno::EIO)?;
        self.rest = rest;
        self.position += count;
        Ok(front)
    }

    fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> FsResult<T> {
        T::read_from_bytes(self.skip(size_of::<T>())?).map_err(|_| Errno::EIO)
    }

    /// Bytes up to a NUL, which is left out.
    fn c_string(&mut self) -> FsResult<&'a [u8]> {
        let length = self.rest.iter().position(|&byte| byte == 0).ok_or(Errno::EIO)?;
        let front = self.skip(length)?;
        self.skip(1)?;
        Ok(front)
    }

    fn name(&mut self) -> FsResult<Name> {
        Name::new(self.c_string()?)
    }

    fn text(&mut self, longest: usize) -> FsResult<Bytes> {
        self.text_or(longest, Errno::ENAMETOOLONG)
    }

    /// A string that is not a name: not empty and at most `longest` bytes, else `too_long`.
    fn text_or(&mut self, longest: usize, too_long: Errno) -> FsResult<Bytes> {
        let text = self.c_string()?;
        if text.is_empty() {
            return Err(Errno::ENOENT);
        }
        if text.len() > longest { Err(too_long) } else { Ok(Bytes::copy_from_slice(text)) }
    }
}

fn batch_forget(body: &mut Body<'_>) -> FsResult<Vec<(Ino, u64)>> {
    let count = body.take::<abi::BatchForgetIn>()?.count as usize;
    // What is there is what counts: a lie about the number must not allocate.
    let mut nodes = Vec::with_capacity(count.min(body.rest.len() / size_of::<abi::ForgetOne>()));
    for _ in 0..count {
        let one = body.take::<abi::ForgetOne>()?;
        nodes.push((Ino(one.nodeid), one.nlookup));
    }
    Ok(nodes)
}

/// A time as the kernel sends it; nanoseconds out of range are cut off.
fn timestamp(secs: i64, nanos: u32) -> Timestamp {
    Timestamp { secs, nanos: nanos.min(999_999_999) }
}

/// The change time is never set from outside: every change sets it.
fn setattr(arguments: &abi::SetattrIn) -> Operation {
    let has = |bit| arguments.valid & bit != 0;
    let time =
        |set, now, secs, nanos| has(set).then(|| if has(now) { Timestamp::now() } else { timestamp(secs, nanos) });
    let change = AttrChange {
        mode: has(fattr::MODE).then_some(arguments.mode & 0o7777),
        uid: has(fattr::UID).then_some(arguments.uid),
        gid: has(fattr::GID).then_some(arguments.gid),
        size: has(fattr::SIZE).then_some(arguments.size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, arguments.atime, arguments.atimensec),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, arguments.mtime, arguments.mtimensec),
        read_at: None,
        kill_privileges: has(fattr::KILL_SUIDGID),
    };
    Operation::Setattr { change, handle: has(fattr::FH).then_some(Handle(arguments.fh)) }
}

fn mknod(body: &mut Body<'_>) -> FsResult<Operation> {
    let arguments = body.take::<abi::MknodIn>()?;
    let kind = match arguments.mode & libc::S_IFMT {
        0 => FileKind::Regular,
        bits => FileKind::from_mode_bits(bits).ok_or(Errno::EINVAL)?,
    };
    let node = match kind {
        FileKind::Regular => NewNode::Regular,
        FileKind::Fifo => NewNode::Fifo,
        FileKind::Socket => NewNode::Socket,
        FileKind::CharDevice => NewNode::CharDevice(arguments.rdev),
        FileKind::BlockDevice => NewNode::BlockDevice(arguments.rdev),
        FileKind::Directory | FileKind::Symlink => return Err(Errno::EPERM),
    };
    Ok(Operation::MakeNode { name: body.name()?, node, mode: arguments.mode & 0o7777, umask: arguments.umask })
}

fn rename(body: &mut Body<'_>, new_parent: Ino, flags: u32) -> FsResult<Operation> {
    let mode = match flags {
        0 => RenameMode::Replace,
        libc::RENAME_NOREPLACE => RenameMode::NoReplace,
        libc::RENAME_EXCHANGE => RenameMode::Exchange,
        _ => return Err(Errno::EINVAL),
    };
    Ok(Operation::Rename { name: body.name()?, new_parent, new_name: body.name()?, mode })
}

fn write(body: &mut Body<'_>) -> FsResult<Operation> {
    let arguments = body.take::<abi::WriteIn>()?;
    let data = Span { start: body.position, length: arguments.size as usize };
    body.skip(data.length)?;
    let open_flags = arguments.flags as i32;
    let from_cache = arguments.write_flags & abi::WRITE_CACHE != 0;
    let flags = WriteFlags {
        // Pages of the cache know their place, whatever file the kernel guessed them to come from.
        append: open_flags & libc::O_APPEND != 0 && !from_cache,
        from_cache,
        kill_privileges: arguments.write_flags & abi::WRITE_KILL_SUIDGID != 0,
        // O_SYNC contains the bit of O_DSYNC.
        sync: open_flags & libc::O_DSYNC != 0 && !from_cache,
    };
    let handle = (!from_cache).then_some(Handle(arguments.fh));
    Ok(Operation::Write { handle, offset: arguments.offset, data, flags })
}

fn setxattr(body: &mut Body<'_>, dialect: Dialect) -> FsResult<Operation> {
    let arguments = if dialect.extended_setxattr {
        body.take::<abi::SetxattrIn>()?
    } else {
        let short = body.skip(abi::COMPAT_SETXATTR_IN_SIZE)?;
        let (size, rest) = u32::read_from_prefix(short).map_err(|_| Errno::EIO)?;
        let flags = u32::read_from_bytes(rest).map_err(|_| Errno::EIO)?;
        abi::SetxattrIn { size, flags, ..Default::default() }
    };
    let name = body.text_or(XATTR_NAME_MAX, Errno::ERANGE)?;
    if arguments.size as usize > XATTR_VALUE_MAX {
        return Err(Errno::E2BIG);
    }
    let mode = match arguments.flags as i32 {
        0 => XattrMode::CreateOrReplace,
        libc::XATTR_CREATE => XattrMode::Create,
        libc::XATTR_REPLACE => XattrMode::Replace,
        _ => return Err(Errno::EINVAL),
    };
    let value = Bytes::copy_from_slice(body.skip(arguments.size as usize)?);
    let clear_set_gid = arguments.setxattr_flags & abi::SETXATTR_ACL_KILL_SGID != 0;
    Ok(Operation::Setxattr { name, value, mode, clear_set_gid })
}

fn lock(ino: Ino, arguments: &abi::LkIn) -> FsResult<FileLock> {
    let kind = match arguments.lk.kind as i32 {
        libc::F_RDLCK => LockKind::Shared,
        libc::F_WRLCK => LockKind::Exclusive,
        libc::F_UNLCK => LockKind::Unlock,
        _ => return Err(Errno::EINVAL),
    };
    if arguments.lk.start > arguments.lk.end {
        return Err(Errno::EINVAL);
    }
    let family = if arguments.lk_flags & abi::LK_FLOCK != 0 { LockFamily::Flock } else { LockFamily::Posix };
    let range = ByteRange { start: arguments.lk.start, end: arguments.lk.end };
    Ok(FileLock { ino, family, kind, range, owner: LockOwner(arguments.owner), pid: arguments.lk.pid })
}

fn fallocate(arguments: &abi::FallocateIn) -> FsResult<Operation> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    let mode = match arguments.mode as i32 {
        0 => AllocateMode::Reserve { keep_size: false },
        libc::FALLOC_FL_KEEP_SIZE => AllocateMode::Reserve { keep_size: true },
        PUNCH => AllocateMode::Punch,
        libc::FALLOC_FL_ZERO_RANGE => AllocateMode::Zero { keep_size: false },
        ZERO_KEEP => AllocateMode::Zero { keep_size: true },
        _ => return Err(Errno::EOPNOTSUPP),
    };
    Ok(Operation::Fallocate { handle: Handle(arguments.fh), mode, offset: arguments.offset, length: arguments.length })
}

#[cfg(test)]
mod tests;
