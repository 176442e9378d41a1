//! Pods: records with a state, whose containers [`super::containers`] keeps in line with them.
//!
//! ```text
//! create ─► RUNNING ◄─ start ── EXITED        desired: what the user asked for
//!              │  └──── stop ─────▲           status: that, and what the engine says
//!              └── terminate ──► no record
//! ```
//!
//! A volume is attached when the pod is made and never after; it stays attached while there is a record, running or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::access::{Permission, Principal};
use super::error::ServiceError;
use super::records::{Cloud, ContainerConfig, Desired, Hardware, Pod, Template};
use super::store::{Change, Record, Table};
use super::volumes::VolumeView;
use super::{Service, catalog, ids, validate};
use crate::engine::{ContainerState, PublishedPort};

const PODS_MAX: usize = 1000;
const DISK_MAX_GB: u32 = 100_000;
/// Of pods whose client says nothing; what the Python SDK asks for.
const DISK_DEFAULT_GB: u32 = 10;

/// A pod that shall be made. What is `None` comes from the template, or else has a default.
#[derive(Clone, Debug)]
pub struct NewPod {
    pub name: String,
    pub template: Option<String>,
    pub image: Option<String>,
    pub args: Option<String>,
    pub entrypoint: Option<Vec<String>>,
    pub start_command: Option<Vec<String>>,
    /// Laid over the template's.
    pub env: BTreeMap<String, String>,
    pub ports: Option<Vec<String>>,
    pub disk_gb: Option<u32>,
    pub volume_gb: Option<u32>,
    /// Id of a network volume, as the client wrote it.
    pub volume: Option<String>,
    pub mount_path: Option<String>,
    /// Empty for wherever the volume is.
    pub data_centers: Vec<String>,
    pub hardware: Hardware,
    pub cloud: Cloud,
    pub interruptible: bool,
    pub locked: bool,
}

/// What shall change; `None` stays. A new configuration makes the container anew.
#[derive(Clone, Debug, Default)]
pub struct PodChange {
    pub name: Option<String>,
    pub locked: Option<bool>,
    pub image: Option<String>,
    pub args: Option<String>,
    pub entrypoint: Option<Vec<String>>,
    pub start_command: Option<Vec<String>>,
    pub env: Option<BTreeMap<String, String>>,
    pub ports: Option<Vec<String>>,
    pub disk_gb: Option<u32>,
    pub volume_gb: Option<u32>,
    pub mount_path: Option<String>,
    /// Must be the one that it has, if given: a volume is attached at creation only.
    pub volume: Option<String>,
}

/// Where a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodStatus {
    /// It shall run, and there is no container yet (without an engine there never is).
    Provisioning,
    /// The container is there and was not seen running yet.
    Starting,
    Running,
    Exited,
    /// It could not be started.
    Error,
}

impl PodStatus {
    pub fn name(self) -> &'static str {
        match self {
            PodStatus::Provisioning => "PROVISIONING",
            PodStatus::Starting => "STARTING",
            PodStatus::Running => "RUNNING",
            PodStatus::Exited => "EXITED",
            PodStatus::Error => "ERROR",
        }
    }
}

/// A pod as its account sees it.
#[derive(Clone, Debug)]
pub struct PodView {
    pub pod: Pod,
    pub status: PodStatus,
    /// A sentence about its state.
    pub note: String,
    /// Where its ports are reached, while it runs.
    pub ports: Vec<PublishedPort>,
    /// The volume, unless it is gone.
    pub volume: Option<VolumeView>,
    /// Seconds, while it runs.
    pub uptime_s: Option<i64>,
}

impl Service {
    pub(super) fn pod_view(&self, pod: Pod) -> PodView {
        let observed = self.observed.lock().get(&pod.id).cloned();
        let status = match (pod.desired, &observed) {
            (Desired::Exited, _) => PodStatus::Exited,
            (Desired::Running, _) if pod.failure.is_some() => PodStatus::Error,
            (Desired::Running, Some(ContainerState::Running { .. })) => PodStatus::Running,
            (Desired::Running, _) if pod.container.is_some() => PodStatus::Starting,
            (Desired::Running, _) => PodStatus::Provisioning,
        };
        let ports = match observed {
            Some(ContainerState::Running { ports }) if status == PodStatus::Running => ports,
            _ => Vec::new(),
        };
        let note = match (&pod.failure, &self.engine) {
            (Some(failure), _) => failure.clone(),
            (None, None) if pod.desired == Desired::Running => ServiceError::NoEngine.to_string(),
            _ => pod.note.clone(),
        };
        let running_since = pod.started.filter(|_| status == PodStatus::Running);
        let uptime_s = running_since.map(|started| (self.now().0 - started.0).max(0) / 1000);
        let volume = pod.volume.as_ref().and_then(|id| self.volume_of(&pod.account, id.as_str()).ok());
        PodView { pod, status, note, ports, volume, uptime_s }
    }

