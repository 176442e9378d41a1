//! Keeps containers in line with pods: starts, stops and removes them through the engine, and notes what the engine says of them.
//!
//! A pod's record is the wish, its container the fact. Requests begin what is needed at once; [`Service::reconcile_containers`] looks
//! every other second and makes up for what was missed, also for containers that outlived a restart of the server. Work on one
//! pod is done by one task at a time. Without an engine all of this does nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::Service;
use super::access::Principal;
use super::error::ServiceError;
use super::records::{Desired, Hardware, Pod};
use super::store::{Change, Record, Table};
use super::validate::parse_port;
use crate::engine::{ContainerEngine, ContainerId, ContainerState, EngineError, MountSpec, PodSpec, PortSpec};

/// Longest wait for the engine; starting may fetch an image.
const START_LIMIT: Duration = Duration::from_secs(30 * 60);
const OTHER_LIMIT: Duration = Duration::from_secs(120);
const LOG_LINES_MAX: usize = 10_000;

async fn limited<T>(limit: Duration, work: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
    timeout(limit, work).await.unwrap_or(Err(EngineError::TimedOut(limit.as_secs())))
}

/// What somebody wants done to a pod's container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// As the record says.
    Align,
    Restart,
    Renew,
}

impl Service {
    pub(super) fn start_container_soon(self: &Arc<Self>, pod: String) {
        self.work_soon(pod, Work::Align);
    }

    pub(super) fn stop_container_soon(self: &Arc<Self>, pod: String) {
        self.work_soon(pod, Work::Align);
    }

    pub(super) fn restart_container_soon(self: &Arc<Self>, pod: String) {
        self.work_soon(pod, Work::Restart);
    }

    pub(super) fn renew_container_soon(self: &Arc<Self>, pod: String) {
        self.work_soon(pod, Work::Renew);
    }

    fn work_soon(self: &Arc<Self>, pod: String, work: Work) {
        let Some(engine) = self.engine.clone() else { return };
        let service = Arc::clone(self);
        tokio::spawn(async move {
            let _alone = service.pod_lock(&pod).await;
            if let Err(error) = service.work_on(engine.as_ref(), &pod, work).await {
                tracing::warn!(pod, %error, "the pod's container is not in the state that it should be in");
            }
        });
    }

    /// Held while something is done to a pod's container.
    async fn pod_lock(&self, pod: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = Arc::clone(self.working.lock().entry(pod.to_owned()).or_default());
        lock.lock_owned().await
    }

    async fn work_on(self: &Arc<Self>, engine: &dyn ContainerEngine, id: &str, work: Work) -> Result<(), ServiceError> {
        let Some(mut pod) = self.state.read().pods.get(id).cloned() else { return Ok(()) };
        if work == Work::Renew
            && let Some(container) = pod.container.clone()
        {
            limited(OTHER_LIMIT, engine.remove(&ContainerId(container))).await?;
            self.observed.lock().remove(id);
            pod = self.note_container(id, None, None).await?.unwrap_or(pod);
        }
        if work == Work::Restart
            && let Some(container) = pod.container.clone()
        {
            limited(OTHER_LIMIT, engine.stop(&ContainerId(container))).await?;
        }
        match (pod.desired, pod.container.clone()) {
            (Desired::Exited, None) => Ok(()),
            (Desired::Exited, Some(container)) => {
                limited(OTHER_LIMIT, engine.stop(&ContainerId(container))).await?;
                self.observed.lock().remove(id);
                Ok(())
            }
            (Desired::Running, Some(container)) => {
                match limited(OTHER_LIMIT, engine.resume(&ContainerId(container.clone()))).await {
                    // Somebody removed it: it is made anew.
                    Err(EngineError::UnknownContainer(_)) => self.start_anew(engine, &pod).await,
                    Err(error) => self.note_failure(id, error).await,
                    Ok(()) => self.note_container(id, Some(container), None).await.map(drop),
                }
            }
            (Desired::Running, None) => self.start_anew(engine, &pod).await,
        }
    }

