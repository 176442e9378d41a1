//! The asynchronous runtime and the signals that end a process in good order.

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) fn new() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("cairn")
        .build()
        .context("cannot start threads")
}

/// Runs a short command to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?.block_on(future)
}

/// Waits for Ctrl-C or SIGTERM. A closed terminal (SIGHUP) ends a process in the foreground alone.
pub(crate) async fn asked_to_stop(foreground: bool) -> Result<&'static str> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot watch for signals")?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok("interrupted"),
            _ = terminate.recv() => return Ok("terminated"),
            _ = hang_up.recv() => if foreground { return Ok("terminal closed") },
        }
    }
}
