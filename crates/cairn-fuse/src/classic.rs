//! The classic transport: threads that read requests from descriptors of `/dev/fuse`, one request a read.
//!
//! Beside io_uring it goes on with one thread, because forgets and interrupts come no other way.

use std::io;
use std::sync::Arc;

use cairn_client::api::FileSystem;

use crate::answer::{Queue, Target};
use crate::service::Service;

/// Serves `queue` until the mount ends.
///
/// # Errors
/// Any error of reading that is not the end of the mount.
pub(crate) fn serve<F: FileSystem>(service: &Service<F>, queue: &Arc<Queue>) -> io::Result<()> {
    let runtime = queue.shared.runtime.clone();
    let _context = runtime.enter();
    let mut buffer = service.take_buffer();
    loop {
        match queue.device.read(buffer.as_mut()) {
            Ok(length) => {
                let message = buffer.as_ref().get(..length).unwrap_or_default();
                if let Some(request) = service.read(message) {
                    let data = service.take_data(&request, &mut buffer);
                    service.serve(request, data, Target::Classic(Arc::clone(queue)));
                }
            }
            Err(error) => match error.raw_os_error() {
                // ENOENT: the request was taken back before it could be read.
                Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => {}
                Some(libc::ENODEV | libc::ECONNABORTED) => return Ok(()),
                _ => return Err(error),
            },
        }
    }
}
