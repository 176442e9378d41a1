//! What both transports do with a request once its bytes are in memory: make it typed, take what a write brings, and
//! have it served.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cairn_client::api::FileSystem;
use cairn_types::FsResult;

use crate::abi;
use crate::answer::{Answer, Target};
use crate::buffer::{Buffer, BufferPool};
use crate::decode::{Dialect, Operation, Span, decode, decode_header};
use crate::dispatch::dispatch;

/// Room for header and arguments in front of the data of a write, in bytes.
pub(crate) const HEADER_ROOM: usize = 4096;

/// Free buffers that are kept for each mount beyond those of the threads.
const SPARE_BUFFERS: usize = 16;

/// What every thread of a mount needs.
pub(crate) struct Service<F> {
    file_system: F,
    dialect: Dialect,
    buffers: Arc<BufferPool>,
    /// A write of at least this many bytes keeps a whole buffer. Half of one: keeping a smaller write in it would keep
    /// more unused room than content.
    own_buffer: usize,
}

/// A request of the kernel's, not yet served. It must be: each wants its answer.
#[must_use]
pub(crate) struct Request {
    header: abi::InHeader,
    operation: FsResult<Operation>,
    started: Instant,
}

impl<F: FileSystem> Service<F> {
    /// `max_write`: the longest write that was agreed on, in bytes.
    pub(crate) fn new(file_system: F, dialect: Dialect, max_write: usize) -> Self {
        let buffers = BufferPool::new(max_write + HEADER_ROOM, SPARE_BUFFERS);
        Service { file_system, dialect, buffers, own_buffer: max_write.div_ceil(2) }
    }

    /// A buffer that holds the largest request.
    pub(crate) fn take_buffer(&self) -> Buffer {
        self.buffers.take()
    }

    /// Makes the bytes of a request typed; `None` if they do not even have a whole header.
    pub(crate) fn read(&self, message: &[u8]) -> Option<Request> {
        let started = Instant::now();
        let Some(header) = decode_header(message) else {
            tracing::error!(length = message.len(), "the kernel sent a request without a whole header");
            return None;
        };
        Some(Request { header, operation: decode(&header, message, self.dialect), started })
    }

    /// The bytes of a write in `message`, copied.
    pub(crate) fn copy_data(&self, request: &Request, message: &[u8]) -> Bytes {
        let Some(span) = request.data() else { return Bytes::new() };
        let content = message.get(span.start..span.start + span.length).unwrap_or_default();
        if content.len() < self.own_buffer {
            return Bytes::copy_from_slice(content);
        }
        let mut buffer = self.buffers.take();
        let length = content.len();
        match buffer.as_mut().get_mut(..length) {
            Some(room) => {
                room.copy_from_slice(content);
                Bytes::from_owner(buffer).slice(..length)
            }
            None => Bytes::copy_from_slice(content),
        }
    }

    /// The bytes of a write in `buffer`, which a large one takes with it, leaving another.
    pub(crate) fn take_data(&self, request: &Request, buffer: &mut Buffer) -> Bytes {
        match request.data() {
            Some(span) if span.length >= self.own_buffer => {
                let full = std::mem::replace(buffer, self.buffers.take());
                Bytes::from_owner(full).slice(span.start..span.start + span.length)
            }
            _ => self.copy_data(request, buffer.as_ref()),
        }
    }

    /// Serves `request` with the `data` that it brings. Returns at once; the answer may come later from a task.
    pub(crate) fn serve(&self, request: Request, data: Bytes, target: Target) {
        let answer = Answer::new(target, &request.header, request.started);
        match request.operation {
            Ok(operation) => dispatch(&self.file_system, answer, &request.header, operation, data),
            Err(_) if is_unanswerable(request.header.opcode) => answer.serve_silently(|| {}),
            Err(errno) => answer.send(Err(errno.into())),
        }
    }
}

impl Request {
    /// Whether it may wait for ever, as far as this side is concerned: for a lock that somebody else holds.
    pub(crate) fn waits_for_a_lock(&self) -> bool {
        matches!(self.operation, Ok(Operation::Setlk { wait: true, .. }))
    }

    /// Has the request refused instead of served.
    pub(crate) fn refuse(&mut self, errno: cairn_types::Errno) {
        self.operation = Err(errno);
    }

    fn data(&self) -> Option<Span> {
        match self.operation {
            Ok(Operation::Write { data, .. }) => Some(data),
            _ => None,
        }
    }
}

/// Requests that the kernel does not wait for: an answer would be an error.
fn is_unanswerable(opcode: u32) -> bool {
    use abi::opcode::{BATCH_FORGET, FORGET, INTERRUPT, NOTIFY_REPLY};
    matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT | NOTIFY_REPLY)
}
