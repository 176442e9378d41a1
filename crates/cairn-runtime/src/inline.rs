//! Running a future on the thread that has it for as long as it need not wait, and as a task from then on.
//!
//! A task that is spawned from outside the runtime wakes a worker, and that worker often another, before anything has happened. What
//! only sends a request and waits for the answer is better begun at once, and taken up by the worker that receives the
//! answer: one hand-over less each way.

use std::future::Future;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use cairn_locks::Mutex;
use tokio::runtime::Handle;
use tokio::task::unconstrained;

use crate::lock_order;

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Polls `future` here and now. If it has to wait, it becomes a task of `runtime` when it is woken for the first time.
///
/// The first poll is over when this returns: futures that are started one after the other begin in that order.
///
/// Whatever `future` waits for holds it until then: if that is dropped without waking, so is `future`. Something that
/// `future` itself keeps alive must wake it some day, for the end of the runtime does not drop what is no task yet.
pub fn spawn_inline(runtime: &Handle, future: impl Future<Output = ()> + Send + 'static) {
    // What begins here takes locks of its own, whichever they are.
    cairn_locks::assert_none_held();
    let waiter = Arc::new(Waiter { runtime: runtime.clone(), state: Mutex::new(State::Polled) });
    let mut future: Boxed = Box::pin(future);
    let waker = Waker::from(Arc::clone(&waiter));
    let polled = {
        // Timers are made in the context of their runtime.
        let _context = runtime.enter();
        // The caller may be a task whose turn is used up: without this, tokio's own futures would not begin at all here.
        let mut first = pin!(unconstrained(future.as_mut()));
        first.as_mut().poll(&mut Context::from_waker(&waker))
    };
    if polled.is_ready() {
        return;
    }
    let mut state = waiter.state.lock();
    match *state {
        State::Polled => *state = State::Waits(future),
        State::Waits(_) | State::Woken => {
            drop(state);
            runtime.spawn(future);
        }
    }
}

struct Waiter {
    runtime: Handle,
    state: Mutex<State, lock_order::InlineStart>,
}

enum State {
    /// Being polled for the first time.
    Polled,
    Waits(Boxed),
    /// It is a task by now, or will be made one by whoever polls it.
    Woken,
}

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = mem::replace(&mut *self.state.lock(), State::Woken);
        if let State::Waits(future) = before {
            self.runtime.spawn(future);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap()
    }

    #[test]
    fn what_need_not_wait_is_done_here() {
        let runtime = runtime();
        let (sender, receiver) = std::sync::mpsc::channel();
        spawn_inline(runtime.handle(), async move { sender.send(thread::current().id()).unwrap() });
        assert_eq!(receiver.try_recv().unwrap(), thread::current().id());
    }

    #[test]
    fn what_waits_goes_on_in_the_runtime_whoever_wakes_it() {
        let runtime = runtime();
        for _ in 0..200 {
            let (first, first_seen) = oneshot::channel();
            let (second, second_seen) = oneshot::channel();
            let (done, outcome) = std::sync::mpsc::channel();
            // The wake-up races with the first poll.
            let waker = thread::spawn(move || first.send(1).unwrap());
            spawn_inline(runtime.handle(), async move {
                let sum = first_seen.await.unwrap() + second_seen.await.unwrap();
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_micros(10)).await;
                done.send(sum).unwrap();
            });
            waker.join().unwrap();
            second.send(2).unwrap();
            assert_eq!(outcome.recv_timeout(Duration::from_secs(20)).unwrap(), 3);
        }
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again() {
        let runtime = runtime();
        let (done, outcome) = std::sync::mpsc::channel();
        spawn_inline(runtime.handle(), async move {
            tokio::task::yield_now().await;
            done.send(()).unwrap();
        });
        outcome.recv_timeout(Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn who_can_never_be_woken_is_dropped() {
        let runtime = runtime();
        let (kept, seen) = oneshot::channel::<()>();
        spawn_inline(runtime.handle(), async move {
            let _kept = kept;
            std::future::pending::<()>().await;
        });
        assert!(seen.blocking_recv().is_err());
    }
}
