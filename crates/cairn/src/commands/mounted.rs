//! A mount's life inside this process: open the volume, hand it to the kernel, wait, write everything, leave.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cairn_client::api::FileSystem;
use cairn_client::{ConnectOptions, DiskCacheOptions, SessionOptions, Volume, VolumeOptions};
use cairn_emulation::Emulated;
use cairn_fuse::{Mount, MountError, MountOptions};
use cairn_runtime::MemoryBudget;
use cairn_types::Profile;
use cairn_types::errno::DEAD_MOUNT;
use cairn_types::profile::MOOSEFS_SOURCE;
use cairn_wire::admin::VolumeInfo;
use cairn_wire::handshake::{ClientInfo, ClientKind};

use crate::cli::MountTuning;
use crate::commands::report::{self, Emulation};
use crate::exit_code::{Exit, WithExit};
use crate::{connect, paths, runtime};

/// How long an orderly end may take to write what is buffered.
const CLOSE_LIMIT: Duration = Duration::from_secs(60);
/// How long programs may go on using the directory before it is taken away under them.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(5);

/// What to mount where.
pub(crate) struct Plan {
    /// Of this process.
    pub(crate) memory: MemoryBudget,
    pub(crate) connect: ConnectOptions,
    pub(crate) volume: String,
    pub(crate) directory: PathBuf,
    pub(crate) tuning: MountTuning,
    /// Options passed through to the kernel.
    pub(crate) kernel_options: Vec<String>,
    /// Whether a closed terminal ends the mount.
    pub(crate) foreground: bool,
}

/// A volume that programs can use.
pub(crate) struct Live {
    volume: Volume,
    mount: Arc<Mount>,
    name: String,
    directory: PathBuf,
    foreground: bool,
}

/// Makes the volume available at its directory.
pub(crate) async fn start(plan: Plan) -> Result<Live> {
    let directory = absolute(&plan.directory)?;
    let info = ClientInfo {
        host: host_name(),
        pid: std::process::id(),
        kind: ClientKind::Mount { directory: directory.display().to_string() },
        read_only: plan.tuning.read_only,
    };
    let has = |word: &str| plan.kernel_options.iter().any(|option| option.split(',').any(|given| given == word));
    if has("strictatime") {
        bail!(WithExit(
            Exit::Usage,
            "strictatime is not supported: access times follow relatime; mount without it, or with \
             noatime or nodiratime"
                .into()
        ));
    }
    let mut session = SessionOptions::new(plan.connect, plan.volume, info);
    session.give_up_after = plan.tuning.server_timeout;
    session.short_circuit = !plan.tuning.no_short_circuit;
    let options = VolumeOptions {
        cache_bytes: plan.tuning.cache_size.0,
        disk_cache: disk_cache(&plan.tuning),
        read_only: plan.tuning.read_only,
        noatime: plan.tuning.noatime || has("noatime"),
        nodiratime: has("nodiratime"),
        recovery_dir: paths::recovery_directory(),
        ..VolumeOptions::new(plan.memory)
    };
    let runtime = tokio::runtime::Handle::current();
    let volume = Volume::open(session, options, runtime.clone()).await.map_err(connect::open_volume_error)?;
    let name = volume.info().name.clone();
    let profile = match profile_for(plan.tuning.profile, volume.info()) {
        Ok(profile) => profile,
        Err(error) => {
            volume.close(CLOSE_LIMIT).await.context("the volume could not be closed cleanly")?;
            return Err(error);
        }
    };

    let mut mount_options = MountOptions::new(directory.clone(), name.clone());
    mount_options.read_only = plan.tuning.read_only;
    mount_options.allow_other |= plan.tuning.allow_other;
    mount_options.transport = plan.tuning.transport.into();
    mount_options.threads = plan.tuning.threads.unwrap_or(0);
    mount_options.extra = plan.kernel_options;
    if plan.tuning.nonempty {
        mount_options.extra.push("nonempty".into());
    }
    if profile.moosefs_source {
        mount_options.emulated_source = Some(MOOSEFS_SOURCE.to_owned());
    }
    let file_system = volume.clone();
    let mounted = tokio::task::spawn_blocking(move || make(file_system, profile, &mount_options, runtime)).await?;
    let (mount, emulation) = match mounted {
        Ok((mount, emulation)) => (Arc::new(mount), emulation),
        Err(error) => {
            volume.close(CLOSE_LIMIT).await.context("the volume could not be closed cleanly")?;
            return Err(error);
        }
    };
    tracing::info!("{} receives requests by {}", directory.display(), mount.transport());
    if profile != Profile::default() {
        tracing::info!("{} emulates {profile}", directory.display());
    }
    volume.attach_kernel(mount.kernel_cache());
    let (of_volume, of_mount) = (volume.downgrade(), Arc::downgrade(&mount));
    volume.answer_stats_with(Box::new(move || report::json(&of_volume, &of_mount, &emulation)));
    Ok(Live { volume, mount, name, directory, foreground: plan.foreground })
}

