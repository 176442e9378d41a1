//! What the engine asks for, done: volumes at the server, mounts on this host.
//!
//! A name of the engine stands for the volume of that name, or of that id, at the server. What exists is taken as it is, and
//! stays when the engine removes its name; what does not exist is made, and deleted again when the engine removes it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use cairn_client::{AdminClient, AdminError, ConnectOptions, ServerAddress};
use cairn_locks::Mutex;
use cairn_types::{Errno, Timestamp};
use cairn_wire::admin::{AdminReply, AdminRequest, VolumeInfo, VolumeStatus};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::messages::{Answer, Call, Capabilities, Volume};
use super::options::VolumeSpec;
use super::registry::{Known, Registry};
use crate::durable::DurableError;
use crate::lock_order;
use crate::mounts::{HoldError, HostMounts};

/// Chunk size of a volume that is made without one, as `cairn volume create` has it.
const DEFAULT_CHUNK_SIZE: u32 = 4 << 20;
const DEFAULT_DATA_CENTER: &str = "LOCAL";

/// Why it was not done: a sentence for whoever called the engine.
#[derive(Debug, thiserror::Error)]
pub(super) enum DriverError {
    #[error("the request names no volume")]
    NoName,
    #[error("the request has no mount ID")]
    NoId,
    #[error("the plug-in knows no volume {0:?}: create it with `docker volume create` or `podman volume create` first")]
    Unknown(String),
    #[error("volume {name:?}: {reason}")]
    Options { name: String, reason: String },
    #[error(
        "volume {name:?} exists with {what} {found}, not {wanted}: leave the option out to use it as it is, or change the \
         volume with `cairn volume resize`"
    )]
    Different { name: String, what: &'static str, found: String, wanted: String },
    #[error("volume {name:?} is mounted by {holders} container(s): remove them first")]
    InUse { name: String, holders: usize },
    #[error(transparent)]
    Server(#[from] AdminError),
    #[error("the server gave an unexpected answer; are server and plug-in the same version?")]
    Unexpected,
    #[error(transparent)]
    Mount(#[from] HoldError),
    #[error(transparent)]
    Record(#[from] DurableError),
}

pub(super) struct Driver {
    connect: ConnectOptions,
    default_size: u64,
    mounts: HostMounts,
    registry: Registry,
    /// One turn for each name: making, removing and mounting a volume do not overlap.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>, lock_order::PluginTurns>,
}

impl Driver {
    pub(super) fn new(
        state: &Path,
        connect: ConnectOptions,
        default_size: u64,
        mounts: HostMounts,
    ) -> Result<Self, DurableError> {
        Ok(Driver { connect, default_size, mounts, registry: Registry::open(state)?, turns: Mutex::default() })
    }

    /// `None` where the protocol has no such request.
    pub(super) async fn answer(&self, path: &str, call: Call) -> Result<Option<Answer>, DriverError> {
        let answer = match path {
            "/Plugin.Activate" => Answer::Implements(vec!["VolumeDriver"]),
            "/VolumeDriver.Capabilities" => Answer::Capabilities(Capabilities { scope: self.scope() }),
            "/VolumeDriver.List" => self.list()?,
            "/VolumeDriver.Get" => Answer::Volume(self.get(named(&call)?).await?),
            "/VolumeDriver.Path" => Answer::Mountpoint(self.mountpoint(&self.known(named(&call)?)?)),
            "/VolumeDriver.Create" => {
                let name = named(&call)?.to_owned();
                let _turn = self.turn(&name).await;
                self.create(&name, &call.opts.unwrap_or_default()).await?;
                Answer::DONE
            }
            "/VolumeDriver.Remove" => {
                let name = named(&call)?;
                let _turn = self.turn(name).await;
                self.remove(name).await?;
                Answer::DONE
            }
            "/VolumeDriver.Mount" => {
                let name = named(&call)?;
                let _turn = self.turn(name).await;
                let known = self.known(name)?;
                let directory = self.mounts.hold(&known.volume, &holder(name, &call)?, &known.mount_flags).await?;
                Answer::Mountpoint(directory.display().to_string())
            }
            "/VolumeDriver.Unmount" => {
                let name = named(&call)?;
                let _turn = self.turn(name).await;
                self.mounts.release(&self.known(name)?.volume, &holder(name, &call)?).await?;
                Answer::DONE
            }
            _ => return Ok(None),
        };
        Ok(Some(answer))
    }

    /// A server on a network shows the same volumes to every host; a Unix socket only to this one.
    fn scope(&self) -> &'static str {
        match self.connect.address {
            ServerAddress::Unix(_) => "local",
            ServerAddress::Tcp { .. } | ServerAddress::Tls { .. } => "global",
        }
    }

    fn known(&self, name: &str) -> Result<Known, DriverError> {
        self.registry.get(name).ok_or_else(|| DriverError::Unknown(name.to_owned()))
    }

    fn mountpoint(&self, known: &Known) -> String {
        if self.mounts.holders(&known.volume).is_empty() {
            return String::new();
        }
        self.mounts.directory(&known.volume).display().to_string()
    }

    fn list(&self) -> Result<Answer, DriverError> {
        let volumes = self.registry.all().into_iter().map(|(name, known)| self.describe(name, &known));
        Ok(Answer::Volumes(volumes.collect()))
    }

    async fn get(&self, name: &str) -> Result<Volume, DriverError> {
        let known = self.known(name)?;
        let mut volume = self.describe(name.to_owned(), &known);
        // An engine asks for a volume before it mounts it: one that is gone at the server is better told now.
        let status = self.show(known.volume.as_str()).await?.ok_or_else(|| DriverError::Unknown(name.to_owned()))?;
        volume.status.insert("size", status.info.bytes_limit.into());
        volume.status.insert("used", status.usage.bytes_used.into());
        Ok(volume)
    }

    fn describe(&self, name: String, known: &Known) -> Volume {
        let status = BTreeMap::from([
            ("id", known.volume.as_str().into()),
            ("mounts", self.mounts.holders(&known.volume).len().into()),
        ]);
        Volume { name, mountpoint: self.mountpoint(known), created_at: rfc3339(known.created), status }
    }

    async fn create(&self, name: &str, options: &BTreeMap<String, String>) -> Result<(), DriverError> {
        let refused = |reason| DriverError::Options { name: name.to_owned(), reason };
        let spec = VolumeSpec::read(options).map_err(refused)?;
        let (info, made_here) = match self.show(name).await? {
            Some(status) => {
                agrees(name, &status.info, &spec)?;
                let known = self.registry.get(name).filter(|known| known.volume == status.info.id);
                (status.info, known.is_some_and(|known| known.made_here))
            }
            None => (self.make(name, &spec).await?, true),
        };
        let known = Known { volume: info.id, made_here, created: Timestamp::now().secs, mount_flags: spec.mount_flags };
        self.registry.put(name, known)?;
        Ok(())
    }

    async fn make(&self, name: &str, spec: &VolumeSpec) -> Result<VolumeInfo, DriverError> {
        let request = AdminRequest::VolumeCreate {
            name: name.to_owned(),
            bytes_limit: spec.size.unwrap_or(self.default_size),
            inodes_limit: spec.inodes,
            data_center: spec.data_center.clone().unwrap_or_else(|| DEFAULT_DATA_CENTER.to_owned()),
            chunk_size: spec.chunk_size.unwrap_or(DEFAULT_CHUNK_SIZE),
            profile: spec.profile.unwrap_or_default().to_string(),
        };
        match self.ask(request).await? {
            AdminReply::Volume(status) => Ok(status.info),
            _ => Err(DriverError::Unexpected),
        }
    }

    async fn remove(&self, name: &str) -> Result<(), DriverError> {
        let Some(known) = self.registry.get(name) else { return Ok(()) };
        let holders = self.mounts.holders(&known.volume).len();
        if holders > 0 {
            return Err(DriverError::InUse { name: name.to_owned(), holders });
        }
        if known.made_here {
            match self.ask(AdminRequest::VolumeDelete { volume: known.volume.to_string() }).await {
                Ok(_) => tracing::info!(name, volume = %known.volume, "deleted"),
                Err(DriverError::Server(AdminError::Failed(error))) if error == Errno::ENOENT => {}
                Err(error) => return Err(error),
            }
        } else {
            tracing::info!(name, volume = %known.volume, "forgotten; the volume was not made by this plug-in, and stays");
        }
        self.registry.forget(name)?;
        Ok(())
    }

    /// The volume of that name or id, if there is one.
    async fn show(&self, volume: &str) -> Result<Option<VolumeStatus>, DriverError> {
        match self.ask(AdminRequest::VolumeShow { volume: volume.to_owned() }).await {
            Ok(AdminReply::Volume(status)) => Ok(Some(status)),
            Ok(_) => Err(DriverError::Unexpected),
            Err(DriverError::Server(AdminError::Failed(error))) if error == Errno::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A connection for each question, so that a server's restart is noticed by nobody.
    async fn ask(&self, request: AdminRequest) -> Result<AdminReply, DriverError> {
        Ok(AdminClient::connect(&self.connect).await?.request(request).await?)
    }

    async fn turn(&self, name: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock();
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(name.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

fn named(call: &Call) -> Result<&str, DriverError> {
    if call.name.is_empty() { Err(DriverError::NoName) } else { Ok(&call.name) }
}

/// Two names may stand for one volume (its name and its id), and an engine may use one id for all it mounts.
fn holder(name: &str, call: &Call) -> Result<String, DriverError> {
    if call.id.is_empty() { Err(DriverError::NoId) } else { Ok(format!("{name}/{}", call.id)) }
}

/// Whether a volume that exists is as the options say.
fn agrees(name: &str, info: &VolumeInfo, spec: &VolumeSpec) -> Result<(), DriverError> {
    let wanted = [
        ("size", info.bytes_limit.to_string(), spec.size.map(|size| size.to_string())),
        ("inodes", info.inodes_limit.to_string(), spec.inodes.map(|inodes| inodes.to_string())),
        ("chunk-size", info.chunk_size.to_string(), spec.chunk_size.map(|size| size.to_string())),
        ("data-center", info.data_center.clone(), spec.data_center.clone()),
        ("profile", info.profile.clone(), spec.profile.map(|profile| profile.to_string())),
    ];
    for (what, found, wanted) in wanted {
        if let Some(wanted) = wanted
            && wanted != found
        {
            return Err(DriverError::Different { name: name.to_owned(), what, found, wanted });
        }
    }
    Ok(())
}

fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}
