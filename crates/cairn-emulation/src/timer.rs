//! Waking tasks at a moment, to within some tens of microseconds.
//!
//! Latencies of a profile are fractions of the millisecond that tokio's timer counts in, so one thread of its own sleeps
//! until the next moment. It learns how late the system wakes it, and wakes up earlier by as much.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use cairn_locks::{Condvar, Mutex};

use crate::lock_order;

/// The longest lateness that is made up for. More is a busy machine, not the way to sleep.
const LATENESS_MAX: Duration = Duration::from_micros(150);

/// How much of a newly seen lateness is believed: an eighth.
const LEARNING: u32 = 8;

/// Wakes tasks. Dropping it ends its thread; what waits then is woken at once.
pub(crate) struct Timer {
    shared: Arc<Alarms>,
}

struct Alarms {
    queue: Mutex<Queue, lock_order::TimerQueue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// By moment, then by number.
    waiting: BinaryHeap<Reverse<(Instant, u64)>>,
    wakers: std::collections::HashMap<u64, Waker>,
    next: u64,
    ended: bool,
}

impl Timer {
    pub(crate) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Alarms { queue: Mutex::default(), changed: Condvar::new() });
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new().name("pace".into()).spawn(move || run(&weak))?;
        Ok(Timer { shared })
    }

    /// Ready at `moment`, or soon after.
    pub(crate) fn at(&self, moment: Instant) -> Sleep {
        Sleep { shared: Arc::clone(&self.shared), moment, number: None }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.shared.queue.lock().ended = true;
        self.shared.changed.notify_one();
    }
}

/// How long the thread may sleep without looking whether it is still needed.
const IDLE: Duration = Duration::from_secs(1);

fn run(shared: &Weak<Alarms>) {
    let mut lateness = Duration::ZERO;
    let mut due = Vec::new();
    while let Some(shared) = shared.upgrade() {
        let mut queue = shared.queue.lock();
        let now = Instant::now();
        while let Some(&Reverse((moment, number))) = queue.waiting.peek()
            && (queue.ended || moment <= now + lateness)
        {
            queue.waiting.pop();
            due.extend(queue.wakers.remove(&number));
        }
        if due.is_empty() {
            if queue.ended {
                return;
            }
            let first = queue.waiting.peek().map(|Reverse((moment, _))| *moment);
            let wanted = first.and_then(|moment| moment.checked_sub(lateness)).unwrap_or(now + IDLE);
            let timed_out = shared.changed.wait_until(&mut queue, wanted);
            if timed_out && first.is_some() {
                let late = Instant::now().saturating_duration_since(wanted).min(LATENESS_MAX);
                lateness = (lateness * (LEARNING - 1) + late) / LEARNING;
            }
        }
        drop(queue);
        due.drain(..).for_each(Waker::wake);
    }
}

/// See [`Timer::at`].
pub(crate) struct Sleep {
    shared: Arc<Alarms>,
    moment: Instant,
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue.lock();
        let mut first = false;
        match self.number {
            // Woken by the timer, which may be early by what it will be late.
            Some(number) if !queue.wakers.contains_key(&number) => return Poll::Ready(()),
            Some(number) => {
                queue.wakers.insert(number, context.waker().clone());
            }
            None if queue.ended || Instant::now() >= self.moment => return Poll::Ready(()),
            None => {
                let number = queue.next;
                queue.next += 1;
                first = queue.waiting.peek().is_none_or(|Reverse((moment, _))| self.moment < *moment);
                queue.waiting.push(Reverse((self.moment, number)));
                queue.wakers.insert(number, context.waker().clone());
                self.number = Some(number);
            }
        }
        drop(queue);
        if first {
            shared.changed.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.queue.lock().wakers.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_in_the_order_of_moments_and_not_before() {
        let timer = Arc::new(Timer::start().expect("a thread"));
        let begun = Instant::now();
        let order = Arc::new(Mutex::<_, lock_order::Bucket>::new(Vec::new()));
        let tasks: Vec<_> = [30u64, 10, 20]
            .into_iter()
            .map(|milliseconds| {
                let (timer, order) = (Arc::clone(&timer), Arc::clone(&order));
                tokio::spawn(async move {
                    let wanted = Duration::from_millis(milliseconds);
                    timer.at(begun + wanted).await;
                    assert!(begun.elapsed() + LATENESS_MAX >= wanted);
                    order.lock().push(milliseconds);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(*order.lock(), [10, 20, 30]);
    }

    #[tokio::test]
    async fn a_moment_that_is_over_is_not_waited_for() {
        let timer = Timer::start().expect("a thread");
        timer.at(Instant::now()).await;
    }

    #[tokio::test]
    async fn nobody_waits_for_a_timer_that_is_gone() {
        let timer = Timer::start().expect("a thread");
        let sleep = timer.at(Instant::now() + Duration::from_secs(3600));
        let waiting = tokio::spawn(sleep);
        tokio::task::yield_now().await;
        drop(timer);
        waiting.await.expect("woken");
    }

    #[tokio::test]
    async fn who_gives_up_is_forgotten() {
        let timer = Timer::start().expect("a thread");
        let soon = tokio::time::timeout(Duration::from_millis(5), timer.at(Instant::now() + Duration::from_secs(60)));
        assert!(soon.await.is_err());
        assert!(timer.shared.queue.lock().wakers.is_empty());
    }
}
