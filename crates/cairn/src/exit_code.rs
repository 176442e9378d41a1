//! Exit codes of the program, so that scripts can tell failures apart. Listed in `cairn --help`.

use std::process::ExitCode;

/// How a command ended without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Anything that has no code of its own.
    Failure = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// `cairn fsck` found damage that is still there.
    Damaged = 4,
    /// The server cannot be reached.
    Unreachable = 5,
    /// The server says no: key, version, unknown volume, a volume that is in use, a limit.
    Refused = 6,
    /// The kernel or the directory does not allow a mount.
    CannotMount = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error with the exit code it deserves; found again at the top by downcasting.
#[derive(Debug)]
pub(crate) struct WithExit(pub(crate) Exit, pub(crate) String);

impl std::fmt::Display for WithExit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.1)
    }
}

impl std::error::Error for WithExit {}
