//! Until when leases hold, on a clock that goes on while the machine is suspended.
//!
//! A lease is renewed from the moment a request *left* whose answer came: the server cannot have received it earlier,
//! so what the client believes never outlasts what the server grants.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment, in nanoseconds since the machine was started, time in suspension included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) u64);

impl Moment {
    pub(super) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        Moment((time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64))
    }

    /// Time from `earlier` until `self`; zero if it is the other way round.
    pub(super) fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Whatever a server says, leases live at least this long, so that renewing them never becomes a busy loop.
const TIME_TO_LIVE_MIN: Duration = Duration::from_millis(50);

/// The validity of all leases of a session.
pub(super) struct LeaseClock {
    /// Nanoseconds, as in [`Moment`]; 0 when nothing holds.
    valid_until: AtomicU64,
    /// Nanoseconds.
    time_to_live: AtomicU64,
}

impl LeaseClock {
    pub(super) fn new(time_to_live: Duration) -> Self {
        let clock = LeaseClock { valid_until: AtomicU64::new(0), time_to_live: AtomicU64::new(0) };
        clock.set_time_to_live(time_to_live);
        clock
    }

    pub(super) fn set_time_to_live(&self, time_to_live: Duration) {
        let time_to_live = time_to_live.max(TIME_TO_LIVE_MIN);
        self.time_to_live.store(time_to_live.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(super) fn time_to_live(&self) -> Duration {
        Duration::from_nanos(self.time_to_live.load(Ordering::Relaxed))
    }

    /// The server has answered what was sent at `sent`.
    pub(super) fn renew(&self, sent: Moment) {
        let until = sent.0.saturating_add(self.time_to_live.load(Ordering::Relaxed));
        self.valid_until.fetch_max(until, Ordering::AcqRel);
    }

    /// Nothing holds any more, until the next renewal.
    pub(super) fn void(&self) {
        self.valid_until.store(0, Ordering::Release);
    }

    /// When the last renewing request left.
    pub(super) fn renewed_at(&self) -> Moment {
        let until = self.valid_until.load(Ordering::Acquire);
        Moment(until.saturating_sub(self.time_to_live.load(Ordering::Relaxed)))
    }

    /// `None` once the time has run out.
    pub(super) fn left(&self) -> Option<Duration> {
        let left = Moment(self.valid_until.load(Ordering::Acquire)).since(Moment::now());
        if left.is_zero() { None } else { Some(left) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_counts_from_sending_and_never_shrinks_by_an_older_answer() {
        let clock = LeaseClock::new(Duration::from_secs(10));
        assert_eq!(clock.left(), None);
        let now = Moment::now();
        clock.renew(now);
        let left = clock.left().expect("valid");
        assert!(left <= Duration::from_secs(10) && left > Duration::from_secs(9));
        clock.renew(Moment(now.0 - 5_000_000_000));
        assert!(clock.left().expect("still valid") > Duration::from_secs(9));
        assert_eq!(clock.renewed_at(), now);
        clock.void();
        assert_eq!(clock.left(), None);
    }

    #[test]
    fn an_answer_to_something_old_renews_nothing() {
        let clock = LeaseClock::new(Duration::from_millis(60));
        clock.renew(Moment(Moment::now().0 - 61_000_000));
        assert_eq!(clock.left(), None);
    }
}
