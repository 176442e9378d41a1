//! Mounting by this program itself: `cairn mount` in the background, `cairn umount`.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_client::ConnectOptions;
use cairn_types::VolumeId;
use cairn_types::errno::DEAD_MOUNT;

use super::{MountState, Mounter};
use crate::program::{self, RunError};

/// `cairn mount` limits every wait of its own; this is for the case that it is stuck all the same.
const MOUNT_LIMIT: Duration = Duration::from_secs(90);
/// How long a mount that is let go of may write before it goes on in the background.
const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// Looking at a mounted directory asks its process, which may be waiting for the server.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// This program, and the server whose volumes it mounts.
#[derive(Clone, Debug)]
pub struct CairnProgram {
    program: PathBuf,
    server: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl CairnProgram {
    /// Mounts by `program` from the server that `connect` names. The key goes by the environment, which others do not see.
    pub fn new(program: PathBuf, connect: &ConnectOptions) -> Self {
        let mut server = vec!["--server".into(), connect.address.to_string().into()];
        if let Some(authority) = &connect.tls_ca {
            server.extend(["--tls-ca".into(), authority.into()]);
        }
        let environment = connect.key.iter().map(|key| ("CAIRN_KEY".into(), key.into())).collect();
        CairnProgram { program, server, environment }
    }

    async fn run(&self, arguments: Vec<OsString>, limit: Duration) -> Result<(), String> {
        match program::run(self.program.as_os_str(), &arguments, &self.environment, limit).await {
            Ok(outcome) if outcome.status.success() => Ok(()),
            Ok(outcome) => {
                let complaint = outcome.complaint();
                Err(complaint.strip_prefix("cairn: ").unwrap_or(&complaint).to_owned())
            }
            Err(error @ (RunError::CannotRun { .. } | RunError::TimedOut { .. })) => Err(error.to_string()),
        }
    }

    async fn umount(&self, directory: &Path, flags: &[&str]) -> Result<(), String> {
        let mut arguments: Vec<OsString> = vec!["umount".into()];
        arguments.extend(flags.iter().map(OsString::from));
        arguments.extend(["--timeout".into(), format!("{}s", WRITE_LIMIT.as_secs()).into(), directory.into()]);
        self.run(arguments, WRITE_LIMIT + Duration::from_secs(30)).await
    }
}

impl Mounter for CairnProgram {
    async fn state(&self, directory: &Path) -> MountState {
        let directory = directory.to_owned();
        let look = tokio::task::spawn_blocking(move || look(&directory));
        match tokio::time::timeout(LOOK_LIMIT, look).await {
            Ok(Ok(state)) => state,
            // It waits for the server, as it should.
            Ok(Err(_)) | Err(_) => MountState::Live,
        }
    }

    async fn mount(&self, volume: &VolumeId, directory: &Path, log: &Path, flags: &[String]) -> Result<(), String> {
        let mut arguments: Vec<OsString> = vec!["mount".into(), volume.as_str().into(), directory.into()];
        arguments.extend(self.server.iter().cloned());
        arguments.extend(["--log-file".into(), log.into()]);
        arguments.extend(flags.iter().map(OsString::from));
        self.run(arguments, MOUNT_LIMIT).await
    }

    async fn unmount(&self, directory: &Path) -> Result<(), String> {
        let mut outcome = self.umount(directory, &[]).await;
        if outcome.is_err() && self.state(directory).await != MountState::Absent {
            tracing::warn!("{} is still in use; detaching it", directory.display());
            outcome = self.umount(directory, &["--lazy"]).await;
        }
        match outcome {
            Err(reason) if self.state(directory).await != MountState::Absent => return Err(reason),
            Err(reason) => tracing::warn!("{}: {reason}", directory.display()),
            Ok(()) => {}
        }
        match std::fs::remove_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", directory.display());
            }
            _ => {}
        }
        Ok(())
    }
}

/// A mount point is on another device than its parent; a mount without a process answers with one of [`DEAD_MOUNT`], but not
/// while the kernel knows the answer itself. `statfs` it never does.
fn look(directory: &Path) -> MountState {
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
    let dead = |error: &io::Error| error.raw_os_error().is_some_and(|errno| DEAD_MOUNT.contains(&errno));
    match (device(directory), directory.parent().map(device)) {
        (Ok(own), Some(Ok(outer))) if own != outer => match rustix::fs::statfs(directory).map_err(io::Error::from) {
            Err(error) if dead(&error) => MountState::Dead,
            _ => MountState::Live,
        },
        (Err(error), _) if dead(&error) => MountState::Dead,
        (Err(error), _) if error.kind() != io::ErrorKind::NotFound => MountState::Live,
        _ => MountState::Absent,
    }
}
