//! Tries a test under many schedules: what its threads do at once is then done in many orders.
//!
//! Threads and channels of such a test are shuttle's ([`thread`], [`mpsc`], [`block_on`]), and nothing in it may wait in any
//! other way, or for time to pass. A deadlock fails, and so does a panic in any thread; the message says which schedule to
//! replay it with.

pub use shuttle::future::block_on;
pub use shuttle::sync::mpsc;
pub use shuttle::thread;

/// Schedules of each kind, unless `CAIRN_SCHEDULES` says otherwise.
const SCHEDULES: usize = 2000;
/// Changes of thread at unlucky moments: most faults need no more.
const DEPTH: usize = 3;

/// Runs `test` again and again: with threads that take turns at random, and with threads that run to their end but for a
/// few changes.
pub fn try_many(test: impl Fn() + Send + Sync + Copy + 'static) {
    let asked = std::env::var("CAIRN_SCHEDULES").ok().and_then(|number| number.parse().ok());
    let schedules = asked.unwrap_or(SCHEDULES);
    shuttle::check_random(test, schedules);
    shuttle::check_pct(test, schedules, DEPTH);
}
