//! Points in time with nanosecond resolution, as `stat` reports them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Seconds and nanoseconds since 1970 (UTC); `nanos` is below 1,000,000,000. Seconds may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    pub secs: i64,
    pub nanos: u32,
}

impl Timestamp {
    /// The wall clock of this machine.
    pub fn now() -> Self {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
            Err(before) => {
                let gap = before.duration();
                let (secs, nanos) = match gap.subsec_nanos() {
                    0 => (-(gap.as_secs() as i64), 0),
                    nanos => (-(gap.as_secs() as i64) - 1, 1_000_000_000 - nanos),
                };
                Timestamp { secs, nanos }
            }
        }
    }
}
