//! Why a mount could not be made or ended, each with what to do about it.

use std::io;
use std::path::PathBuf;

/// An error whose text is a sentence with its remedy, fit to be shown as it is.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error(
        "/dev/fuse does not exist or is not the FUSE device: in a container, start it with `docker run --device /dev/fuse --cap-add SYS_ADMIN` \
         (on Ubuntu also `--security-opt apparmor=unconfined`); on a host, load the module with `modprobe fuse`"
    )]
    DeviceMissing,
    #[error(
        "no permission to open /dev/fuse: in a container, start it with `docker run --device /dev/fuse --cap-add \
         SYS_ADMIN`; on a host, make it accessible with `chmod 666 /dev/fuse` or run as root"
    )]
    DevicePermission,
    #[error(
        "no permission to mount at {directory}: in a container, start it with `docker run --device /dev/fuse --cap-add \
         SYS_ADMIN` (on Ubuntu also `--security-opt apparmor=unconfined`); on a host, run as root or own the directory \
         and have fusermount3 installed setuid root ({detail})"
    )]
    NotPermitted { directory: PathBuf, detail: String },
    #[error("{0} does not exist: make it with `mkdir -p {0}`")]
    DirectoryMissing(PathBuf),
    #[error("{0} is not a directory: a volume is mounted on a directory")]
    NotADirectory(PathBuf),
    #[error(
        "{0} is not empty: what is in it would be hidden; choose another directory or mount with `-o nonempty` to hide \
         it"
    )]
    NotEmpty(PathBuf),
    #[error(
        "{0} holds a mount whose daemon is gone (\"Transport endpoint is not connected\"): remove it with \
         `umount -l {0}` (not root: `fusermount3 -u -z {0}`) and try again"
    )]
    Stale(PathBuf),
    #[error("a volume is mounted at {0} already: use it, or unmount it first with `cairn umount {0}`")]
    AlreadyMounted(PathBuf),
    #[error(
        "fusermount3 is not installed and only root can mount without it: install the package `fuse3` or run as root"
    )]
    FusermountMissing,
    #[error(
        "only root may mount for other users: add the line `user_allow_other` to /etc/fuse.conf or leave out \
         --allow-other"
    )]
    AllowOtherForbidden,
    #[error("only root may mount with `{0}`: leave it out")]
    PrivilegesForbidden(String),
    #[error("the kernel does not accept the mount options {options:?}: leave out what FUSE does not know ({detail})")]
    BadOptions { options: String, detail: String },
    #[error("the transport io_uring cannot be used: {0}; or mount with --transport auto")]
    UringUnavailable(String),
    #[error("{directory} is not mounted any more")]
    NotMounted { directory: PathBuf },
    #[error("cannot {action} {directory}: {source}")]
    Io { action: &'static str, directory: PathBuf, source: io::Error },
}
