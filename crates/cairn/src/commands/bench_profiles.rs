//! `cairn bench --profile P --against Q`: brings up a temporary volume for each profile, has them measured, and says what
//! packing small files would save on the emulated one.
//!
//! Each volume has a real server and a real mount, in processes of their own, so that a client can be made to forget.
//! Everything is taken down and removed when [`Volumes`] is dropped.

use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cairn_bench::report::{ArchivePoint, Report, TargetReport, bytes, count, figure};
use cairn_bench::target::Target;
use cairn_types::Profile;
use cairn_wire::admin::AdminRequest;

use crate::cli::Connection;
use crate::exit_code::{Exit, WithExit};
use crate::{connect, paths};

/// How long the server may take to come up.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to stop before it is killed: what it holds is about to be deleted.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Large enough for everything that can be asked for; takes no more than what is written.
const VOLUME_BYTES: u64 = 1 << 43;
/// Blocks of 512 bytes and headers are all that an archive adds to a file (`tar`).
const ARCHIVE_BLOCK: u64 = 512;

/// Volumes with their server and mounts, for as long as they are measured.
pub(crate) struct Volumes {
    program: PathBuf,
    profiles: Vec<Profile>,
    mounts: Vec<PathBuf>,
    server: Option<Child>,
    folder: tempfile::TempDir,
}

