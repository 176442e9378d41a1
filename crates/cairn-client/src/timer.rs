//! Timers that may be made on any thread, also one that is none of the runtime's own.

use std::time::Duration;

use tokio::runtime::Handle as Runtime;

/// As [`tokio::time::sleep`].
pub(crate) fn sleep(runtime: &Runtime, time: Duration) -> tokio::time::Sleep {
    let _context = runtime.enter();
    tokio::time::sleep(time)
}
