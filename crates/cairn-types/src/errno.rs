//! Error numbers of POSIX, the one currency in which file operations fail across every layer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An error number as the kernel counts it (positive).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub struct Errno(pub i32);

/// What a file operation gives back.
pub type FsResult<T> = Result<T, Errno>;

/// What the kernel answers on a mount whose process is gone: `ENOTCONN`, and while it still takes the connection or the
/// rings of a process apart that was killed just now, `ECONNABORTED` and `ECANCELED`.
pub const DEAD_MOUNT: [i32; 3] = [libc::ENOTCONN, libc::ECONNABORTED, libc::ECANCELED];

macro_rules! errnos {
    ($($name:ident),* $(,)?) => {
        impl Errno {
            $(pub const $name: Errno = Errno(libc::$name);)*

            /// The symbolic name, if this is a number that Cairn itself uses.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Errno::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos!(
    EPERM,
    ENOENT,
    EINTR,
    EIO,
    ENXIO,
    E2BIG,
    EBADF,
    EAGAIN,
    ENOMEM,
    EACCES,
    EBUSY,
    EEXIST,
    EXDEV,
    ENODEV,
    ENOTDIR,
    EISDIR,
    EINVAL,
    EMFILE,
    EFBIG,
    ENOSPC,
    EROFS,
    EMLINK,
    ERANGE,
    EDEADLK,
    ENAMETOOLONG,
    ENOLCK,
    ENOSYS,
    ENOTEMPTY,
    ELOOP,
    ENODATA,
    EOVERFLOW,
    EOPNOTSUPP,
    ETIMEDOUT,
    ESTALE,
    EDQUOT,
    ENOTCONN,
    EPROTO,
    ESHUTDOWN,
);

impl fmt::Display for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "errno {}", self.0),
        }
    }
}
