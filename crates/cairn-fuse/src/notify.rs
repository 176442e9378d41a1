//! Emptying the kernel's caches: the notifications by which a recalled lease reaches the page and name caches.

use std::io::{self, IoSlice};
use std::ops::Range;

use cairn_client::api::KernelCache;
use cairn_types::Ino;
use zerocopy::IntoBytes;

use crate::abi::{self, notify};
use crate::device::Device;

/// Number of the request that [`ask_for_a_request`] causes: even, as the kernel's own, and far beyond them.
const RETRIEVAL: u64 = 1 << 62;

/// The kernel's caches of one mount.
#[derive(Debug)]
pub(crate) struct Notifier {
    device: Device,
    can_expire_entries: bool,
}

impl Notifier {
    /// Finds out by trying whether the kernel knows epochs (Linux 6.16): a fresh mount has no name to lose.
    pub(crate) fn new(device: Device) -> Self {
        let can_expire_entries = notify_kernel(&device, notify::INC_EPOCH, &[]).is_ok();
        Notifier { device, can_expire_entries }
    }

    /// Whether the kernel knew the node.
    fn invalidate(&self, ino: Ino, off: i64, len: i64) -> bool {
        let message = abi::NotifyInvalInodeOut { ino: ino.0, off, len };
        match notify_kernel(&self.device, notify::INVAL_INODE, message.as_bytes()) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
            // The mount has ended: nothing is cached, and nothing will be.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ENODEV)) => true,
            Err(error) => {
                tracing::warn!(%ino, %error, "the kernel did not drop its cache of a node");
                true
            }
        }
    }
}

impl KernelCache for Notifier {
    fn invalidate_range(&self, ino: Ino, range: Range<u64>) {
        let Ok(start) = i64::try_from(range.start) else { return };
        // Length 0: up to the end, however far that is.
        let length = i64::try_from(range.end).map_or(0, |end| end.saturating_sub(start));
        self.invalidate(ino, start, length);
    }

    fn invalidate_attr(&self, ino: Ino) -> bool {
        // A negative offset leaves the pages alone.
        self.invalidate(ino, -1, 0)
    }

    fn expire_entries(&self) {
        if self.can_expire_entries
            && let Err(error) = notify_kernel(&self.device, notify::INC_EPOCH, &[])
        {
            tracing::debug!(%error, "names could not be expired: the mount has ended");
        }
    }

    fn can_expire_entries(&self) -> bool {
        self.can_expire_entries
    }
}

/// Makes the kernel ask something of the queue of the CPU that this runs on: no byte of
/// `file`, which must be a regular file that the kernel knows (`FUSE_NOTIFY_REPLY`).
pub(crate) fn ask_for_a_request(device: &Device, file: u64) -> io::Result<()> {
    let message = abi::NotifyRetrieveOut { unique: RETRIEVAL, ino: file, offset: 0, size: 0, padding: 0 };
    notify_kernel(device, notify::RETRIEVE, message.as_bytes())
}

/// A notification is an answer to request 0 with a code instead of an error.
fn notify_kernel(device: &Device, code: i32, content: &[u8]) -> io::Result<()> {
    let length = size_of::<abi::OutHeader>() + content.len();
    let header = abi::OutHeader { len: length as u32, error: code, unique: 0 };
    let slices = [IoSlice::new(header.as_bytes()), IoSlice::new(content)];
    device.write(if content.is_empty() { slices.get(..1).unwrap_or_default() } else { &slices })
}
