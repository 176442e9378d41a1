//! Podman and Docker by their command lines, which agree in all that is used here.
//!
//! A container carries labels: its pod, its server and its volumes. A volume is mounted on this host as long as a container
//! that uses it runs ([`HostMounts`], held by the pod's id), and the container gets that directory; the mount is a process of its
//! own, so it goes on while the server is restarted, as the container does.
//!
//! Invariant: a pod whose container runs holds its volumes. Those that hold without running (the container ended by itself,
//! or was removed by somebody else) are let go of when [`ContainerEngine::list`] is asked and nothing else is going on.

mod arguments;
mod inspect;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use cairn_containers::HostMounts;
use cairn_containers::program::{self, Outcome, RunError};
use cairn_types::VolumeId;
use tokio::sync::RwLock;

use super::{ContainerEngine, ContainerId, ContainerState, EngineError, PodContainer, PodSpec};
use arguments::EnvironmentFile;
use inspect::Container;

/// Fetching an image of many gigabytes takes its time.
const PULL_LIMIT: Duration = Duration::from_secs(30 * 60);
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long a container may take to end when it is stopped, before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);

/// Label of a container: the id of its pod.
const POD_LABEL: &str = "cairn.pod";
/// Label of a container: the server that started it.
const SERVER_LABEL: &str = "cairn.server";
/// Label of a container: its volumes, separated by commas.
const VOLUMES_LABEL: &str = "cairn.volumes";

/// Whose command line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brand {
    Podman,
    Docker,
}

impl Brand {
    pub(super) fn program(self) -> &'static str {
        match self {
            Brand::Podman => "podman",
            Brand::Docker => "docker",
        }
    }

    /// What makes an engine that works print its version.
    pub(super) fn probe(self) -> Vec<OsString> {
        match self {
            Brand::Podman => words(&["info", "--format", "{{.Version.Version}}"]),
            Brand::Docker => words(&["version", "--format", "{{.Server.Version}}"]),
        }
    }
}

/// How the engine is called.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) brand: Brand,
    /// Ahead of its command.
    pub(super) arguments: Vec<String>,
}

impl Command {
    pub(super) async fn run(&self, arguments: Vec<OsString>, limit: Duration) -> Result<Outcome, RunError> {
        let all: Vec<OsString> = self.arguments.iter().map(OsString::from).chain(arguments).collect();
        program::run(OsStr::new(self.brand.program()), &all, &[], limit).await
    }
}

pub(super) struct CliEngine {
    command: Command,
    version: String,
    pod_arguments: Vec<String>,
    server: String,
    mounts: HostMounts,
    /// Folder for files that the engine reads.
    scratch: PathBuf,
    /// Read by whoever changes containers, written by who lets go of volumes: what is being started is no longer missing.
    changes: RwLock<()>,
}

impl CliEngine {
    pub(super) fn new(
        command: Command,
        version: String,
        pod_arguments: Vec<String>,
        server: String,
        mounts: HostMounts,
        scratch: PathBuf,
    ) -> Self {
        CliEngine { command, version, pod_arguments, server, mounts, scratch, changes: RwLock::new(()) }
    }

    async fn ask(&self, arguments: Vec<OsString>, limit: Duration) -> Result<Outcome, EngineError> {
        self.command.run(arguments, limit).await.map_err(|error| match error {
            RunError::TimedOut { limit, .. } => EngineError::TimedOut(limit.as_secs()),
            error @ RunError::CannotRun { .. } => EngineError::Unavailable(error.to_string()),
        })
    }

    /// The outcome of a command about one container.
    async fn ask_about(
        &self,
        container: &ContainerId,
        arguments: Vec<OsString>,
        limit: Duration,
    ) -> Result<Outcome, EngineError> {
        let outcome = self.ask(arguments, limit).await?;
        if outcome.status.success() {
            return Ok(outcome);
        }
        let complaint = outcome.complaint();
        if inspect::says_unknown(&complaint) {
            return Err(EngineError::UnknownContainer(container.0.clone()));
        }
        Err(EngineError::Refused(complaint))
    }

    /// Makes sure that the image is here and fetches it otherwise; the name by which the engine knows it.
    async fn fetch(&self, image: &str) -> Result<String, EngineError> {
        let names = [image.to_owned(), inspect::full_name(image)];
        for name in &names {
            let here = self.ask(words(&["image", "inspect", "--format", "{{.Id}}", "--", name]), LIMIT).await?;
            if here.status.success() {
                return Ok(name.clone());
            }
        }
        let [_, name] = names;
        tracing::info!(image = name, "fetching the image");
        let fetched = self.ask(words(&["pull", "--quiet", "--", &name]), PULL_LIMIT).await?;
        if fetched.status.success() {
            return Ok(name);
        }
        Err(EngineError::Image { image: image.to_owned(), reason: fetched.complaint() })
    }

    async fn hold(&self, pod: &str, volumes: &[VolumeId]) -> Result<Vec<PathBuf>, EngineError> {
        let mut directories = Vec::new();
        for volume in volumes {
            match self.mounts.hold(volume, pod, &[]).await {
                Ok(directory) => directories.push(directory),
                Err(error) => {
                    self.release(pod, volumes).await;
                    return Err(EngineError::Mount { volume: volume.clone(), reason: error.to_string() });
                }
            }
        }
        Ok(directories)
    }

    async fn release(&self, pod: &str, volumes: &[VolumeId]) {
        for volume in volumes {
            if let Err(error) = self.mounts.release(volume, pod).await {
                // Nobody uses it any more; the next start of the server tries again.
                tracing::warn!(pod, "{error}");
            }
        }
    }

