//! `/v2/pods`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::body::Bytes;
use axum::extract::Path;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};

use super::shapes::{self, Cpu, Persistent};
use super::{Answer, Refused, unprocessable};
use crate::http::routes::Caller;
use crate::runpod::rest::{self, Parameters, Unread, created, no_content, ok};
use crate::service::records::{Cloud, Hardware, Pod};
use crate::service::{NewPod, PodChange, PodStatus, PodView, ServiceError};

/// Lines of a log, unless another number is asked for, and at most.
const LOG_LINES: usize = 100;
const LOG_LINES_MAX: usize = 5000;

fn actions(status: PodStatus) -> &'static [&'static str] {
    match status {
        PodStatus::Running => &["stop", "restart", "terminate"],
        PodStatus::Exited | PodStatus::Error => &["start", "terminate"],
        PodStatus::Provisioning | PodStatus::Starting => &["stop", "terminate"],
    }
}

fn mounts_json(pod: &Pod) -> Value {
    if let Some(volume) = &pod.volume {
        return json!({ "network": [{ "volumeId": volume, "path": pod.config.mount_path }] });
    }
    shapes::own_volume_json(&pod.config)
}

fn as_json(view: &PodView) -> Value {
    let pod = &view.pod;
    let ssh = view.ports.iter().find(|port| port.container_port == 22).map(|port| {
        json!({
            "host": port.host, "port": port.host_port, "username": "root",
            "command": format!("ssh root@{} -p {}", port.host, port.host_port),
        })
    });
    let runtime = view.uptime_s.map(|uptime| {
        let ports: Vec<Value> = view
            .ports
            .iter()
            .map(|port| {
                json!({
                    "private": port.container_port, "public": port.host_port, "type": port.protocol, "ip": port.host,
                })
            })
            .collect();
        json!({ "uptime": uptime, "gpus": [], "ports": ports })
    });
    let mut value = json!({
        "id": pod.id,
        "name": pod.name,
        "status": view.status.name(),
        // Cairn's own: a sentence about the status.
        "statusReason": view.note,
        "actions": actions(view.status),
        "image": pod.config.image,
        "args": pod.config.args,
        "disk": pod.config.disk_gb,
        "env": pod.config.env,
        "ports": pod.config.ports,
        "registry": null,
        "mounts": mounts_json(pod),
        "cloud": pod.cloud.name(),
        "dataCenterId": pod.data_center,
        "cudaVersion": null,
        "ssh": { "proxy": null, "direct": ssh },
        "template": pod.template,
        "cost": 0.0,
        "locked": pod.locked,
        "globalNetworking": { "enabled": false },
        "runtime": runtime,
        "createdAt": pod.created.to_string(),
        "startedAt": pod.started.map(|moment| moment.to_string()),
    });
    match &pod.hardware {
        Hardware::Gpu { id, count } => value["gpu"] = json!({ "id": id, "count": count }),
        Hardware::Cpu { flavor, vcpu } => {
            value["cpu"] = json!({ "id": flavor, "vcpuCount": vcpu, "memory": pod.memory_gb });
        }
    }
    value
}

pub(super) async fn list(Caller { service, who }: Caller) -> Answer {
    let pods: Vec<Value> = service.pods(&who)?.iter().map(as_json).collect();
    Ok(ok(json!({ "pods": pods })))
}