    /// The account's pods, the oldest first.
    pub fn pods(&self, who: &Principal) -> Result<Vec<PodView>, ServiceError> {
        who.require(Permission::Look)?;
        let mut pods: Vec<Pod> =
            self.state.read().pods.values().filter(|pod| pod.account == who.account).cloned().collect();
        pods.sort_by(|left, right| (left.created, &left.id).cmp(&(right.created, &right.id)));
        Ok(pods.into_iter().map(|pod| self.pod_view(pod)).collect())
    }

    pub fn pod(&self, who: &Principal, id: &str) -> Result<PodView, ServiceError> {
        who.require(Permission::Look)?;
        Ok(self.pod_view(self.pod_of(&who.account, id)?))
    }

    pub(super) fn pod_of(&self, account: &str, id: &str) -> Result<Pod, ServiceError> {
        let pod = self.state.read().pods.get(id).filter(|pod| pod.account == account).cloned();
        pod.ok_or(ServiceError::NotFound { what: "pod" })
    }

    /// Makes a pod that shall run. Answers before its container does.
    pub async fn create_pod(self: &Arc<Self>, who: &Principal, wanted: NewPod) -> Result<PodView, ServiceError> {
        who.require(Permission::ChangeCompute)?;
        let account = who.account.clone();
        let pod = self
            .change(|service| async move {
                service.settle_alone().await?;
                service.require_balance(&account)?;
                let pod = service.assemble(account, wanted)?;
                service.commit(vec![Change::Put(Record::Pod(Box::new(pod.clone())))]).await?;
                Ok(pod)
            })
            .await?;
        self.start_container_soon(pod.id.clone());
        Ok(self.pod_view(pod))
    }

    fn assemble(&self, account: String, wanted: NewPod) -> Result<Pod, ServiceError> {
        let template = match wanted.template.filter(|id| !id.is_empty()) {
            Some(id) => Some(self.template_of(&account, &id)?),
            None => None,
        };
        let base = template.as_ref().map(|template| template.config.clone()).unwrap_or_default();
        let mut env = base.env;
        env.extend(wanted.env);
        let given = |path: Option<String>| path.filter(|path| !path.is_empty());
        let config = ContainerConfig {
            image: wanted.image.filter(|image| !image.is_empty()).unwrap_or(base.image),
            args: wanted.args.filter(|args| !args.is_empty()).unwrap_or(base.args),
            entrypoint: wanted.entrypoint.unwrap_or(base.entrypoint),
            start_command: wanted.start_command.unwrap_or(base.start_command),
            env,
            ports: wanted.ports.unwrap_or(base.ports),
            disk_gb: wanted.disk_gb.or(Some(base.disk_gb)).filter(|disk_gb| *disk_gb > 0).unwrap_or(DISK_DEFAULT_GB),
            volume_gb: wanted.volume_gb.unwrap_or(base.volume_gb),
            mount_path: given(wanted.mount_path)
                .or(given(Some(base.mount_path)))
                .unwrap_or_else(|| "/workspace".to_owned()),
        };
        let volume = match wanted.volume.filter(|id| !id.is_empty()) {
            Some(id) => Some(self.volume_of(&account, &id)?),
            None => None,
        };
        if volume.as_ref().is_some_and(|volume| volume.doomed) {
            return Err(ServiceError::NotFound { what: "network volume" });
        }
        let data_center = match &volume {
            Some(volume) if wanted.data_centers.is_empty() || wanted.data_centers.contains(&volume.data_center) => {
                volume.data_center.clone()
            }
            Some(volume) => {
                let of_volume = volume.data_center.clone();
                return Err(ServiceError::OtherDataCenter { volume: volume.id.clone(), of_volume });
            }
            None => wanted.data_centers.first().cloned().unwrap_or_else(|| catalog::LOCAL.to_owned()),
        };
        validate::texts(&wanted.data_centers, "list of data centers")?;
        self.check_data_center(&data_center)?;
        let (vcpu, memory_gb) = check_hardware(&wanted.hardware)?;
        let state = self.state.read();
        if state.pods.values().filter(|pod| pod.account == account).count() >= PODS_MAX {
            return Err(ServiceError::TooMany { what: "pods", limit: PODS_MAX });
        }
        let now = self.now();
        let pod = Pod {
            id: ids::long(|id| state.pods.contains_key(id)),
            account,
            name: wanted.name,
            config,
            volume: volume.map(|volume| volume.id),
            data_center,
            hardware: wanted.hardware,
            memory_gb,
            vcpu,
            cloud: wanted.cloud,
            template: template.map(|Template { id, .. }| id),
            interruptible: wanted.interruptible,
            locked: wanted.locked,
            desired: Desired::Running,
            created: now,
            started: Some(now),
            changed: now,
            note: "Created by user".to_owned(),
            container: None,
            failure: None,
        };
        check_pod(&pod)?;
        Ok(pod)
    }