    async fn run(&self, pod: &PodSpec, directories: &[PathBuf]) -> Result<ContainerId, EngineError> {
        arguments::check(pod, directories)?;
        let environment = EnvironmentFile::write(&self.scratch, pod)?;
        let arguments = arguments::of_run(pod, directories, &environment, &self.server, &self.pod_arguments);
        let outcome = self.ask(arguments, START_LIMIT).await?;
        let id = outcome.stdout.trim();
        if outcome.status.success() && !id.is_empty() {
            return Ok(ContainerId(id.to_owned()));
        }
        Err(EngineError::Refused(outcome.complaint()))
    }

    /// The container as the engine describes it; `None` if there is none.
    async fn look(&self, container: &ContainerId) -> Result<Option<Container>, EngineError> {
        Ok(self.describe(vec![container.0.clone()]).await?.pop())
    }

    async fn describe(&self, ids: Vec<String>) -> Result<Vec<Container>, EngineError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut arguments = words(&["inspect", "--type", "container", "--"]);
        arguments.extend(ids.into_iter().map(OsString::from));
        // One that was removed meanwhile makes the command fail; the others are described all the same.
        let outcome = self.ask(arguments, LIMIT).await?;
        inspect::read(&outcome.stdout)
            .map_err(|error| EngineError::Refused(format!("{error}: {}", outcome.complaint())))
    }

    async fn find(&self) -> Result<Vec<Container>, EngineError> {
        let label = format!("label={SERVER_LABEL}={}", self.server);
        let outcome = self.ask(words(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &label]), LIMIT).await?;
        if !outcome.status.success() {
            return Err(EngineError::Refused(outcome.complaint()));
        }
        self.describe(outcome.stdout.split_whitespace().map(str::to_owned).collect()).await
    }

    /// Lets go of volumes of pods whose containers do not run.
    async fn release_unused(&self) -> Result<(), EngineError> {
        let Ok(_alone) = self.changes.try_write() else { return Ok(()) };
        if self.mounts.held().is_empty() {
            return Ok(());
        }
        let containers = self.find().await?;
        let runs = |pod: &str| {
            containers
                .iter()
                .any(|container| container.pod == pod && matches!(container.state, ContainerState::Running { .. }))
        };
        if let Err(error) = self.mounts.release_others(runs).await {
            tracing::warn!("{error}");
        }
        Ok(())
    }
}

#[async_trait]
impl ContainerEngine for CliEngine {
    fn name(&self) -> String {
        format!("{} {}", self.command.brand.program(), self.version)
    }

    async fn start(&self, pod: &PodSpec) -> Result<ContainerId, EngineError> {
        arguments::check(pod, &[])?;
        let pod = &PodSpec { image: self.fetch(&pod.image).await?, ..pod.clone() };
        let _change = self.changes.read().await;
        let volumes: Vec<VolumeId> = pod.mounts.iter().map(|mount| mount.volume.clone()).collect();
        let directories = self.hold(&pod.pod_id, &volumes).await?;
        let started = self.run(pod, &directories).await;
        if started.is_err() {
            // Also what was made but could not be started.
            if let Err(error) =
                self.ask(arguments::of_remove(self.command.brand, &arguments::name_of(pod)), LIMIT).await
            {
                tracing::warn!(pod = pod.pod_id, "{error}");
            }
            self.release(&pod.pod_id, &volumes).await;
        }
        started
    }

    async fn stop(&self, container: &ContainerId) -> Result<(), EngineError> {
        let _change = self.changes.read().await;
        let Some(known) = self.look(container).await? else { return Ok(()) };
        let grace = STOP_GRACE.as_secs().to_string();
        self.ask_about(container, words(&["stop", "-t", &grace, "--", &container.0]), STOP_GRACE + LIMIT).await?;
        self.release(&known.pod, &known.volumes).await;
        Ok(())
    }

    async fn resume(&self, container: &ContainerId) -> Result<(), EngineError> {
        let _change = self.changes.read().await;
        let unknown = || EngineError::UnknownContainer(container.0.clone());
        let known = self.look(container).await?.ok_or_else(unknown)?;
        if matches!(known.state, ContainerState::Running { .. }) {
            return Ok(());
        }
        self.hold(&known.pod, &known.volumes).await?;
        let start = || self.ask_about(container, words(&["start", "--", &container.0]), START_LIMIT);
        let mut started = start().await;
        if matches!(started, Err(EngineError::Refused(_))) {
            // A stop that was broken off half way, by the server's own end, leaves it neither running nor stopped.
            self.ask_about(container, words(&["stop", "-t", "0", "--", &container.0]), LIMIT).await?;
            started = start().await;
        }
        if started.is_err() {
            self.release(&known.pod, &known.volumes).await;
        }
        started.map(drop)
    }

    async fn remove(&self, container: &ContainerId) -> Result<(), EngineError> {
        let _change = self.changes.read().await;
        let Some(known) = self.look(container).await? else { return Ok(()) };
        match self.ask_about(container, arguments::of_remove(self.command.brand, &container.0), LIMIT).await {
            Ok(_) | Err(EngineError::UnknownContainer(_)) => {}
            Err(error) => return Err(error),
        }
        self.release(&known.pod, &known.volumes).await;
        Ok(())
    }

    async fn logs(&self, container: &ContainerId, lines: usize) -> Result<String, EngineError> {
        let lines = lines.to_string();
        let arguments = words(&["logs", "--timestamps", "--tail", &lines, "--", &container.0]);
        let outcome = self.ask_about(container, arguments, LIMIT).await?;
        Ok(inspect::merge_logs(&outcome.stdout, &outcome.stderr))
    }

    async fn list(&self) -> Result<Vec<PodContainer>, EngineError> {
        self.release_unused().await?;
        Ok(self.find().await?.into_iter().map(Container::into_pod).collect())
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}
