//! Containers: the seam between pods as records ([`crate::service`]) and an engine that runs them.
//!
//! An engine knows containers and nothing of accounts, prices or rules. It labels what it starts with the pod's id, so that a
//! server that was restarted finds its pods again by [`ContainerEngine::list`]. Every call has an end: an engine that does not
//! answer in time is an error.

mod choose;
mod cli;

use std::collections::BTreeMap;

use async_trait::async_trait;
use cairn_types::VolumeId;

pub use choose::{EngineChoice, EngineOptions, choose};

/// What the container of a pod shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// The pod's id; the container is labelled with it.
    pub pod_id: String,
    pub image: String,
    /// Replaces the image's entry point, unless empty.
    pub entrypoint: Vec<String>,
    /// Replaces the image's command, unless empty.
    pub command: Vec<String>,
    /// Everything the container sees beside what the image sets: what the user asked for and the documented variables.
    pub env: BTreeMap<String, String>,
    pub ports: Vec<PortSpec>,
    pub mounts: Vec<MountSpec>,
}

/// A port of the container that shall be reachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    pub container_port: u16,
    /// As clients write it: `http`, `tcp` or `udp`.
    pub protocol: String,
}

/// A volume in a container. It hides what the image has at that path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    pub volume: VolumeId,
    /// Absolute path in the container.
    pub path: String,
}

/// The engine's own name of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerId(pub String);

/// A port of the container, and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    pub container_port: u16,
    pub protocol: String,
    pub host: String,
    pub host_port: u16,
}

/// How a container is at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    Running {
        ports: Vec<PublishedPort>,
    },
    /// It ended by itself or was stopped.
    Exited {
        code: Option<i32>,
    },
}

/// A container that belongs to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodContainer {
    pub pod_id: String,
    pub container: ContainerId,
    pub state: ContainerState,
}

/// Why the engine did not do it: a sentence for the user.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    #[error("no container engine: {0}")]
    Unavailable(String),
    #[error("the container engine has no image {image}: {reason}")]
    Image { image: String, reason: String },
    #[error("the container engine has no container {0}")]
    UnknownContainer(String),
    #[error("the volume {volume} could not be mounted for the container: {reason}")]
    Mount { volume: VolumeId, reason: String },
    #[error("the container engine refused: {0}")]
    Refused(String),
    #[error("the container engine did not answer within {0} s")]
    TimedOut(u64),
}

/// An engine that runs containers for pods.
#[async_trait]
pub trait ContainerEngine: Send + Sync {
    /// For people: `podman 5.4.2`.
    fn name(&self) -> String;

    /// Makes and starts the pod's container. After an error there is none.
    async fn start(&self, pod: &PodSpec) -> Result<ContainerId, EngineError>;

    /// Stops it; it can be resumed, and its own file system is kept. Succeeds if it is not running.
    async fn stop(&self, container: &ContainerId) -> Result<(), EngineError>;

    /// Starts a container again that was stopped or ended. Succeeds if it is running.
    async fn resume(&self, container: &ContainerId) -> Result<(), EngineError>;

    /// Stops and removes it, and lets go of its volumes. Succeeds if there is none.
    async fn remove(&self, container: &ContainerId) -> Result<(), EngineError>;

    /// The last `lines` lines of its output.
    async fn logs(&self, container: &ContainerId, lines: usize) -> Result<String, EngineError>;

    /// All containers that belong to pods of this server.
    async fn list(&self) -> Result<Vec<PodContainer>, EngineError>;
}
