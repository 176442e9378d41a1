//! `cairn umount`: ask the kernel to let go, then wait until the mount's process has written everything.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_types::profile::MOOSEFS_SOURCE;

use crate::cli::Umount;
use crate::commands::stats;
use crate::exit_code::{Exit, WithExit};

pub(crate) fn run(options: &Umount) -> Result<ExitCode> {
    let directory = std::path::absolute(&options.directory)
        .with_context(|| format!("no such directory: {}", options.directory.display()))?;
    if !is_cairn_mount(&directory)? {
        let message = format!("{} is not a Cairn mount; `cairn status` lists the mounts", directory.display());
        return Err(WithExit(Exit::Failure, message).into());
    }
    // A mount whose process is gone cannot answer; it only has to be taken away.
    let process = stats::read(&directory).ok().and_then(|stats| stats.get("pid")?.as_u64());
    detach(&directory, options.lazy)?;
    match process {
        Some(pid) if !options.lazy => wait_for_end(pid, options.timeout),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Whether the kernel lists a Cairn mount at exactly this place.
fn is_cairn_mount(directory: &Path) -> Result<bool> {
    let table = std::fs::read("/proc/self/mountinfo").context("cannot read the list of mounts")?;
    let found = table.split(|byte| *byte == b'\n').any(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let separator = fields.iter().position(|field| *field == b"-");
        let kind = separator.and_then(|at| fields.get(at + 1)).copied();
        let place = fields.get(4).map(|field| unescape(field));
        let source = separator.and_then(|at| fields.get(at + 2)).map(|field| unescape(field));
        // With an emulation profile it looks like another one's.
        let emulated = kind == Some(b"fuse") && source.as_deref() == Some(Path::new(MOOSEFS_SOURCE));
        (kind == Some(b"fuse.cairn") || emulated) && place.as_deref() == Some(directory)
    });
    Ok(found)
}

/// Undoes the octal escapes of mountinfo (space, tab, newline, backslash).
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\' && after.len() >= 3)
            .then(|| std::str::from_utf8(&after[..3]).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok()))
            .flatten();
        if let Some(byte) = octal {
            path.push(byte);
            rest = &after[3..];
        } else {
            path.push(*first);
            rest = after;
        }
    }
    PathBuf::from(std::ffi::OsString::from(std::ffi::OsStr::from_bytes(&path)))
}

fn detach(directory: &Path, lazy: bool) -> Result<()> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let flags = if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: the path ends in NUL.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EBUSY) => Err(busy(directory)),
        Some(libc::EPERM) => detach_unprivileged(directory, lazy),
        _ => Err(error).with_context(|| format!("cannot unmount {}", directory.display())),
    }
}

fn busy(directory: &Path) -> anyhow::Error {
    let place = directory.display();
    let message = format!(
        "{place} is in use: stop the programs that have files open or their working directory in it (`fuser -vm {place}` lists them), \
         or detach it with --lazy"
    );
    WithExit(Exit::Failure, message).into()
}

/// Users without privileges may take away their own mounts through the setuid helper of fuse3.
fn detach_unprivileged(directory: &Path, lazy: bool) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let outcome = command.arg("--").arg(directory).stdin(Stdio::null()).output();
    let output = outcome.context("cannot unmount without root: install fuse3, which brings fusermount3")?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("busy") {
        Err(busy(directory))
    } else {
        Err(WithExit(Exit::Failure, text.trim().to_owned()).into())
    }
}

fn wait_for_end(pid: u64, limit: Duration) -> Result<ExitCode> {
    let process = PathBuf::from(format!("/proc/{pid}/stat"));
    let deadline = Instant::now() + limit;
    while is_running(&process) {
        if Instant::now() > deadline {
            let message = format!(
                "unmounted, but process {pid} is still writing after {} s (is the server reachable?); it continues in the background",
                limit.as_secs()
            );
            return Err(WithExit(Exit::Failure, message).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(ExitCode::SUCCESS)
}

/// A process that has ended but was not yet collected by its parent counts as gone.
fn is_running(stat: &Path) -> bool {
    std::fs::read_to_string(stat)
        .is_ok_and(|text| text.rsplit_once(") ").is_some_and(|(_, after)| !after.starts_with(['Z', 'X'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_mount_table_are_undone() {
        assert_eq!(unescape(b"/mnt/with\\040space\\134"), PathBuf::from("/mnt/with space\\"));
        assert_eq!(unescape(b"/plain"), PathBuf::from("/plain"));
    }
}
