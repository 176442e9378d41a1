//! Answers what an operator asks over the wire: who may, and which part of the server does it.
//!
//! A key for volumes may look at its volumes; everything else takes an admin key or the Unix socket.

use std::sync::Arc;

use cairn_types::{Errno, VolumeId};
use cairn_wire::Response;
use cairn_wire::admin::{AdminReply, AdminRequest, KeyScope, KeyScopeRequest, ServerStatus};
use cairn_wire::message::{Answer, Failure};

use crate::SOFTWARE;
use crate::catalogue::{CatalogueError, NewVolume};
use crate::checks::CheckError;
use crate::keys::{Access, KeyError};
use crate::server::ServerState;

/// Does what is asked, or says why not.
pub(crate) async fn answer(shared: &Arc<ServerState>, access: &Access, request: AdminRequest) -> Response {
    dispatch(shared, access, request).await.map(Answer::Admin)
}

async fn dispatch(shared: &Arc<ServerState>, access: &Access, request: AdminRequest) -> Result<AdminReply, Failure> {
    let catalogue = &shared.catalogue;
    let looks_only = matches!(request, AdminRequest::VolumeList | AdminRequest::VolumeShow { .. });
    if !access.is_admin() && !looks_only {
        let message = "this key opens volumes only: administration takes an admin key, or the Unix socket".to_owned();
        return Err(Failure { errno: Errno::EPERM, message });
    }
    let find = |volume: &str| -> Result<VolumeId, CatalogueError> { catalogue.resolve(volume, |id| access.opens(id)) };
    Ok(match request {
        AdminRequest::VolumeCreate { name, bytes_limit, inodes_limit, data_center, chunk_size, profile } => {
            let profile = profile.parse().map_err(CatalogueError::InvalidProfile)?;
            let wanted = NewVolume { name, bytes_limit, inodes_limit, data_center, chunk_size, profile };
            AdminReply::Volume(catalogue.create(wanted).await?)
        }
        AdminRequest::VolumeList => AdminReply::Volumes(catalogue.list(|id| access.opens(id)).await),
        AdminRequest::VolumeShow { volume } => AdminReply::Volume(catalogue.show(&find(&volume)?).await?),
        AdminRequest::VolumeResize { volume, bytes_limit, inodes_limit } => {
            AdminReply::Volume(catalogue.resize(&find(&volume)?, bytes_limit, inodes_limit).await?)
        }
        AdminRequest::VolumeRename { volume, name } => {
            AdminReply::Volume(catalogue.rename(&find(&volume)?, name).await?)
        }
        AdminRequest::VolumeProfile { volume, profile } => {
            let profile = profile.parse().map_err(CatalogueError::InvalidProfile)?;
            AdminReply::Volume(catalogue.set_profile(&find(&volume)?, profile).await?)
        }
        AdminRequest::VolumeDelete { volume } => {
            shared.delete_volume(&find(&volume)?).await?;
            AdminReply::Done
        }
        AdminRequest::Status => AdminReply::Status(Box::new(status(shared).await)),
        AdminRequest::KeyCreate { label, scope } => {
            let scope = match scope {
                KeyScopeRequest::Admin => KeyScope::Admin,
                KeyScopeRequest::Volumes(volumes) => {
                    KeyScope::Volumes(volumes.iter().map(|volume| find(volume)).collect::<Result<_, _>>()?)
                }
            };
            let keys = Arc::clone(&shared.keys);
            let made = in_background(move || keys.create(label, scope)).await?;
            let (key, info) = made?;
            AdminReply::KeyCreated { key, info }
        }
        AdminRequest::KeyList => AdminReply::Keys(shared.keys.list()),
        AdminRequest::KeyRevoke { id } => {
            let shared = Arc::clone(shared);
            in_background(move || shared.revoke_key(&id)).await??;
            AdminReply::Done
        }
        AdminRequest::CheckStart { volume, options } => {
            let volume = catalogue.open_volume(&find(&volume)?).await?;
            AdminReply::CheckStarted { check: shared.checks.start(volume, options)? }
        }
        AdminRequest::CheckProgress { check } => AdminReply::CheckProgress(shared.checks.progress(check)?),
    })
}

async fn status(shared: &ServerState) -> ServerStatus {
    ServerStatus {
        software: SOFTWARE.to_owned(),
        uptime_ms: u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        listening: shared.listening(),
        data_directory: shared.data_path().display().to_string(),
        memory_bytes: memory_bytes(),
        volumes: shared.catalogue.list(|_| true).await,
        sessions: shared.catalogue.sessions(),
        counters: shared.all_counters(),
    }
}

/// Physical memory that this process takes, in bytes; 0 if the system does not say.
pub(crate) fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// Runs what waits for the disk where it holds up nobody.
async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|_| CatalogueError::TaskFailed.into())
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let errno = match &error {
            KeyError::Unknown(_) => Errno::ENOENT,
            KeyError::InvalidLabel | KeyError::NoVolumes => Errno::EINVAL,
            KeyError::Store(_) => Errno::EIO,
        };
        Failure { errno, message: error.to_string() }
    }
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Self {
        let errno = match &error {
            CheckError::AlreadyRunning { .. } => Errno::EBUSY,
            CheckError::Unknown(_) => Errno::ENOENT,
        };
        Failure { errno, message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_some_memory() {
        let bytes = memory_bytes();
        assert!((1 << 20..1 << 40).contains(&bytes), "{bytes}");
    }
}