    pub async fn update_pod(
        self: &Arc<Self>,
        who: &Principal,
        id: &str,
        wanted: PodChange,
    ) -> Result<PodView, ServiceError> {
        who.require(Permission::ChangeCompute)?;
        let (account, id) = (who.account.clone(), id.to_owned());
        let (pod, anew) = self
            .change(|service| async move {
                let mut pod = service.pod_of(&account, &id)?;
                if let Some(volume) = &wanted.volume
                    && pod.volume.as_ref().is_none_or(|own| own.as_str() != volume)
                {
                    return Err(ServiceError::invalid(
                        "a network volume is attached when a pod is created: it can be neither changed nor removed later",
                    ));
                }
                let before = pod.config.clone();
                let was_locked = pod.locked;
                pod.name = wanted.name.unwrap_or(pod.name);
                pod.locked = wanted.locked.unwrap_or(pod.locked);
                let config = &mut pod.config;
                set(&mut config.image, wanted.image);
                set(&mut config.args, wanted.args);
                set(&mut config.entrypoint, wanted.entrypoint);
                set(&mut config.start_command, wanted.start_command);
                set(&mut config.env, wanted.env);
                set(&mut config.ports, wanted.ports);
                set(&mut config.disk_gb, wanted.disk_gb);
                set(&mut config.volume_gb, wanted.volume_gb);
                set(&mut config.mount_path, wanted.mount_path);
                let anew = pod.config != before;
                if anew && was_locked {
                    return Err(ServiceError::PodLocked);
                }
                check_pod(&pod)?;
                service.commit(vec![Change::Put(Record::Pod(Box::new(pod.clone())))]).await?;
                Ok((pod, anew))
            })
            .await?;
        if anew {
            self.renew_container_soon(pod.id.clone());
        }
        Ok(self.pod_view(pod))
    }

    /// Stops a pod; what its container has written outside volumes stays.
    pub async fn stop_pod(self: &Arc<Self>, who: &Principal, id: &str) -> Result<PodView, ServiceError> {
        who.require_for_pod(id)?;
        let pod = self.set_desired(who, id, Desired::Exited, "stop").await?;
        self.stop_container_soon(pod.id.clone());
        Ok(self.pod_view(pod))
    }

    /// Starts a pod that was stopped.
    pub async fn start_pod(self: &Arc<Self>, who: &Principal, id: &str) -> Result<PodView, ServiceError> {
        who.require(Permission::ChangeCompute)?;
        let pod = self.set_desired(who, id, Desired::Running, "start").await?;
        self.start_container_soon(pod.id.clone());
        Ok(self.pod_view(pod))
    }

    /// Stops and starts a running pod. With `anew`, its container is made anew, without what was written outside volumes.
    pub async fn restart_pod(self: &Arc<Self>, who: &Principal, id: &str, anew: bool) -> Result<PodView, ServiceError> {
        who.require(Permission::ChangeCompute)?;
        let pod = self.pod_of(&who.account, id)?;
        if pod.locked {
            return Err(ServiceError::PodLocked);
        }
        if pod.desired != Desired::Running {
            return Err(ServiceError::PodState { is: "EXITED", action: "restart" });
        }
        if anew {
            self.renew_container_soon(pod.id.clone());
        } else {
            self.restart_container_soon(pod.id.clone());
        }
        Ok(self.pod_view(pod))
    }

