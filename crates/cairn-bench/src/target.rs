//! A directory under measurement: what makes its client forget, and what makes it write everything.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{BenchError, During};

/// How long a command that mounts or unmounts may take.
const HOOK_LIMIT: Duration = Duration::from_secs(300);
/// What `statfs` says of every FUSE file system (`FUSE_SUPER_MAGIC`).
const FUSE_MAGIC: i64 = 0x6573_5546;

/// Where to measure.
#[derive(Clone, Debug)]
pub struct Target {
    /// What the report calls it.
    pub name: String,
    /// An existing directory.
    pub directory: PathBuf,
    /// Shell commands that unmount the file system of the directory and mount it again, which empties its client's
    /// caches. They see the directory as `$DIR`.
    pub unmount: Option<String>,
    pub mount: Option<String>,
    /// A folder on this machine in which the target keeps what it stores.
    pub store: Option<PathBuf>,
}

/// What was done to make the target cold, for the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cold {
    /// Mounted anew, and the kernel's caches dropped.
    Everything,
    /// The kernel's caches dropped; a client process may remember.
    Kernel,
    /// No more than what a process may ask the kernel to forget of its own files.
    Pages,
}

impl Target {
    /// The directory alone, named after itself.
    pub fn new(directory: PathBuf) -> Target {
        let name = directory.display().to_string();
        Target { name, directory, unmount: None, mount: None, store: None }
    }

    /// Whether its client can be made to forget without the kernel's caches being dropped.
    pub(crate) fn can_remount(&self) -> bool {
        self.unmount.is_some() && self.mount.is_some()
    }

    /// Until all that was written below `work` is on stable storage. Leaves the target unmounted if it can be; then
    /// [`Target::remount`] must follow.
    ///
    /// The kernel does not pass `sync` on to FUSE file systems: they are unmounted, or else every file is synced.
    pub(crate) fn settle(&self, work: &Path) -> Result<(), BenchError> {
        if let (Some(unmount), Some(_)) = (&self.unmount, &self.mount) {
            hook(unmount, &self.directory)?;
            if let Some(store) = &self.store {
                return sync_file_system(store);
            }
            rustix::fs::sync();
            return Ok(());
        }
        if is_fuse(&self.directory) {
            return sync_each(work);
        }
        sync_file_system(&self.directory)
    }

    /// Brings a target back that was settled, so that its client remembers nothing.
    pub(crate) fn remount(&self) -> Result<(), BenchError> {
        match (&self.unmount, &self.mount) {
            (Some(_), Some(mount)) => hook(mount, &self.directory),
            _ => Ok(()),
        }
    }

    /// Empties the kernel's caches if that is allowed, and else those of the files in `work`; says how cold it is now if the client was mounted anew.
    pub(crate) fn drop_kernel_caches(&self, work: &Path, allowed: bool) -> Result<Cold, BenchError> {
        let dropped = allowed && fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
        if !dropped {
            forget_pages(work)?;
        }
        if allowed {
            // Let what that and the remount started come to rest.
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(match (dropped, self.can_remount() || !is_fuse(&self.directory)) {
            (true, true) => Cold::Everything,
            (true, false) => Cold::Kernel,
            (false, _) => Cold::Pages,
        })
    }

    /// Bytes that the file system says are in use, and bytes below the store; `None` where nobody can tell.
    pub(crate) fn used(&self) -> (Option<u64>, Option<u64>) {
        let used = rustix::fs::statvfs(&self.directory)
            .ok()
            .filter(|told| told.f_blocks > 0)
            .map(|told| (told.f_blocks - told.f_bfree) * told.f_frsize);
        (used, self.store.as_deref().map(disk_usage))
    }
}

fn is_fuse(directory: &Path) -> bool {
    rustix::fs::statfs(directory).is_ok_and(|told| told.f_type == FUSE_MAGIC)
}

fn sync_file_system(directory: &Path) -> Result<(), BenchError> {
    let opened = File::open(directory).during("open", directory)?;
    rustix::fs::syncfs(&opened).during("sync the file system of", directory)
}

/// `fsync` of every file and folder below, folders after what is in them.
fn sync_each(folder: &Path) -> Result<(), BenchError> {
    for_each_below(folder, &mut |path| File::open(path).and_then(|file| file.sync_all()).during("sync", path))
}

/// Asks the kernel to drop the pages of every file below (`POSIX_FADV_DONTNEED`).
fn forget_pages(folder: &Path) -> Result<(), BenchError> {
    for_each_below(folder, &mut |path| {
        let file = File::open(path).during("open", path)?;
        // A directory has no pages to forget, and says so with an error.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    })
}

fn for_each_below(folder: &Path, act: &mut dyn FnMut(&Path) -> Result<(), BenchError>) -> Result<(), BenchError> {
    for entry in fs::read_dir(folder).during("list", folder)? {
        let entry = entry.during("list", folder)?;
        if entry.file_type().during("look at", &entry.path())?.is_dir() {
            for_each_below(&entry.path(), act)?;
        } else {
            act(&entry.path())?;
        }
    }
    act(folder)
}

/// Bytes of disk below a folder. What disappears meanwhile is not counted.
fn disk_usage(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(told) if told.is_dir() => told.blocks() * 512 + disk_usage(&entry.path()),
            Ok(told) => told.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Runs a shell command; it must succeed within [`HOOK_LIMIT`].
fn hook(command: &str, directory: &Path) -> Result<(), BenchError> {
    let failed = |reason: String| BenchError::Hook { command: command.to_owned(), reason };
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("DIR", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| failed(format!("could not be started: {error}")))?;
    let deadline = Instant::now() + HOOK_LIMIT;
    let mut pause = Duration::from_micros(200);
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(failed(format!("failed with {status}"))),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(pause),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("did not end within {} s", HOOK_LIMIT.as_secs())));
            }
            Err(error) => return Err(failed(format!("cannot be waited for: {error}"))),
        }
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// Type and source of the file system that a directory is on, as `/proc/self/mountinfo` tells.
pub(crate) fn file_system_of(directory: &Path) -> String {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut best: (usize, String) = (0, "unknown".to_owned());
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        let (Some(kind), Some(source)) = (right.next(), right.next()) else { continue };
        // A later line is mounted over an earlier one at the same place.
        if directory.starts_with(point) && point.len() >= best.0 {
            best = (point.len(), format!("{kind} ({source})"));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_sees_the_directory_and_its_failure_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        hook("touch \"$DIR/was here\"", folder.path()).expect("runs");
        assert!(folder.path().join("was here").exists());
        let error = hook("exit 3", folder.path()).expect_err("fails").to_string();
        assert!(error.contains("`exit 3`") && error.contains('3'), "{error}");
    }

    #[test]
    fn settling_unmounts_and_remounting_mounts() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut target = Target::new(folder.path().to_owned());
        target.unmount = Some("echo unmount >> \"$DIR/log\"".into());
        target.mount = Some("echo mount >> \"$DIR/log\"".into());
        target.settle(folder.path()).expect("settled");
        target.remount().expect("mounted");
        let log = fs::read_to_string(folder.path().join("log")).expect("a log");
        assert_eq!(log, "unmount\nmount\n");
    }

    #[test]
    fn the_file_system_is_named() {
        assert!(file_system_of(Path::new("/proc/self")).starts_with("proc "));
    }
}
