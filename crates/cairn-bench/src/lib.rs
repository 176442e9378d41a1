//! Workloads on a directory, whatever file system it is on, and reports of what they measured.
//!
//! [`run::run`] measures [`target::Target`]s as a [`plan::Plan`] says and gives a [`report::Report`], which
//! [`table`] prints and [`page`] draws. Not here: the command line, and everything that knows Cairn; a directory is
//! all that is needed.
//!
//! Invariants:
//!
//! - A timed loop does nothing but the system calls it is named after: names, bytes and offsets are made before.
//! - What was not verified is not reported: reads that come back short are errors.
//! - Everything is made in a folder of its own inside the directory, and removed even when a workload fails.

mod archive;
mod chart;
mod large;
pub mod page;
pub mod plan;
pub mod progress;
pub mod report;
pub mod run;
mod small;
pub mod table;
pub mod target;
mod trace;
pub mod verdict;

use std::path::{Path, PathBuf};

/// Why a measurement ended.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} holds {found} bytes where {wanted} were written", path = path.display())]
    Short { path: PathBuf, found: u64, wanted: u64 },
    #[error("{found} files of {wanted} were found in {path}", path = path.display())]
    Missing { path: PathBuf, found: u64, wanted: u64 },
    #[error("the command `{command}` {reason}")]
    Hook { command: String, reason: String },
    #[error("interrupted")]
    Interrupted,
}

/// Adds to an error of the operating system what was being done to which file.
pub(crate) trait During<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, BenchError>;
}

impl<T, E: Into<std::io::Error>> During<T> for Result<T, E> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, BenchError> {
        self.map_err(|error| BenchError::Io { action, path: path.to_owned(), source: error.into() })
    }
}
