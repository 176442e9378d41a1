//! Before and right after mounting: what can be told from the outside, so that errors are sentences.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cairn_types::errno::DEAD_MOUNT;
use cairn_types::profile::MOOSEFS_SOURCE;

use crate::device::DEVICE_PATH;
use crate::error::MountError;
use crate::options::MountOptions;

/// Places where distributions put the helper, beside `PATH`.
const HELPER_DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// What `/dev/fuse` is on every Linux: character device 10, 229 (the kernel's Documentation/admin-guide/devices.txt).
const DEVICE_NUMBER: u64 = libc::makedev(10, 229);

/// Whether this process acts as root (which in a container need not mean that it may mount).
pub(crate) fn is_root() -> bool {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Checks device, helper and directory; returns the directory's absolute path.
pub(crate) fn check(options: &MountOptions) -> Result<PathBuf, MountError> {
    let directory = check_directory(options)?;
    match OpenOptions::new().read(true).write(true).open(DEVICE_PATH).and_then(|device| device.metadata()) {
        Ok(found) if found.file_type().is_char_device() && found.rdev() == DEVICE_NUMBER => {}
        Ok(_) => return Err(MountError::DeviceMissing),
        Err(error) => {
            return Err(match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => MountError::DeviceMissing,
                Some(libc::EACCES | libc::EPERM) => MountError::DevicePermission,
                _ => MountError::Io { action: "open /dev/fuse to mount", directory, source: error },
            });
        }
    }
    if !is_root()
        && let Some(word) = options.wants_privileges()
    {
        return Err(MountError::PrivilegesForbidden(word.to_owned()));
    }
    if !is_root() && !helper_exists() {
        return Err(MountError::FusermountMissing);
    }
    Ok(directory)
}

fn check_directory(options: &MountOptions) -> Result<PathBuf, MountError> {
    let directory = &options.directory;
    let explain = |source: io::Error| match source.raw_os_error() {
        Some(libc::ENOENT) => MountError::DirectoryMissing(directory.clone()),
        Some(libc::ENOTDIR) => MountError::NotADirectory(directory.clone()),
        Some(errno) if DEAD_MOUNT.contains(&errno) => MountError::Stale(directory.clone()),
        _ => MountError::Io { action: "look into", directory: directory.clone(), source },
    };
    if !fs::metadata(directory).map_err(explain)?.is_dir() {
        return Err(MountError::NotADirectory(directory.clone()));
    }
    let absolute = directory.canonicalize().map_err(explain)?;
    if is_cairn_mount(&absolute) {
        return Err(MountError::AlreadyMounted(absolute));
    }
    if !options.allows_nonempty() && fs::read_dir(&absolute).map_err(explain)?.next().is_some() {
        return Err(MountError::NotEmpty(absolute));
    }
    Ok(absolute)
}

fn helper_exists() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(HELPER_DIRECTORIES.iter().map(PathBuf::from));
    directories
        .into_iter()
        .any(|directory| ["fusermount3", "fusermount"].iter().any(|name| directory.join(name).exists()))
}

/// Turns fuser's error, which may be the helper's text, into a sentence.
pub(crate) fn explain(directory: &Path, config: &fuser::Config, error: io::Error) -> MountError {
    let text = error.to_string();
    let directory = directory.to_owned();
    if text.contains("user_allow_other") {
        MountError::AllowOtherForbidden
    } else if text.contains("not permitted") || text.contains("ermission denied") || text.contains("EPERM") {
        MountError::NotPermitted { directory, detail: text.trim().to_owned() }
    } else if text.contains("EINVAL") || text.contains("nvalid argument") || text.contains("nvalid option") {
        let custom = config.mount_options.iter().filter_map(|option| match option {
            fuser::MountOption::CUSTOM(text) => Some(text.as_str()),
            _ => None,
        });
        MountError::BadOptions { options: custom.collect::<Vec<_>>().join(","), detail: text.trim().to_owned() }
    } else if error.kind() == io::ErrorKind::NotFound {
        MountError::FusermountMissing
    } else {
        MountError::Io { action: "mount at", directory, source: error }
    }
}

/// Raises the read-ahead of the mount with this `MAJOR:MINOR`. What is not permitted (nobody but root may) costs speed
/// only.
pub(crate) fn raise_read_ahead(device: &str, kib: u32) {
    if kib == 0 {
        return;
    }
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = fs::write(&path, kib.to_string()) {
        tracing::info!(path, %error, "the kernel's read-ahead stays small; large cold reads are slower");
    }
}

/// `MAJOR:MINOR` of the mount at `directory`, from the kernel's list: asking the mount itself would wait for an answer.
pub(crate) fn mountinfo_device(directory: &Path) -> Option<String> {
    let list = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_device(&list, directory.to_str()?)
}

/// Whether a volume is mounted at exactly this directory already.
fn is_cairn_mount(directory: &Path) -> bool {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    directory.to_str().is_some_and(|directory| {
        let is_cairn = |line: &str| {
            line.contains(" - fuse.cairn ") || line.contains(&format!(" - fuse {} ", escaped(MOOSEFS_SOURCE)))
        };
        list.lines().any(|line| is_cairn(line) && find_device(line, directory).is_some())
    })
}

/// A path or source as it stands in the kernel's list.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012");
    text.replace('#', "\\043")
}

/// Of several mounts on one directory, the last one listed is the one that is seen.
fn find_device(list: &str, directory: &str) -> Option<String> {
    let escaped = escaped(directory);
    let mut found = list.lines().rev().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?;
        (fields.nth(1)? == escaped).then_some(device)
    });
    found.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_is_found_by_its_escaped_path() {
        let list = "36 35 98:0 / /mnt/a rw - ext3 /dev/root rw\n37 35 0:50 / /mnt/b\\040c rw - fuse.cairn cairn:x rw\n\
                    38 35 0:51 / /mnt/b\\040c rw - fuse.cairn cairn:y rw\n";
        assert_eq!(find_device(list, "/mnt/a").as_deref(), Some("98:0"));
        assert_eq!(find_device(list, "/mnt/b c").as_deref(), Some("0:51"));
        assert_eq!(find_device(list, "/mnt"), None);
    }

    #[test]
    fn each_wrong_directory_has_its_own_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let check_path = |path: &Path| check_directory(&MountOptions::new(path, "v"));
        assert!(matches!(check_path(&file.join("under")), Err(MountError::NotADirectory(_))));
        assert!(matches!(check_path(&file), Err(MountError::NotADirectory(_))));
        assert!(matches!(check_path(&directory.path().join("absent")), Err(MountError::DirectoryMissing(_))));
        assert!(matches!(check_path(directory.path()), Err(MountError::NotEmpty(_))));
        let mut options = MountOptions::new(directory.path(), "v");
        options.extra.push("nonempty".to_owned());
        assert!(check_directory(&options).is_ok());
    }
}
