//! Taking a mount off the tree, with a time limit on every step.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::MountError;
use crate::mount::Unmounted;
use crate::precheck::{is_root, mountinfo_device};

/// Pause before a busy mount is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How long a lazy unmount may take; it waits for nothing but the kernel's own bookkeeping and last dirty pages.
const DETACH_LIMIT: Duration = Duration::from_secs(5);

/// See [`crate::Mount::unmount`].
pub(crate) async fn unmount(directory: &Path, limit: Duration) -> Result<Unmounted, MountError> {
    let give_up = Arc::new(AtomicBool::new(false));
    let (path, stop) = (directory.to_owned(), Arc::clone(&give_up));
    // Threads of their own: the system call may wait for answers that this runtime must give.
    match on_a_thread(limit, move || unmount_when_free(&path, &stop)).await {
        Some(Ok(true)) => return Ok(Unmounted::Clean),
        Some(Ok(false)) | None => {}
        Some(Err(source)) => {
            return Err(MountError::Io { action: "unmount", directory: directory.to_owned(), source });
        }
    }
    give_up.store(true, Ordering::Relaxed);
    let path = directory.to_owned();
    match on_a_thread(DETACH_LIMIT, move || unmount_once(&path, true)).await {
        Some(Err(source)) if is_mount_point(directory) => {
            Err(MountError::Io { action: "unmount lazily", directory: directory.to_owned(), source })
        }
        _ => Ok(Unmounted::Lazy),
    }
}

/// Lazily unmounts now; for a mount that is being dropped.
pub(crate) fn detach(directory: &Path) {
    if let Err(error) = unmount_once(directory, true) {
        tracing::warn!(directory = %directory.display(), %error, "the mount could not be removed");
    }
}

/// Whether anything is mounted at `directory` (an absolute path without symbolic links).
fn is_mount_point(directory: &Path) -> bool {
    mountinfo_device(directory).is_some()
}

/// The outcome of `work` on a thread of its own, or `None` if it takes longer than `limit` (it then goes on unheard).
async fn on_a_thread<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new().name("unmount".to_owned()).spawn(move || drop(sender.send(work()))).ok()?;
    tokio::time::timeout(limit, receiver).await.ok()?.ok()
}

/// Tries until nothing uses the mount; `false` when told to stop.
fn unmount_when_free(directory: &Path, stop: &AtomicBool) -> io::Result<bool> {
    while !stop.load(Ordering::Relaxed) {
        match unmount_once(directory, false) {
            Ok(()) => return Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::EBUSY) => std::thread::sleep(RETRY_PAUSE),
                // Somebody else was faster.
                Some(libc::EINVAL | libc::ENOENT) => return Ok(true),
                _ => return Err(error),
            },
        }
    }
    Ok(false)
}

fn unmount_once(directory: &Path, lazily: bool) -> io::Result<()> {
    if !is_root() {
        return unmount_by_helper(directory, lazily);
    }
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazily { libc::MNT_DETACH } else { 0 };
    // SAFETY: the path is a NUL-terminated string that lives until the call returns.
    let outcome = unsafe { libc::umount2(path.as_ptr(), flags) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Only the setuid helper may unmount for an ordinary user. It tells no errno: a failure while the mount is still there
/// means that it is in use.
fn unmount_by_helper(directory: &Path, lazily: bool) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.args(["-q", "-u"]).args(lazily.then_some("-z")).arg("--").arg(directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if command.status()?.success() || !is_mount_point(directory) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }
}
