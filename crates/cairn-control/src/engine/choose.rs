//! Which engine there is: the one that was named, or the first that works.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cairn_client::ConnectOptions;
use cairn_containers::durable::{self, DurableError};
use cairn_containers::{CairnProgram, HostMounts, program};
use cairn_types::VolumeId;

use super::cli::{Brand, CliEngine, Command};
use super::{ContainerEngine, ContainerId, EngineError, PodContainer, PodSpec};

/// How long an engine may take to say that it works.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Which engine shall run pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// Podman or else Docker, whichever works; none if neither does.
    #[default]
    Auto,
    Podman,
    Docker,
    /// Pods are records.
    None,
}

/// How pods are run.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub choice: EngineChoice,
    /// Arguments of every call of the engine, ahead of its command (`--runtime=runc`).
    pub engine_arguments: Vec<String>,
    /// Further arguments for each container (`--network=none`).
    pub pod_arguments: Vec<String>,
    /// Folder for mounts and for what must survive a restart; belongs to one server.
    pub state: PathBuf,
    /// The server whose volumes pods get.
    pub connect: ConnectOptions,
    /// The `cairn` program, which mounts.
    pub program: PathBuf,
}

/// The engine that `options` ask for; `None` where pods are records because none was asked for or `auto` found none. One that
/// was named and does not work answers with the reason. Containers and mounts that an earlier run of the server left are found again.
pub async fn choose(options: EngineOptions) -> Result<Option<Arc<dyn ContainerEngine>>, DurableError> {
    let brands: &[Brand] = match options.choice {
        EngineChoice::Auto => &[Brand::Podman, Brand::Docker],
        EngineChoice::Podman => &[Brand::Podman],
        EngineChoice::Docker => &[Brand::Docker],
        EngineChoice::None => &[],
    };
    let mut reasons = Vec::new();
    for brand in brands {
        let command = Command { brand: *brand, arguments: options.engine_arguments.clone() };
        match probe(&command).await {
            Ok(version) => return Ok(Some(Arc::new(open(options, command, version).await?))),
            Err(reason) => reasons.push(format!("{} does not work here: {reason}", brand.program())),
        }
    }
    let reasons = reasons.join("; ");
    match options.choice {
        EngineChoice::None => Ok(None),
        EngineChoice::Auto => {
            tracing::info!("pods are only recorded, not run: {reasons}");
            Ok(None)
        }
        EngineChoice::Podman | EngineChoice::Docker => {
            tracing::error!("pods cannot be run: {reasons}");
            Ok(Some(Arc::new(Unusable(reasons))))
        }
    }
}

/// The version of an engine that works.
async fn probe(command: &Command) -> Result<String, String> {
    let outcome = command.run(command.brand.probe(), PROBE_LIMIT).await.map_err(|error| match error {
        program::RunError::CannotRun { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            "not installed".to_owned()
        }
        error => error.to_string(),
    })?;
    match outcome.stdout.trim() {
        version if outcome.status.success() && !version.is_empty() => Ok(version.to_owned()),
        _ => Err(outcome.complaint()),
    }
}

async fn open(options: EngineOptions, command: Command, version: String) -> Result<CliEngine, DurableError> {
    durable::private_folder(&options.state)?;
    let state =
        options.state.canonicalize().map_err(|source| DurableError::Io { path: options.state.clone(), source })?;
    let server = server_id(&state)?;
    let mounts = HostMounts::open(state.clone(), CairnProgram::new(options.program, &options.connect)).await?;
    tracing::info!("pods run by {} {version}", command.brand.program());
    Ok(CliEngine::new(command, version, options.pod_arguments, server, mounts, state))
}

/// Tells the containers of this server from another's; made once.
fn server_id(state: &Path) -> Result<String, DurableError> {
    let path = state.join("server.json");
    let known: Option<String> = durable::load(&path)?;
    if let Some(id) = known {
        return Ok(id);
    }
    let id = VolumeId::from_entropy(rand::random()).to_string();
    durable::save(&path, &Some(&id))?;
    Ok(id)
}

/// Stands for an engine that was named and does not work: whoever wants a pod is told why.
struct Unusable(String);

#[async_trait]
impl ContainerEngine for Unusable {
    fn name(&self) -> String {
        self.0.clone()
    }

    async fn start(&self, _: &PodSpec) -> Result<ContainerId, EngineError> {
        Err(EngineError::Unavailable(self.0.clone()))
    }

    async fn stop(&self, _: &ContainerId) -> Result<(), EngineError> {
        Err(EngineError::Unavailable(self.0.clone()))
    }

    async fn resume(&self, _: &ContainerId) -> Result<(), EngineError> {
        Err(EngineError::Unavailable(self.0.clone()))
    }

    async fn remove(&self, _: &ContainerId) -> Result<(), EngineError> {
        Err(EngineError::Unavailable(self.0.clone()))
    }

    async fn logs(&self, _: &ContainerId, _: usize) -> Result<String, EngineError> {
        Err(EngineError::Unavailable(self.0.clone()))
    }

    async fn list(&self) -> Result<Vec<PodContainer>, EngineError> {
        Err(EngineError::Unavailable(self.0.clone()))
    }
}