/// What the mount emulates: what was asked for, or else what the volume does.
fn profile_for(wanted: Option<Profile>, info: &VolumeInfo) -> Result<Profile> {
    let Some(profile) = wanted else {
        return info.profile.parse().with_context(|| {
            format!(
                "volume {} has a profile that this version of cairn does not know: upgrade cairn, or choose a profile with --profile",
                info.name
            )
        });
    };
    if profile.allocation() != info.allocation {
        tracing::warn!(
            "the quota of {} still follows the volume's own profile ({}), because all mounts share it; \
             `cairn volume set {} --profile` changes it",
            info.name,
            info.profile,
            info.name
        );
    }
    Ok(profile)
}

/// Hands the volume to the kernel, with a layer between them only where the profile has something to do there.
fn make(
    volume: Volume,
    profile: Profile,
    options: &MountOptions,
    runtime: tokio::runtime::Handle,
) -> Result<(Mount, Emulation)> {
    if profile.leaves_requests_alone() {
        let mount = Mount::new(volume, options, runtime).map_err(|error| mount_error(&error))?;
        return Ok((mount, Emulation { profile, paced: None }));
    }
    let emulated = Emulated::new(volume, profile).context("cannot start the thread that adds the profile's delays")?;
    let paced = Box::new(emulated.watch());
    let mount = Mount::new(emulated, options, runtime).map_err(|error| mount_error(&error))?;
    Ok((mount, Emulation { profile, paced: Some(paced) }))
}

fn disk_cache(tuning: &MountTuning) -> Option<DiskCacheOptions> {
    let directory = tuning.cache_dir.clone()?;
    Some(DiskCacheOptions { directory, limit: tuning.disk_cache_size.0 })
}

fn mount_error(error: &MountError) -> anyhow::Error {
    WithExit(Exit::CannotMount, error.to_string()).into()
}

impl Live {
    pub(crate) fn volume_name(&self) -> &str {
        &self.name
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until somebody unmounts the directory or asks this process to stop; then writes everything.
    pub(crate) async fn run_to_end(self) -> Result<()> {
        let ended = tokio::select! {
            () = self.mount.wait() => None,
            reason = runtime::asked_to_stop(self.foreground) => Some(reason?),
        };
        if let Some(reason) = ended {
            tracing::info!("{reason}: unmounting {}", self.directory.display());
        }
        // What programs wrote goes out first, so that a busy mount that must be detached lazily loses nothing.
        let flushed = tokio::time::timeout(CLOSE_LIMIT, self.volume.sync_all()).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("some data could not be written; trying again while unmounting");
        }
        if ended.is_some()
            && let Err(error) = self.mount.unmount(UNMOUNT_LIMIT).await
        {
            tracing::warn!("{} could not be unmounted: {error}", self.directory.display());
        }
        self.volume
            .close(CLOSE_LIMIT)
            .await
            .with_context(|| format!("not all data was written before {} was unmounted", self.directory.display()))
    }
}

/// The directory as an absolute path, made if it does not exist.
fn absolute(directory: &Path) -> Result<PathBuf> {
    if let Err(error) = std::fs::create_dir_all(directory)
        && error.kind() != std::io::ErrorKind::AlreadyExists
        && !error.raw_os_error().is_some_and(|errno| DEAD_MOUNT.contains(&errno))
    {
        let message = format!("cannot create the directory {}: {error}", directory.display());
        return Err(WithExit(Exit::CannotMount, message).into());
    }
    std::path::absolute(directory).with_context(|| format!("no such directory: {}", directory.display()))
}

/// The name by which this machine's mounts are known to servers.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}