    async fn start_anew(self: &Arc<Self>, engine: &dyn ContainerEngine, pod: &Pod) -> Result<(), ServiceError> {
        let (key_text, key) = self.new_pod_key(pod.account.clone(), &pod.id);
        let spec = self.spec(pod, key_text)?;
        let (id, key_id) = (pod.id.clone(), key.id.clone());
        self.change(|service| async move {
            let mut changes = vec![Change::Put(Record::Key(key))];
            let old = service
                .state
                .read()
                .keys
                .values()
                .filter(|key| key.pod.as_ref() == Some(&id))
                .map(|key| key.id.clone())
                .collect::<Vec<_>>();
            changes.extend(old.into_iter().map(|key| Change::Remove(Table::Keys, key)));
            service.commit(changes).await
        })
        .await?;
        match limited(START_LIMIT, engine.start(&spec)).await {
            Ok(container) => {
                let noted = self.note_container(&pod.id, Some(container.0.clone()), None).await?;
                if noted.is_none() {
                    // It was terminated meanwhile.
                    limited(OTHER_LIMIT, engine.remove(&container)).await?;
                }
                Ok(())
            }
            Err(error) => {
                tracing::warn!(pod = pod.id, key = key_id, %error, "the pod's container could not be started");
                self.note_failure(&pod.id, error).await
            }
        }
    }

    async fn note_failure(self: &Arc<Self>, id: &str, error: EngineError) -> Result<(), ServiceError> {
        self.note_container(id, None, Some(error.to_string())).await.map(drop)
    }

    /// Records a pod's container, or why there is none. `None` if there is no such pod any more.
    async fn note_container(
        self: &Arc<Self>,
        id: &str,
        container: Option<String>,
        failure: Option<String>,
    ) -> Result<Option<Pod>, ServiceError> {
        let id = id.to_owned();
        self.change(|service| async move {
            let Some(mut pod) = service.state.read().pods.get(&id).cloned() else { return Ok(None) };
            let now = service.now();
            if failure.is_none() && container.is_some() {
                pod.started = Some(now);
                pod.changed = now;
            }
            if failure.is_none() {
                pod.container = container;
            }
            pod.failure = failure;
            service.commit(vec![Change::Put(Record::Pod(Box::new(pod.clone())))]).await?;
            Ok(Some(pod))
        })
        .await
    }

    /// Removes a pod's container and waits for it.
    pub(super) async fn remove_container(self: &Arc<Self>, pod: &Pod) -> Result<(), ServiceError> {
        let Some(engine) = self.engine.clone() else { return Ok(()) };
        let _alone = timeout(OTHER_LIMIT, self.pod_lock(&pod.id)).await.map_err(|_| ServiceError::Busy)?;
        let now = self.state.read().pods.get(&pod.id).and_then(|pod| pod.container.clone());
        if let Some(container) = now {
            limited(OTHER_LIMIT, engine.remove(&ContainerId(container))).await?;
        }
        Ok(())
    }

