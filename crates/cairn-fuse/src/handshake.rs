//! What is agreed on with the kernel when a mount begins (`FUSE_INIT`), through `fuser`, which then steps aside.

use std::io;
use std::sync::{Arc, OnceLock};

use fuser::{InitFlags, KernelConfig, Request};

use crate::decode::Dialect;

/// Longest write and read, in bytes: 256 pages, the kernel's own limit (`fs.fuse.max_pages_limit`).
pub(crate) const MAX_WRITE: u32 = 1024 * 1024;

/// Requests that nobody waits for (read-ahead, asynchronous direct I/O) which the kernel may have under way.
const MAX_BACKGROUND: u16 = 128;

/// Capabilities that Cairn wants; each is used if the kernel has it.
///
/// Not wanted: `WRITEBACK_CACHE` (it keeps sizes and times to itself, which breaks sharing), `AUTO_INVAL_DATA` (leases
/// say when cached pages are stale), `EXPORT_SUPPORT` (lookups of `..`).
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_POSIX_LOCKS)
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_FLOCK_LOCKS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_SETXATTR_EXT)
    .union(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP)
    .union(InitFlags::FUSE_NO_EXPORT_SUPPORT);

/// The `fuser` file system that only shakes hands.
#[derive(Debug)]
pub(crate) struct Handshake {
    agreed: Arc<OnceLock<InitFlags>>,
    wanted: InitFlags,
}

impl Handshake {
    /// The second part tells what was agreed on once the session exists. With `uring`, requests wait from then on until
    /// rings are registered.
    pub(crate) fn new(uring: bool) -> (Self, Agreement) {
        let agreed = Arc::new(OnceLock::new());
        let wanted = if uring { WANTED | InitFlags::FUSE_OVER_IO_URING } else { WANTED };
        (Handshake { agreed: Arc::clone(&agreed), wanted }, Agreement { agreed })
    }
}

impl fuser::Filesystem for Handshake {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let agreed = config.capabilities() & self.wanted;
        let missing = self.wanted - agreed;
        if !missing.is_empty() {
            tracing::warn!(?missing, "the kernel lacks capabilities; some operations are slower or refused");
        }
        // None of these can fail: the flags are a subset of the kernel's and the sizes are within fuser's bounds.
        let accepted = config.add_capabilities(agreed).is_ok()
            && config.set_max_write(MAX_WRITE).is_ok()
            && config.set_max_background(MAX_BACKGROUND).is_ok();
        if !accepted {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        // A second call could only repeat the first.
        let _ = self.agreed.set(agreed);
        Ok(())
    }
}

/// Outcome of the handshake.
#[derive(Debug)]
pub(crate) struct Agreement {
    agreed: Arc<OnceLock<InitFlags>>,
}

impl Agreement {
    /// How requests look from now on.
    pub(crate) fn dialect(&self) -> Dialect {
        Dialect { extended_setxattr: self.has(InitFlags::FUSE_SETXATTR_EXT) }
    }

    /// Whether requests come through rings.
    pub(crate) fn uring(&self) -> bool {
        self.has(InitFlags::FUSE_OVER_IO_URING)
    }

    fn has(&self, flag: InitFlags) -> bool {
        self.agreed.get().is_some_and(|agreed| agreed.contains(flag))
    }
}
