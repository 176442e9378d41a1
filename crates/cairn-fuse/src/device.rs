//! Descriptors of `/dev/fuse`: read a request, write an answer or a notification, make one more queue.
//!
//! Each cloned descriptor is a queue of its own inside the kernel: an answer must be written to the descriptor from
//! which the request was read. Notifications may use any.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use crate::abi;

/// Path of the device that every FUSE mount is served through.
pub(crate) const DEVICE_PATH: &str = "/dev/fuse";

/// One descriptor of a mount.
#[derive(Debug)]
pub(crate) struct Device {
    file: File,
}

impl Device {
    /// Another descriptor of the same queue.
    pub(crate) fn duplicate(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Device { file: File::from(descriptor.try_clone_to_owned()?) })
    }

    /// A new queue of the same mount; where the kernel or the permissions of `/dev/fuse` forbid it, another descriptor
    /// of the same queue.
    pub(crate) fn new_queue(&self) -> io::Result<Self> {
        match self.clone_queue() {
            Ok(device) => Ok(device),
            Err(error) => {
                tracing::debug!(%error, "no further queue of /dev/fuse: threads share one");
                Ok(Device { file: self.file.try_clone()? })
            }
        }
    }

    fn clone_queue(&self) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(DEVICE_PATH)?;
        let source = self.file.as_raw_fd() as u32;
        // SAFETY: both descriptors are open, and the request reads one u32 through a pointer that is valid for it.
        let outcome = unsafe { libc::ioctl(file.as_raw_fd(), abi::DEV_IOC_CLONE, &raw const source) };
        if outcome == 0 { Ok(Device { file }) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for the next request; its length in bytes. `buffer` must hold the largest one.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// The descriptor's number, for commands of io_uring.
    pub(crate) fn number(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Writes one message whole: the kernel takes all slices or none.
    pub(crate) fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(slices).map(drop)
    }
}