    /// Everything that the pod's container shall be.
    fn spec(&self, pod: &Pod, api_key: String) -> Result<PodSpec, ServiceError> {
        let config = &pod.config;
        let account = self.account(&pod.account)?;
        let gpus = match &pod.hardware {
            Hardware::Gpu { count, .. } => *count,
            Hardware::Cpu { .. } => 0,
        };
        let mut env: BTreeMap<String, String> = [
            ("RUNPOD_POD_ID", pod.id.clone()),
            ("RUNPOD_DC_ID", pod.data_center.clone()),
            ("RUNPOD_API_KEY", api_key),
            ("RUNPOD_GPU_COUNT", gpus.to_string()),
            ("RUNPOD_CPU_COUNT", pod.vcpu.to_string()),
            ("PUBLIC_KEY", account.public_keys),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        if let Some(volume) = &pod.volume {
            env.insert("RUNPOD_VOLUME_ID".to_owned(), volume.to_string());
        }
        env.extend(config.env.clone());
        let command = if config.start_command.is_empty() {
            shlex::split(&config.args).unwrap_or_default()
        } else {
            config.start_command.clone()
        };
        let ports = config.ports.iter().filter_map(|port| parse_port(port));
        let mount =
            |volume: &cairn_types::VolumeId| MountSpec { volume: volume.clone(), path: config.mount_path.clone() };
        Ok(PodSpec {
            pod_id: pod.id.clone(),
            image: config.image.clone(),
            entrypoint: config.entrypoint.clone(),
            command,
            env,
            ports: ports
                .map(|(container_port, protocol)| PortSpec { container_port, protocol: protocol.to_owned() })
                .collect(),
            mounts: pod.volume.iter().map(mount).collect(),
        })
    }

    /// Compares what the engine runs with what pods want, and begins what is missing.
    pub(super) async fn reconcile_containers(self: &Arc<Self>) {
        let Some(engine) = self.engine.clone() else { return };
        let asked = self.now();
        let found = match limited(OTHER_LIMIT, engine.list()).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "the container engine does not say what it runs");
                return;
            }
        };
        let first = !self.engine_seen.swap(true, Ordering::Relaxed);
        let pods: BTreeMap<String, Pod> = self.state.read().pods.clone();
        self.observed.lock().retain(|id, _| found.iter().any(|container| container.pod_id == *id));
        for container in &found {
            match pods.get(&container.pod_id) {
                None => {
                    let gone = container.container.clone();
                    let engine = Arc::clone(&engine);
                    tracing::warn!(pod = container.pod_id, "removing a container whose pod no longer exists");
                    tokio::spawn(async move { limited(OTHER_LIMIT, engine.remove(&gone)).await });
                }
                Some(_) => drop(self.observed.lock().insert(container.pod_id.clone(), container.state.clone())),
            }
        }
        for pod in pods.into_values() {
            // What the engine said may be older than what was done to it.
            if pod.changed >= asked {
                continue;
            }
            // Somebody is working on it.
            if self.working.lock().get(&pod.id).is_some_and(|lock| lock.try_lock().is_err()) {
                continue;
            }
            let container = found.iter().find(|container| container.pod_id == pod.id);
            match (pod.desired, container.map(|container| &container.state)) {
                (Desired::Exited, Some(ContainerState::Running { .. })) => self.stop_container_soon(pod.id),
                (Desired::Running, Some(ContainerState::Exited { code })) if pod.failure.is_none() => {
                    if first {
                        // The machine was restarted, or the engine.
                        self.start_container_soon(pod.id);
                    } else {
                        self.note_end(pod.id, *code).await;
                    }
                }
                (Desired::Running, None) if pod.failure.is_none() && first => self.start_container_soon(pod.id),
                _ => {}
            }
        }
        let state = self.state.read();
        self.working.lock().retain(|id, lock| state.pods.contains_key(id) || Arc::strong_count(lock) > 1);
    }

    /// Notes that a pod's container ended by itself.
    async fn note_end(self: &Arc<Self>, id: String, code: Option<i32>) {
        let noted = self
            .change(|service| async move {
                let Some(mut pod) = service.state.read().pods.get(&id).cloned() else { return Ok(()) };
                pod.desired = Desired::Exited;
                pod.changed = service.now();
                pod.note = match code {
                    Some(code) => format!("Exited by itself with code {code}"),
                    None => "Exited by itself".to_owned(),
                };
                service.commit(vec![Change::Put(Record::Pod(Box::new(pod)))]).await
            })
            .await;
        if let Err(error) = noted {
            tracing::warn!(%error, "the end of a container could not be recorded");
        }
    }

    /// The last lines of what a pod's container has written.
    pub async fn pod_logs(&self, who: &Principal, id: &str, lines: usize) -> Result<String, ServiceError> {
        let pod = self.pod(who, id)?.pod;
        let engine = self.engine.as_ref().ok_or(ServiceError::NoEngine)?;
        let Some(container) = pod.container else { return Ok(String::new()) };
        Ok(limited(OTHER_LIMIT, engine.logs(&ContainerId(container), lines.min(LOG_LINES_MAX))).await?)
    }
}
