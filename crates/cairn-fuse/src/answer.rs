//! Every request is answered exactly once, whatever happens: an answer that is dropped unsent says `EIO`.
//!
//! Also the way a request runs: its future is polled once on the thread that read it, where a cached answer is ready at
//! once; only what must wait becomes a task. A panic in a handler becomes `EIO` and a log line here, and nowhere else.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use cairn_types::{Errno, FsResult};

use crate::abi::{self, opcode_name};
use crate::device::Device;
use crate::interrupt::{Interrupts, Patience};
use crate::owners::LockOwners;
use crate::reply::Reply;
use crate::stats::Statistics;

/// What all queues of a mount share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) statistics: Statistics,
    pub(crate) interrupts: Interrupts,
    pub(crate) lock_owners: LockOwners,
    pub(crate) runtime: tokio::runtime::Handle,
}

/// One queue: the descriptor from which a thread reads and to which its answers go.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) device: Device,
    pub(crate) shared: Arc<Shared>,
}

/// The duty to answer one request.
#[derive(Debug)]
pub(crate) struct Answer {
    queue: Arc<Queue>,
    opcode: u32,
    unique: u64,
    pid: u32,
    started: Instant,
    spawned: bool,
    sent: bool,
}

impl Answer {
    pub(crate) fn new(queue: &Arc<Queue>, header: &abi::InHeader, started: Instant) -> Self {
        Answer {
            queue: Arc::clone(queue),
            opcode: header.opcode,
            unique: header.unique,
            pid: header.pid,
            started,
            spawned: false,
            sent: false,
        }
    }

    pub(crate) fn send(mut self, outcome: FsResult<Reply>) {
        self.write(&outcome.unwrap_or_else(Reply::Error));
    }

    /// Runs `future` to its end, here if that takes one step, and sends what comes out.
    pub(crate) fn send_when_ready<F>(mut self, patience: Patience, future: F)
    where
        F: Future<Output = FsResult<Reply>> + Send + 'static,
    {
        let mut future = CatchPanic { future: Box::pin(future), opcode: self.opcode };
        // Nobody needs to be woken: a future that is not ready is polled again by its task.
        match Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => self.send(outcome),
            Poll::Pending => {
                self.spawned = true;
                let shared = Arc::clone(&self.queue.shared);
                shared.runtime.clone().spawn(async move {
                    let outcome = tokio::select! {
                        biased;
                        outcome = future => outcome,
                        () = shared.interrupts.given_up(self.unique, self.pid, patience) => Err(Errno::EINTR),
                    };
                    self.send(outcome);
                });
            }
        }
    }

    fn write(&mut self, reply: &Reply) {
        self.sent = true;
        if let Err(error) = self.try_write(reply) {
            // With these the request is gone: its caller was killed or the mount ended.
            let gone = [libc::ENOENT, libc::ENODEV, libc::ECONNABORTED, libc::EPERM];
            if !error.raw_os_error().is_some_and(|errno| gone.contains(&errno)) {
                let request = opcode_name(self.opcode).unwrap_or("unknown");
                tracing::error!(request, %error, "the kernel refused an answer; the request fails with EIO");
                let _ = self.try_write(&Reply::Error(Errno::EIO));
            }
        }
        let failed = matches!(reply, Reply::Error(_));
        self.queue.shared.statistics.record(self.opcode, self.started.elapsed(), self.spawned, failed);
    }

    fn try_write(&self, reply: &Reply) -> std::io::Result<()> {
        reply.with_slices(self.unique, |slices| self.queue.device.write(slices))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.sent {
            self.write(&Reply::Error(Errno::EIO));
        }
    }
}

/// A future whose panic is an outcome: `EIO`. Not to be polled after it was ready.
struct CatchPanic<F> {
    future: Pin<Box<F>>,
    opcode: u32,
}

impl<F: Future<Output = FsResult<Reply>>> Future for CatchPanic<F> {
    type Output = FsResult<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let opcode = self.opcode;
        // What a panic leaves behind half-done is behind the file system's own locks, which are not poisoned.
        match catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(context))) {
            Ok(poll) => poll,
            Err(panic) => {
                log_panic(opcode, panic.as_ref());
                Poll::Ready(Err(Errno::EIO))
            }
        }
    }
}

/// Calls what answers nothing (`forget`) and survives its panic.
pub(crate) fn call_silently(opcode: u32, call: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        log_panic(opcode, panic.as_ref());
    }
}

fn log_panic(opcode: u32, panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    let request = opcode_name(opcode).unwrap_or("unknown");
    tracing::error!(request, panic = text, "a request made its handler panic");
}
