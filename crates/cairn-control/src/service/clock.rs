//! The control plane's time: the machine's, plus what was skipped. Charges and grace times follow it, so that a month can pass in
//! a test. It never goes back by an administrator's hand.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(pub i64);

/// Year 9999: the last moment that can be written down.
const LAST_MS: i64 = 253_402_300_799_000;

impl Moment {
    pub fn plus_ms(self, milliseconds: i64) -> Moment {
        Moment(self.0.saturating_add(milliseconds).min(LAST_MS))
    }

    /// Reads RFC 3339 (`2026-01-31T23:59:59Z`).
    pub fn parse(text: &str) -> Option<Moment> {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        Some(Moment(i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()?.min(LAST_MS)))
    }

    pub(crate) fn date_time(self) -> OffsetDateTime {
        let nanos = i128::from(self.0.clamp(0, LAST_MS)) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// RFC 3339, in UTC.
impl fmt::Display for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.date_time().format(&Rfc3339).map_err(|_| fmt::Error)?;
        formatter.write_str(&text)
    }
}

/// Where the time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockSource {
    /// The machine's clock.
    Machine,
    /// Stands still unless it is advanced; for tests that compare amounts.
    Still(Moment),
}

#[derive(Debug)]
pub(crate) struct Clock {
    source: ClockSource,
    skipped_ms: AtomicI64,
}

impl Clock {
    pub(crate) fn new(source: ClockSource, skipped_ms: i64) -> Self {
        Clock { source, skipped_ms: AtomicI64::new(skipped_ms) }
    }

    pub(crate) fn now(&self) -> Moment {
        let base = match self.source {
            ClockSource::Still(moment) => moment.0,
            ClockSource::Machine => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(0)
            }
        };
        Moment(base).plus_ms(self.skipped_ms())
    }

    pub(crate) fn skipped_ms(&self) -> i64 {
        self.skipped_ms.load(Ordering::Relaxed)
    }

    /// Sets how much was skipped in all.
    pub(crate) fn set_skipped_ms(&self, milliseconds: i64) {
        self.skipped_ms.store(milliseconds, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_and_read() {
        let moment = Moment::parse("2026-01-31T23:59:59Z").expect("read");
        assert_eq!(moment.to_string(), "2026-01-31T23:59:59Z");
        assert_eq!(Moment::parse("2026-02-01T01:59:59+02:00"), Some(moment));
        assert_eq!(Moment::parse("yesterday"), None);
        assert!(Moment(i64::MAX).plus_ms(1).to_string().starts_with("9999-"));
    }
}