    async fn set_desired(
        self: &Arc<Self>,
        who: &Principal,
        id: &str,
        desired: Desired,
        action: &'static str,
    ) -> Result<Pod, ServiceError> {
        let (account, id) = (who.account.clone(), id.to_owned());
        self.change(|service| async move {
            service.settle_alone().await?;
            let mut pod = service.pod_of(&account, &id)?;
            if pod.locked && desired == Desired::Exited {
                return Err(ServiceError::PodLocked);
            }
            // One that failed to start may be started again.
            if pod.desired == desired && pod.failure.is_none() {
                return Err(ServiceError::PodState { is: desired.name(), action });
            }
            if desired == Desired::Running {
                service.require_balance(&account)?;
                if let Some(volume) = &pod.volume {
                    service.volume_of(&account, volume.as_str())?;
                }
                pod.started = Some(service.now());
            }
            pod.desired = desired;
            pod.failure = None;
            pod.changed = service.now();
            pod.note = format!("{} by user", if desired == Desired::Running { "Started" } else { "Exited" });
            service.commit(vec![Change::Put(Record::Pod(Box::new(pod.clone())))]).await?;
            Ok(pod)
        })
        .await
    }

    /// Ends a pod for good and lets go of its volume.
    pub async fn terminate_pod(self: &Arc<Self>, who: &Principal, id: &str) -> Result<(), ServiceError> {
        who.require_for_pod(id)?;
        let pod = self.pod_of(&who.account, id)?;
        // The container first: once the record is gone, its volume may be deleted, and the container must not use it then.
        self.remove_container(&pod).await?;
        let (account, id) = (who.account.clone(), id.to_owned());
        self.change(|service| async move {
            let pod = service.pod_of(&account, &id)?;
            let mut changes = vec![Change::Remove(Table::Pods, pod.id.clone())];
            let keys = service
                .state
                .read()
                .keys
                .values()
                .filter(|key| key.pod.as_ref() == Some(&pod.id))
                .map(|key| key.id.clone())
                .collect::<Vec<_>>();
            changes.extend(keys.into_iter().map(|key| Change::Remove(Table::Keys, key)));
            service.commit(changes).await?;
            service.observed.lock().remove(&pod.id);
            Ok(())
        })
        .await
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn check_pod(pod: &Pod) -> Result<(), ServiceError> {
    validate::name(&pod.name, "pod")?;
    if pod.config.image.is_empty() {
        return Err(ServiceError::invalid("a pod needs an image, its own or its template's"));
    }
    validate::config(&pod.config)?;
    validate::mount_path(&pod.config.mount_path)?;
    if pod.config.disk_gb > DISK_MAX_GB || pod.config.volume_gb > DISK_MAX_GB {
        return Err(ServiceError::Invalid(format!("a pod's disks take at most {DISK_MAX_GB} GB")));
    }
    Ok(())
}

/// Virtual CPUs and memory in GB that come with it.
fn check_hardware(hardware: &Hardware) -> Result<(u32, u32), ServiceError> {
    match hardware {
        Hardware::Gpu { id, count } => {
            if !(1..=catalog::GPU_COUNT_MAX).contains(count) {
                return Err(ServiceError::Invalid(format!("a pod has 1 to {} GPUs", catalog::GPU_COUNT_MAX)));
            }
            if catalog::gpu_types().all(|gpu| gpu.id != id) {
                let id: String = id.chars().take(64).collect();
                return Err(ServiceError::Invalid(format!("there is no GPU type {id:?}")));
            }
            Ok((count * 8, count * 32))
        }
        Hardware::Cpu { flavor, vcpu } => {
            let Some(flavor) = catalog::CPU_FLAVORS.iter().find(|known| known.id == flavor) else {
                let flavor: String = flavor.chars().take(64).collect();
                return Err(ServiceError::Invalid(format!("there is no CPU flavor {flavor:?}")));
            };
            if !(catalog::VCPU_MIN..=catalog::VCPU_MAX).contains(vcpu) {
                let (min, max) = (catalog::VCPU_MIN, catalog::VCPU_MAX);
                return Err(ServiceError::Invalid(format!("a pod has {min} to {max} virtual CPUs")));
            }
            Ok((*vcpu, vcpu * flavor.memory_per_vcpu))
        }
    }
}
