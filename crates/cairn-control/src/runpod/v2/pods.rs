//! `/v2/pods`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Parameters, Refused, one, unprocessable};
use crate::runpod::input;
use crate::service::records::{Cloud, Hardware, Pod};
use crate::service::{NewPod, PodChange, PodStatus, PodView, Principal, Service, ServiceError};

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
    // Smaller ones than this API knows come from others, and are recorded only.
    if pod.config.volume_gb >= 10 {
        return json!({ "persistent": { "size": pod.config.volume_gb, "path": pod.config.mount_path } });
    }
    json!({})
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

pub(super) async fn list(State(service): State<Arc<Service>>, Extension(who): Extension<Principal>) -> Answer {
    let pods: Vec<Value> = service.pods(&who)?.iter().map(as_json).collect();
    Ok(Json(json!({ "pods": pods })).into_response())
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
) -> Answer {
    Ok(Json(as_json(&service.pod(&who, &id)?)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Persistent {
    size: u32,
    path: String,
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
            (Some(persistent), None) if persistent.size < 10 => {
                Err(unprocessable("mounts.persistent.size must be at least 10"))
            }
            (Some(persistent), None) => {
                Ok(Mount { volume: None, volume_gb: Some(persistent.size), path: Some(persistent.path) })
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
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Cpu {
    id: String,
    vcpu_count: u32,
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
}

const CREATE_KEYS: [&str; 16] = [
    "name",
    "image",
    "args",
    "disk",
    "env",
    "ports",
    "registry",
    "templateId",
    "gpu",
    "cpu",
    "cloud",
    "dataCenterIds",
    "globalNetworking",
    "mounts",
    "startJupyter",
    "startSsh",
];

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    body: Bytes,
) -> Answer {
    let wanted: Create = input::body(&body, &CREATE_KEYS)?;
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
    Ok((StatusCode::CREATED, Json(as_json(&view))).into_response())
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
}

const UPDATE_KEYS: [&str; 11] =
    ["name", "locked", "image", "args", "disk", "env", "ports", "registry", "globalNetworking", "mounts", "templateId"];

pub(super) async fn update(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer {
    let wanted: Update = input::body(&body, &UPDATE_KEYS)?;
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
    Ok(Json(as_json(&service.update_pod(&who, &id, change).await?)).into_response())
}

pub(super) async fn terminate(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
) -> Answer {
    service.terminate_pod(&who, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
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

pub(super) async fn act(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer {
    let view = match input::body::<Act>(&body, &["action"])?.action {
        Action::Start => service.start_pod(&who, &id).await?,
        Action::Stop => service.stop_pod(&who, &id).await?,
        Action::Restart => service.restart_pod(&who, &id, false).await?,
        Action::Terminate => {
            service.terminate_pod(&who, &id).await?;
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    };
    Ok(Json(as_json(&view)).into_response())
}

/// The last lines as events; the stream ends with them, so clients that reconnect get what came since.
pub(super) async fn logs(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Answer {
    let lines = match one(&parameters, "tail") {
        None => LOG_LINES,
        Some(text) => {
            let lines: Option<usize> = text.parse().ok().filter(|lines| *lines <= LOG_LINES_MAX);
            lines.ok_or_else(|| unprocessable(format!("tail must be 0 to {LOG_LINES_MAX}")))?
        }
    };
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
