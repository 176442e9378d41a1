//! When an operation may be answered: latencies and bandwidths of a profile.
//!
//! An operation takes at least its latency, counted from its begin: the time that it takes in truth is part of it. Bytes
//! pass through a bucket for each direction, which holds a burst and fills with the bandwidth; what it lacks is waited for,
//! in the order of asking, so that many streams share what one would have.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_types::Profile;

use crate::lock_order;
use crate::timer::Timer;

/// What an answer costs on its way after its moment has come: waking its task and the program that waits. Answers are sent
/// so much earlier. Measured on two CPUs: 40 to 60 µs.
const WAY_BACK: Duration = Duration::from_micros(50);

/// What was held back, since the mount was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paced {
    /// Operations that were held back, and for how long altogether.
    pub operations: u64,
    pub microseconds: u64,
    /// Operations that were refused, or done only in part, because the emulated volume would not do them.
    pub quirks: u64,
}

/// The pace of one mount.
pub(crate) struct Pace {
    timer: Timer,
    metadata: Duration,
    data: Duration,
    read: Option<Bucket>,
    write: Option<Bucket>,
    operations: AtomicU64,
    microseconds: AtomicU64,
    quirks: AtomicU64,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Pace {
    pub(crate) fn new(profile: &Profile) -> std::io::Result<Self> {
        let bucket = |bandwidth: Option<u64>| bandwidth.map(|bandwidth| Bucket::new(bandwidth, profile.burst));
        Ok(Pace {
            timer: Timer::start()?,
            metadata: profile.metadata_latency,
            data: profile.data_latency,
            read: bucket(profile.read_bandwidth),
            write: bucket(profile.write_bandwidth),
            operations: AtomicU64::new(0),
            microseconds: AtomicU64::new(0),
            quirks: AtomicU64::new(0),
        })
    }

    pub(crate) fn paced(&self) -> Paced {
        Paced {
            operations: self.operations.load(Ordering::Relaxed),
            microseconds: self.microseconds.load(Ordering::Relaxed),
            quirks: self.quirks.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn count_quirk(&self) {
        self.quirks.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs an operation on names or attributes.
    pub(crate) async fn metadata<T>(&self, operation: impl Future<Output = T>) -> T {
        let due = Instant::now() + self.metadata;
        let outcome = operation.await;
        self.wait_until(due).await;
        outcome
    }

    /// Runs a request for data that itself moves nothing (a flush).
    pub(crate) async fn data<T>(&self, operation: impl Future<Output = T>) -> T {
        let due = Instant::now() + self.data;
        let outcome = operation.await;
        self.wait_until(due).await;
        outcome
    }

    /// Waits until `bytes` have passed: those of an operation that began at `begun`.
    pub(crate) async fn transfer(&self, direction: Direction, bytes: u64, begun: Instant) {
        // A write is taken by the emulated client's buffer and waits for the servers when it is flushed.
        let (bucket, latency) = match direction {
            Direction::Read => (&self.read, self.data),
            Direction::Write => (&self.write, Duration::ZERO),
        };
        let passed = bucket.as_ref().map_or(begun, |bucket| bucket.take(bytes, Instant::now()));
        self.wait_until(passed.max(begun + latency)).await;
    }

    async fn wait_until(&self, due: Instant) {
        let now = Instant::now();
        let Some(wait) = due.checked_duration_since(now).and_then(|wait| wait.checked_sub(WAY_BACK)) else { return };
        self.timer.at(now + wait).await;
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(wait.as_micros() as u64, Ordering::Relaxed);
    }
}

/// A token bucket, kept as the moment at which it will be full again: what is missing now is what flows in until then.
struct Bucket {
    seconds_per_byte: f64,
    /// Time in which an empty bucket fills.
    depth: Duration,
    full_at: Mutex<Instant, lock_order::Bucket>,
}

impl Bucket {
    /// `bandwidth` and `burst` in bytes a second and bytes. It begins full.
    fn new(bandwidth: u64, burst: u64) -> Self {
        let seconds_per_byte = 1.0 / bandwidth as f64;
        let depth = seconds(burst as f64 * seconds_per_byte);
        Bucket { seconds_per_byte, depth, full_at: Mutex::new(Instant::now()) }
    }

    /// Takes `bytes` out at `now`, even if that leaves it in debt; answers when the debt is paid.
    fn take(&self, bytes: u64, now: Instant) -> Instant {
        let flow = seconds(bytes as f64 * self.seconds_per_byte);
        let mut full_at = self.full_at.lock();
        *full_at = (*full_at).max(now) + flow;
        full_at.checked_sub(self.depth).map_or(now, |paid| paid.max(now))
    }
}

/// As a duration, at most a year: bursts and bandwidths may be any.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 366.0 * 86_400.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_passes_and_the_rest_at_the_bandwidth() {
        let bucket = Bucket::new(1000, 500);
        let now = Instant::now();
        assert_eq!(bucket.take(500, now), now);
        assert!(bucket.take(100, now).duration_since(now + 100 * MILLISECOND) < MILLISECOND);
        // In debt, everybody waits for those before him.
        assert!(bucket.take(100, now).duration_since(now + 200 * MILLISECOND) < MILLISECOND);
    }

    #[test]
    fn it_fills_again_with_time_and_no_further() {
        let bucket = Bucket::new(1000, 500);
        let now = Instant::now();
        bucket.take(500, now);
        let later = now + 250 * MILLISECOND;
        assert_eq!(bucket.take(249, later), later);
        assert!(bucket.take(10, later) > later);
        let much_later = now + Duration::from_secs(100);
        assert_eq!(bucket.take(499, much_later), much_later);
        assert!(bucket.take(10, much_later) > much_later);
    }

    #[test]
    fn without_a_burst_every_byte_takes_its_time() {
        let bucket = Bucket::new(1000, 0);
        let now = Instant::now();
        assert!(bucket.take(1000, now).duration_since(now + Duration::from_secs(1)) < MILLISECOND);
    }

    #[tokio::test]
    async fn an_operation_takes_its_latency_and_no_more() {
        let profile = "native,metadata-latency=30ms".parse().expect("a profile");
        let pace = Pace::new(&profile).expect("a thread");
        let begun = Instant::now();
        pace.metadata(tokio::time::sleep(10 * MILLISECOND)).await;
        let took = begun.elapsed();
        assert!(took >= 29 * MILLISECOND, "{took:?}");
        let paced = pace.paced();
        assert_eq!(paced.operations, 1);
        assert!(paced.microseconds <= 20_000, "{paced:?}");
    }
}
