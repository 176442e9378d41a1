//! The kernel's side of the FUSE protocol: opcodes, flags and structures as they lie in memory.
//!
//! Source: `include/uapi/linux/fuse.h` of Linux, protocol 7.45. Field names follow it, so that the two can be read side
//! by side. Only what Cairn uses is here; nothing in this module acts. Every structure is made of fields of fixed
//! size without padding (the derives check it), so any bytes are a valid value.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Declares wire structures with public fields.
macro_rules! wire {
    ($(struct $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty),* $(,)? })*) => {$(
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(crate) struct $name { $($(#[$meta])* pub(crate) $field: $type),* }
    )*};
}

/// Declares the opcodes once: their numbers and the names under which statistics show them.
macro_rules! opcodes {
    ($($name:ident = $number:literal),* $(,)?) => {
        /// Numbers of the requests that the kernel sends (`enum fuse_opcode`).
        pub(crate) mod opcode {
            $(pub(crate) const $name: u32 = $number;)*
        }

        /// The kernel's name of a request, in capitals; `None` for one that this version does not know.
        pub(crate) fn opcode_name(opcode: u32) -> Option<&'static str> {
            match opcode {
                $(opcode::$name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

opcodes!(
    LOOKUP = 1,
    FORGET = 2,
    GETATTR = 3,
    SETATTR = 4,
    READLINK = 5,
    SYMLINK = 6,
    MKNOD = 8,
    MKDIR = 9,
    UNLINK = 10,
    RMDIR = 11,
    RENAME = 12,
    LINK = 13,
    OPEN = 14,
    READ = 15,
    WRITE = 16,
    STATFS = 17,
    RELEASE = 18,
    FSYNC = 20,
    SETXATTR = 21,
    GETXATTR = 22,
    LISTXATTR = 23,
    REMOVEXATTR = 24,
    FLUSH = 25,
    INIT = 26,
    OPENDIR = 27,
    READDIR = 28,
    RELEASEDIR = 29,
    FSYNCDIR = 30,
    GETLK = 31,
    SETLK = 32,
    SETLKW = 33,
    ACCESS = 34,
    CREATE = 35,
    INTERRUPT = 36,
    BMAP = 37,
    DESTROY = 38,
    IOCTL = 39,
    POLL = 40,
    NOTIFY_REPLY = 41,
    BATCH_FORGET = 42,
    FALLOCATE = 43,
    READDIRPLUS = 44,
    RENAME2 = 45,
    LSEEK = 46,
    COPY_FILE_RANGE = 47,
    SYNCFS = 50,
    TMPFILE = 51,
    STATX = 52,
    COPY_FILE_RANGE_64 = 53,
);

/// One more than the largest opcode in use.
pub(crate) const OPCODES: usize = 54;

/// `fuse_setattr_in.valid`: which fields are meant.
pub(crate) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const FH: u32 = 1 << 6;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// `fuse_open_out.open_flags`: how the kernel must treat an open file.
pub(crate) mod fopen {
    pub(crate) const DIRECT_IO: u32 = 1 << 0;
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
}

/// `fuse_open_in.open_flags`: clear set-id bits while truncating.
pub(crate) const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `fuse_write_in.write_flags`: dirty pages of the cache; the handle is guessed.
pub(crate) const WRITE_CACHE: u32 = 1 << 0;
/// `fuse_write_in.write_flags`: clear set-id bits.
pub(crate) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `fuse_release_in.release_flags`: the file held a `flock` lock.
pub(crate) const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
/// `fuse_fsync_in.fsync_flags`: `fdatasync`.
pub(crate) const FSYNC_FDATASYNC: u32 = 1 << 0;
/// `fuse_lk_in.lk_flags`: `flock` rather than a POSIX lock.
pub(crate) const LK_FLOCK: u32 = 1 << 0;
/// `fuse_setxattr_in.setxattr_flags`: also clear the set-group-id bit.
pub(crate) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// Size of `fuse_setxattr_in` for a peer without `FUSE_SETXATTR_EXT`, in bytes.
pub(crate) const COMPAT_SETXATTR_IN_SIZE: usize = 8;

/// Codes of unasked-for messages to the kernel (`enum fuse_notify_code`), sent in `OutHeader::error`.
pub(crate) mod notify {
    pub(crate) const INVAL_INODE: i32 = 2;
    pub(crate) const RETRIEVE: i32 = 5;
    pub(crate) const INC_EPOCH: i32 = 8;
}

/// `_IOR(229, 0, uint32_t)`: makes another descriptor of `/dev/fuse` serve the same mount.
pub(crate) const DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;

/// Commands of FUSE over io_uring (`enum fuse_uring_cmd`), and how `fuse_uring_req_header` lies in memory, in bytes.
pub(crate) mod uring {
    pub(crate) const REGISTER: u32 = 1;
    pub(crate) const COMMIT_AND_FETCH: u32 = 2;
    /// `in_out` is at the start: the header of the request, then that of the answer.
    pub(crate) const OP_IN: usize = 128;
    /// Room for the fixed arguments of a request.
    pub(crate) const OP_IN_SIZE: usize = 128;
    pub(crate) const ENT_IN_OUT: usize = 256;
    pub(crate) const REQ_HEADER_SIZE: usize = 288;
    /// Buffers of a place: header and payload (`FUSE_URING_IOV_SEGS`).
    pub(crate) const IOV_SEGS: u32 = 2;
}

/// Directory records are padded to this many bytes.
pub(crate) const DIRENT_ALIGN: usize = 8;

wire! {
    struct InHeader {
        len: u32,
        opcode: u32,
        unique: u64,
        nodeid: u64,
        uid: u32,
        gid: u32,
        pid: u32,
        /// Length of extensions behind the arguments, in units of 8 bytes.
        total_extlen: u16,
        padding: u16,
    }

    struct OutHeader {
        len: u32,
        /// Negative errno, 0, or the code of a notification (then `unique` is 0).
        error: i32,
        unique: u64,
    }

    struct Attr {
        ino: u64,
        size: u64,
        blocks: u64,
        atime: i64,
        mtime: i64,
        ctime: i64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: u32,
    }

    struct EntryOut {
        nodeid: u64,
        generation: u64,
        entry_valid: u64,
        attr_valid: u64,
        entry_valid_nsec: u32,
        attr_valid_nsec: u32,
        attr: Attr,
    }

    struct AttrOut {
        attr_valid: u64,
        attr_valid_nsec: u32,
        dummy: u32,
        attr: Attr,
    }

    struct StatxTime {
        tv_sec: i64,
        tv_nsec: u32,
        reserved: i32,
    }

    struct Statx {
        mask: u32,
        blksize: u32,
        attributes: u64,
        nlink: u32,
        uid: u32,
        gid: u32,
        mode: u16,
        spare0: u16,
        ino: u64,
        size: u64,
        blocks: u64,
        attributes_mask: u64,
        atime: StatxTime,
        btime: StatxTime,
        ctime: StatxTime,
        mtime: StatxTime,
        rdev_major: u32,
        rdev_minor: u32,
        dev_major: u32,
        dev_minor: u32,
        spare2: [u64; 14],
    }

    struct StatxOut {
        attr_valid: u64,
        attr_valid_nsec: u32,
        flags: u32,
        spare: [u64; 2],
        stat: Statx,
    }

    struct ForgetIn { nlookup: u64 }
    struct ForgetOne { nodeid: u64, nlookup: u64 }
    struct BatchForgetIn { count: u32, dummy: u32 }
    struct MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    struct MkdirIn { mode: u32, umask: u32 }
    struct RenameIn { newdir: u64 }
    struct Rename2In { newdir: u64, flags: u32, padding: u32 }
    struct LinkIn { oldnodeid: u64 }

    struct SetattrIn {
        valid: u32,
        padding: u32,
        fh: u64,
        size: u64,
        lock_owner: u64,
        atime: i64,
        mtime: i64,
        ctime: i64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        unused4: u32,
        uid: u32,
        gid: u32,
        unused5: u32,
    }

    struct OpenIn { flags: u32, open_flags: u32 }
    struct CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    struct OpenOut { fh: u64, open_flags: u32, backing_id: u32 }
    struct ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    struct FlushIn { fh: u64, unused: u32, padding: u32, lock_owner: u64 }

    struct ReadIn {
        fh: u64,
        offset: u64,
        size: u32,
        read_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }

    struct WriteIn {
        fh: u64,
        offset: u64,
        size: u32,
        write_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }

    struct WriteOut { size: u32, padding: u32 }

    struct StatfsOut {
        blocks: u64,
        bfree: u64,
        bavail: u64,
        files: u64,
        ffree: u64,
        bsize: u32,
        namelen: u32,
        frsize: u32,
        padding: u32,
        spare: [u32; 6],
    }

    struct FsyncIn { fh: u64, fsync_flags: u32, padding: u32 }
    struct SetxattrIn { size: u32, flags: u32, setxattr_flags: u32, padding: u32 }
    struct GetxattrIn { size: u32, padding: u32 }
    struct GetxattrOut { size: u32, padding: u32 }
    struct FileLock { start: u64, end: u64, kind: u32, pid: u32 }
    struct LkIn { fh: u64, owner: u64, lk: FileLock, lk_flags: u32, padding: u32 }
    struct LkOut { lk: FileLock }
    struct InterruptIn { unique: u64 }
    struct FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    struct LseekIn { fh: u64, offset: u64, whence: u32, padding: u32 }
    struct LseekOut { offset: u64 }

    struct CopyFileRangeIn {
        fh_in: u64,
        off_in: u64,
        nodeid_out: u64,
        fh_out: u64,
        off_out: u64,
        len: u64,
        flags: u64,
    }

    struct CopyFileRangeOut { bytes_copied: u64 }
    struct Dirent { ino: u64, off: u64, namelen: u32, kind: u32 }
    struct NotifyInvalInodeOut { ino: u64, off: i64, len: i64 }
    struct NotifyRetrieveOut { unique: u64, ino: u64, offset: u64, size: u32, padding: u32 }

    struct UringEntInOut {
        flags: u64,
        commit_id: u64,
        /// Bytes in the payload buffer.
        payload_sz: u32,
        padding: u32,
        reserved: u64,
    }

    struct UringCmdReq { flags: u64, commit_id: u64, qid: u16, padding: [u8; 6] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernel_header() {
        assert_eq!(size_of::<InHeader>(), 40);
        assert_eq!(size_of::<OutHeader>(), 16);
        assert_eq!(size_of::<Attr>(), 88);
        assert_eq!(size_of::<EntryOut>(), 128);
        assert_eq!(size_of::<AttrOut>(), 104);
        assert_eq!(size_of::<Statx>(), 256);
        assert_eq!(size_of::<StatxOut>(), 288);
        assert_eq!(size_of::<SetattrIn>(), 88);
        assert_eq!(size_of::<WriteIn>(), 40);
        assert_eq!(size_of::<StatfsOut>(), 80);
        assert_eq!(size_of::<LkIn>(), 48);
        assert_eq!(size_of::<CopyFileRangeIn>(), 56);
        assert_eq!(size_of::<Dirent>(), 24);
        assert_eq!(uring::ENT_IN_OUT + size_of::<UringEntInOut>(), uring::REQ_HEADER_SIZE);
        assert_eq!(size_of::<UringCmdReq>(), 24);
    }
}