pub(super) async fn show(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    Ok(ok(as_json(&service.pod(&who, &id)?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Network {
    volume_id: String,
    path: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mounts {
    persistent: Option<Persistent>,
    network: Option<Vec<Network>>,
}

/// What mounts come to: volume, size of the pod's own volume, path.
#[derive(Default)]
struct Mount {
    volume: Option<String>,
    volume_gb: Option<u32>,
    path: Option<String>,
}

impl Mounts {
    fn read(self) -> Result<Mount, Refused> {
        match (self.persistent, self.network) {
            (Some(_), Some(_)) => {
                Err(ServiceError::Invalid("mounts takes either persistent or network, not both".to_owned()).into())
            }
            (Some(persistent), None) => {
                let Persistent { size, path } = persistent.check()?;
                Ok(Mount { volume: None, volume_gb: Some(size), path: Some(path) })
            }
            (None, Some(network)) if network.len() > 1 => Err(unprocessable("mounts.network takes at most 1 item")),
            (None, Some(network)) => match network.into_iter().next() {
                Some(Network { volume_id, path }) => {
                    Ok(Mount { volume: Some(volume_id), volume_gb: None, path: Some(path) })
                }
                None => Err(ServiceError::Invalid("mounts.network must name a volume".to_owned()).into()),
            },
            (None, None) => Ok(Mount::default()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Gpu {
    id: String,
    count: Option<u32>,
    /// There is but one machine, so these decide nothing.
    #[serde(rename = "allowedCudaVersions")]
    _allowed_cuda_versions: Option<Vec<String>>,
    #[serde(rename = "minCudaVersion")]
    _min_cuda_version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    name: String,
    image: Option<String>,
    args: Option<String>,
    disk: Option<u32>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    ports: Option<Vec<String>>,
    template_id: Option<String>,
    gpu: Option<Gpu>,
    cpu: Option<Cpu>,
    cloud: Option<Cloud>,
    #[serde(default)]
    data_center_ids: Vec<String>,
    #[serde(default)]
    mounts: Mounts,
    _registry: Unread,
    _global_networking: Unread,
    _start_jupyter: Unread,
    _start_ssh: Unread,
}

pub(super) async fn create(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let wanted: Create = rest::body(&body)?;
    let hardware = match (wanted.gpu, wanted.cpu) {
        (Some(gpu), None) => Hardware::Gpu { id: gpu.id, count: gpu.count.unwrap_or(1) },
        (None, Some(cpu)) => Hardware::Cpu { flavor: cpu.id, vcpu: cpu.vcpu_count },
        _ => return Err(ServiceError::Invalid("exactly one of gpu and cpu is needed".to_owned()).into()),
    };
    let mount = wanted.mounts.read()?;
    if mount.volume_gb.is_some() && matches!(hardware, Hardware::Cpu { .. }) {
        return Err(ServiceError::Invalid("mounts.persistent is for pods with a GPU".to_owned()).into());
    }
    let wanted = NewPod {
        name: wanted.name,
        template: wanted.template_id,
        image: wanted.image,
        args: wanted.args,
        entrypoint: None,
        start_command: None,
        env: wanted.env,
        ports: wanted.ports,
        disk_gb: wanted.disk,
        volume_gb: mount.volume_gb,
        volume: mount.volume,
        mount_path: mount.path,
        data_centers: wanted.data_center_ids,
        hardware,
        cloud: wanted.cloud.unwrap_or(Cloud::Secure),
        interruptible: false,
        locked: false,
    };
    let view = service.create_pod(&who, wanted).await?;
    Ok(created(as_json(&view)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Update {
    name: Option<String>,
    locked: Option<bool>,
    image: Option<String>,
    args: Option<String>,
    disk: Option<u32>,
    env: Option<BTreeMap<String, String>>,
    ports: Option<Vec<String>>,
    #[serde(default)]
    mounts: Mounts,
    _registry: Unread,
    _global_networking: Unread,
    _template_id: Unread,
}

pub(super) async fn update(Caller { service, who }: Caller, Path(id): Path<String>, body: Bytes) -> Answer {
    let wanted: Update = rest::body(&body)?;
    let mount = wanted.mounts.read()?;
    let was = service.pod(&who, &id)?.pod;
    if mount.volume_gb.is_some() && (was.volume.is_some() || was.config.volume_gb == 0) {
        let sentence = "the kind of a pod's mount is fixed when it is made";
        return Err(ServiceError::Invalid(sentence.to_owned()).into());
    }
    let change = PodChange {
        name: wanted.name,
        locked: wanted.locked,
        image: wanted.image,
        args: wanted.args,
        entrypoint: None,
        start_command: None,
        env: wanted.env,
        ports: wanted.ports,
        disk_gb: wanted.disk,
        volume_gb: mount.volume_gb,
        mount_path: mount.path,
        volume: mount.volume,
    };
    Ok(ok(as_json(&service.update_pod(&who, &id, change).await?)))
}

pub(super) async fn terminate(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.terminate_pod(&who, &id).await?;
    Ok(no_content())
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Start,
    Stop,
    Restart,
    Terminate,
}

#[derive(Deserialize)]
struct Act {
    action: Action,
}

pub(super) async fn act(Caller { service, who }: Caller, Path(id): Path<String>, body: Bytes) -> Answer {
    let view = match rest::body::<Act>(&body)?.action {
        Action::Start => service.start_pod(&who, &id).await?,
        Action::Stop => service.stop_pod(&who, &id).await?,
        Action::Restart => service.restart_pod(&who, &id, false).await?,
        Action::Terminate => {
            service.terminate_pod(&who, &id).await?;
            return Ok(no_content());
        }
    };
    Ok(ok(as_json(&view)))
}

/// The last lines as events; the stream ends with them, so clients that reconnect get what came since.
pub(super) async fn logs(Caller { service, who }: Caller, Path(id): Path<String>, parameters: Parameters) -> Answer {
    let within = |text: &str| text.parse::<usize>().ok().filter(|lines| *lines <= LOG_LINES_MAX);
    let lines = parameters.read("tail", within, || unprocessable(format!("tail must be 0 to {LOG_LINES_MAX}")))?;
    let lines = lines.unwrap_or(LOG_LINES);
    let text = service.pod_logs(&who, &id, lines).await?;
    let now = service.now();
    let mut events = String::new();
    for (number, line) in text.lines().enumerate() {
        let data = json!({ "ts": now.to_string(), "source": "container", "line": line });
        // Writing into a text cannot fail.
        let _ = write!(events, "id: {now}/{number:012}\ndata: {data}\n\n");
    }
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, events).into_response())
}
