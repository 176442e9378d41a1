//! The classic transport: threads that read requests from descriptors of `/dev/fuse`, one request a read.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cairn_client::api::FileSystem;

use crate::abi;
use crate::answer::{Answer, Queue};
use crate::buffer::{Buffer, BufferPool};
use crate::decode::{Dialect, Operation, decode, decode_header};
use crate::dispatch::dispatch;

/// Room for header and arguments in front of the data of a write, in bytes.
const HEADER_ROOM: usize = 4096;

/// Free buffers that are kept for each mount beyond those of the threads.
const SPARE_BUFFERS: usize = 16;

/// What every queue thread of a mount needs.
pub(crate) struct Classic<F> {
    file_system: F,
    dialect: Dialect,
    buffers: Arc<BufferPool>,
    /// A write of at least this many bytes takes the buffer with it. Half the buffer: keeping a smaller write in
    /// memory would keep more unused room than content.
    hand_over: usize,
}

impl<F: FileSystem> Classic<F> {
    /// `max_write`: the longest write that was agreed on, in bytes.
    pub(crate) fn new(file_system: F, dialect: Dialect, max_write: usize) -> Self {
        let buffers = BufferPool::new(max_write + HEADER_ROOM, SPARE_BUFFERS);
        Classic { file_system, dialect, buffers, hand_over: max_write.div_ceil(2) }
    }

    /// Serves `queue` until the mount ends.
    ///
    /// # Errors
    /// Any error of reading that is not the end of the mount.
    pub(crate) fn serve(&self, queue: &Arc<Queue>) -> io::Result<()> {
        let runtime = queue.shared.runtime.clone();
        let _context = runtime.enter();
        let mut buffer = self.buffers.take();
        loop {
            match queue.device.read(buffer.as_mut()) {
                Ok(length) => self.serve_one(queue, &mut buffer, length),
                Err(error) => match error.raw_os_error() {
                    // ENOENT: the request was taken back before it could be read.
                    Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => {}
                    Some(libc::ENODEV | libc::ECONNABORTED) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
    }

    fn serve_one(&self, queue: &Arc<Queue>, buffer: &mut Buffer, length: usize) {
        let started = Instant::now();
        let message = buffer.as_ref().get(..length).unwrap_or_default();
        let Some(header) = decode_header(message) else {
            tracing::error!(length, "the kernel sent a request without a whole header");
            return;
        };
        match decode(&header, message, self.dialect) {
            Ok(operation) => {
                let data = self.take_data(&operation, buffer);
                dispatch(&self.file_system, queue, &header, operation, data, started);
            }
            Err(_) if is_unanswerable(header.opcode) => {}
            Err(errno) => Answer::new(queue, &header, started).send(Err(errno)),
        }
    }

    /// The bytes of a write: large ones with the buffer that holds them, small ones copied.
    fn take_data(&self, operation: &Operation, buffer: &mut Buffer) -> Bytes {
        let Operation::Write { data: span, .. } = operation else { return Bytes::new() };
        let range = span.start..span.start + span.length;
        if span.length >= self.hand_over {
            let full = std::mem::replace(buffer, self.buffers.take());
            Bytes::from_owner(full).slice(range)
        } else {
            Bytes::copy_from_slice(buffer.as_ref().get(range).unwrap_or_default())
        }
    }
}

/// Requests that the kernel does not wait for: an answer would be an error.
fn is_unanswerable(opcode: u32) -> bool {
    use abi::opcode::{BATCH_FORGET, FORGET, INTERRUPT, NOTIFY_REPLY};
    matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT | NOTIFY_REPLY)
}
