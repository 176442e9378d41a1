//! Every request is answered exactly once, whatever happens: an answer that is dropped unsent says `EIO`.
//!
//! Also the way a request runs: its future is polled on the thread that read it, where a cached answer is ready at once; only
//! what must wait becomes a task, when what it waits for is there. A panic in a handler becomes `EIO` and a log line here, and nowhere else.

use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use cairn_client::FsResult;
use cairn_runtime::spawn_inline;
use cairn_types::Errno;

use crate::abi::{self, opcode_name};
use crate::device::Device;
use crate::interrupt::{Interrupts, Patience};
use crate::owners::LockOwners;
use crate::reply::Reply;
use crate::stats::Statistics;
use crate::uring::{Returns, Slot};

/// What all queues of one mount work with.
#[derive(Debug)]
pub(crate) struct MountContext {
    pub(crate) statistics: Statistics,
    pub(crate) interrupts: Interrupts,
    pub(crate) lock_owners: LockOwners,
    pub(crate) runtime: tokio::runtime::Handle,
}

/// One classic queue: the descriptor from which a thread reads and to which its answers go.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) device: Device,
    pub(crate) shared: Arc<MountContext>,
}

/// Where the answer to one request goes.
#[derive(Debug)]
pub(crate) enum Target {
    Classic(Arc<Queue>),
    /// The place in a ring that the request came in, and the thread that gives it back to the kernel.
    Ring(Arc<Returns>, Slot),
}

impl Target {
    fn shared(&self) -> &Arc<MountContext> {
        match self {
            Target::Classic(queue) => &queue.shared,
            Target::Ring(returns, _) => returns.shared(),
        }
    }

    fn put(&mut self, unique: u64, reply: &Reply) -> io::Result<()> {
        reply.with_slices(unique, |slices| match self {
            Target::Classic(queue) => queue.device.write(slices),
            Target::Ring(_, slot) => slot.put_answer(slices),
        })
    }
}

/// The duty to answer one request.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Gone once the answer is on its way.
    target: Option<Target>,
    shared: Arc<MountContext>,
    opcode: u32,
    unique: u64,
    pid: u32,
    started: Instant,
    spawned: bool,
}

impl Answer {
    pub(crate) fn new(target: Target, header: &abi::InHeader, started: Instant) -> Self {
        Answer {
            shared: Arc::clone(target.shared()),
            target: Some(target),
            opcode: header.opcode,
            unique: header.unique,
            pid: header.pid,
            started,
            spawned: false,
        }
    }

    pub(crate) fn shared(&self) -> &MountContext {
        &self.shared
    }

    /// Serves a request that wants no answer (`forget`), and survives its panic.
    pub(crate) fn serve_silently(mut self, call: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
            log_panic(self.opcode, panic.as_ref());
        }
        match self.target.take() {
            // The kernel sends these through the classic queue; if it ever did not, a place must still come back.
            Some(target @ Target::Ring(..)) => {
                self.target = Some(target);
                self.write(&Reply::Done);
            }
            _ => self.shared.statistics.record(self.opcode, self.started.elapsed(), false, false),
        }
    }

    /// The one place where an error becomes an error number: the kernel takes nothing else. What it says beyond that goes to
    /// the log, and its kind is counted.
    pub(crate) fn send(mut self, outcome: FsResult<Reply>) {
        let reply = outcome.unwrap_or_else(|error| {
            self.shared.statistics.record_error(error.kind());
            if let Some(sentence) = error.sentence() {
                let request = opcode_name(self.opcode).unwrap_or("unknown");
                let (pid, errno, kind) = (self.pid, error.errno(), error.kind());
                tracing::debug!(request, pid, ?errno, ?kind, "{sentence}");
            }
            Reply::Error(error.errno())
        });
        self.write(&reply);
    }

    /// Runs `future` to its end, here if that takes one step, and sends what comes out.
    pub(crate) fn send_when_ready<F>(mut self, patience: Patience, future: F)
    where
        F: Future<Output = FsResult<Reply>> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let mut future = CatchPanic { future: Box::pin(future), opcode: self.opcode };
        spawn_inline(&shared.runtime.clone(), async move {
            // Most answers are ready at once; only who waits can be given up.
            let outcome = match poll_fn(|context| Poll::Ready(Pin::new(&mut future).poll(context))).await {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => {
                    self.spawned = true;
                    tokio::select! {
                        biased;
                        outcome = future => outcome,
                        () = shared.interrupts.given_up(self.unique, self.pid, patience) => Err(Errno::EINTR.into()),
                    }
                }
            };
            self.send(outcome);
        });
    }

    fn write(&mut self, reply: &Reply) {
        let Some(mut target) = self.target.take() else { return };
        // Before the answer leaves: who has it finds it counted.
        let failed = matches!(reply, Reply::Error(_));
        self.shared.statistics.record(self.opcode, self.started.elapsed(), self.spawned, failed);
        if let Err(error) = target.put(self.unique, reply) {
            // With these the request is gone: its caller was killed or the mount ended.
            let gone = [libc::ENOENT, libc::ENODEV, libc::ECONNABORTED, libc::EPERM];
            if !error.raw_os_error().is_some_and(|errno| gone.contains(&errno)) {
                let request = opcode_name(self.opcode).unwrap_or("unknown");
                tracing::error!(request, %error, "the kernel refused an answer; the request fails with EIO");
                let _ = target.put(self.unique, &Reply::Error(Errno::EIO));
            }
        }
        if let Target::Ring(returns, slot) = target {
            returns.give_back(slot);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.write(&Reply::Error(Errno::EIO));
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
                Poll::Ready(Err(Errno::EIO.into()))
            }
        }
    }
}

fn log_panic(opcode: u32, panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    let request = opcode_name(opcode).unwrap_or("unknown");
    tracing::error!(request, panic = text, "a request made its handler panic");
}