impl Volumes {
    /// Makes and mounts one volume for each profile, below `parent` or in the system's temporary folder.
    pub(crate) fn start(profiles: Vec<Profile>, parent: Option<&Path>) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("cairn-bench-");
        let folder = match parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        };
        let folder = folder.context("cannot create a folder for the volumes; name a writable directory")?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut volumes = Volumes { program, profiles, mounts: Vec::new(), server: None, folder };
        volumes.start_server()?;
        for number in 0..volumes.profiles.len() {
            volumes.make(number)?;
        }
        Ok(volumes)
    }

    /// The mounted volumes, in the order of the profiles.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let target = |(number, directory): (usize, &PathBuf)| {
            let mut target = Target::new(directory.clone());
            target.name = self.profiles[number].to_string();
            target.unmount = Some(format!("{} umount \"$DIR\"", quoted(&self.program)));
            target.mount = Some(self.mount_command(number));
            target.store = Some(self.data());
            target
        };
        self.mounts.iter().enumerate().map(target).collect()
    }

    /// Sentences about the first profile beside each of the others.
    pub(crate) fn savings(&self, report: &Report) -> Vec<String> {
        let Some((first, others)) = report.targets.split_first() else { return Vec::new() };
        first.archive.iter().enumerate().map(|(index, point)| self.saving(first, index, point, others)).collect()
    }

    fn saving(&self, first: &TargetReport, index: usize, point: &ArchivePoint, others: &[TargetReport]) -> String {
        let (singly, packed) = quota(&self.profiles[0], point);
        let mut text = format!(
            "{} files of {} on {}: written singly {} s, as one archive {} s; read {} s and {} s. The archive saves {} of \
             the time to write and {} of the time to read; it takes {} of the quota instead of {}.",
            count(point.count),
            bytes(point.size),
            first.name,
            figure(point.files_write),
            figure(point.archive_write),
            figure(point.files_read),
            figure(point.archive_read),
            share(point.files_write, point.archive_write),
            share(point.files_read, point.archive_read),
            bytes(packed),
            bytes(singly),
        );
        for other in others {
            if let Some(there) = other.archive.get(index) {
                // Writing to a string cannot fail.
                let _ = write!(
                    text,
                    " On {} the single files take {} s to write and {} s to read.",
                    other.name,
                    figure(there.files_write),
                    figure(there.files_read),
                );
            }
        }
        text
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn address(&self) -> String {
        format!("unix:{}", paths::socket_in(&self.data()).display())
    }

    fn start_server(&mut self) -> Result<()> {
        let log = File::create(self.folder.path().join("server.log")).context("cannot write the server's log")?;
        let child = Command::new(&self.program)
            .args(["serve", "--listen", "none", "--data"])
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start the server for the volumes")?;
        self.server = Some(child);
        let deadline = Instant::now() + START_LIMIT;
        while let Err(error) = connect::ask(&self.connection(), AdminRequest::VolumeList) {
            let ended = self.server.as_mut().is_some_and(|server| !matches!(server.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                return Err(error).with_context(|| format!("the server for the volumes did not start: {}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn connection(&self) -> Connection {
        Connection { server: Some(self.address()), key: None, key_file: None, tls_ca: None }
    }

    fn make(&mut self, number: usize) -> Result<()> {
        let request = AdminRequest::VolumeCreate {
            name: name_of(number),
            bytes_limit: VOLUME_BYTES,
            inodes_limit: None,
            data_center: "LOCAL".into(),
            chunk_size: 4 << 20,
            profile: self.profiles[number].to_string(),
        };
        connect::ask(&self.connection(), request)?;
        let directory = self.folder.path().join(format!("mnt{number}"));
        let status = Command::new("sh").args(["-c", &self.mount_command(number)]).env("DIR", &directory).status();
        self.mounts.push(directory);
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => bail!(WithExit(Exit::CannotMount, format!("a volume cannot be mounted: {}", self.log()))),
            Err(error) => Err(error).context("cannot run `cairn mount`"),
        }
    }

    fn mount_command(&self, number: usize) -> String {
        format!(
            "{} mount {} \"$DIR\" --server {} --log-file {}",
            quoted(&self.program),
            name_of(number),
            quoted(Path::new(&self.address())),
            quoted(&self.folder.path().join("mount.log")),
        )
    }

    /// The last lines of the logs, for a message: they are about to be removed.
    fn log(&self) -> String {
        let tail = |name: &str| {
            let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(3)..].join("; ")
        };
        [tail("server.log"), tail("mount.log")].join("; ")
    }

    /// Asks the server to end, and makes sure that it does.
    fn stop_server(server: &mut Child) {
        if let Ok(pid) = i32::try_from(server.id()) {
            // SAFETY: a signal to a child that has not been waited for, so its number is still its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        let deadline = Instant::now() + STOP_LIMIT;
        while matches!(server.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = server.kill();
        let _ = server.wait();
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        for directory in &self.mounts {
            let unmount = |flags: &[&str]| {
                let outcome =
                    Command::new(&self.program).arg("umount").args(flags).arg(directory).stderr(Stdio::null()).status();
                outcome.is_ok_and(|status| status.success())
            };
            // One that is unmounted at this moment (a measurement was interrupted) is told apart by neither.
            if !unmount(&["--timeout", "30s"]) {
                unmount(&["--lazy"]);
            }
        }
        if let Some(server) = &mut self.server {
            Self::stop_server(server);
        }
    }
}

fn name_of(number: usize) -> String {
    format!("bench{number}")
}

/// As one word for a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// What the files of a point cost of a volume's quota, in bytes: singly and as one archive.
fn quota(profile: &Profile, point: &ArchivePoint) -> (u64, u64) {
    let allocation = profile.allocation();
    let entry = ARCHIVE_BLOCK + point.size.next_multiple_of(ARCHIVE_BLOCK);
    let archive = point.count * entry + 2 * ARCHIVE_BLOCK;
    (point.count * allocation.charged(point.size), allocation.charged(archive))
}

/// How much of `whole` is saved when `part` is left of it.
fn share(whole: f64, part: f64) -> String {
    if part >= whole {
        return "nothing".to_owned();
    }
    format!("{:.0} %", (1.0 - part / whole) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_is_counted_as_the_profile_counts() {
        let point = ArchivePoint {
            size: 1024,
            count: 1000,
            files_write: 1.0,
            files_read: 1.0,
            archive_write: 1.0,
            archive_read: 1.0,
            extract: 1.0,
        };
        let moosefs = "moosefs".parse().expect("a profile");
        let archive = (1000u64 * 1536 + 1024).next_multiple_of(64 * 1024) + 8 * 1024;
        assert_eq!(quota(&moosefs, &point), (1000 * 72 * 1024, archive));
        assert_eq!(quota(&Profile::default(), &point), (1000 * 1024, 1000 * 1536 + 1024));
    }

    #[test]
    fn a_saving_is_a_share() {
        assert_eq!(share(10.0, 1.0), "90 %");
        assert_eq!(share(1.0, 1.0), "nothing");
    }

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted(Path::new("/it's here")), "'/it'\\''s here'");
    }
}
