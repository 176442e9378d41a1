//! `/v1/pods`.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Answer, templates, volumes};
use crate::http::routes::Caller;
use crate::runpod::input;
use crate::runpod::rest::{self, Parameters, Unread, created, no_content, ok};
use crate::service::records::{Cloud, Hardware};
use crate::service::{NewPod, PodChange, PodView, Principal, Service, ServiceError, catalog};

/// What is shown of a pod only when it is asked for.
struct Include {
    machine: bool,
    volume: bool,
    template: bool,
}

impl Include {
    fn of(parameters: &Parameters) -> Self {
        Include {
            machine: parameters.flag("includeMachine"),
            volume: parameters.flag("includeNetworkVolume"),
            template: parameters.flag("includeTemplate"),
        }
    }
}

fn gpu_json(id: &str, count: u32) -> Value {
    let known = catalog::gpu_types().find(|gpu| gpu.id == id);
    let display_name = known.map_or_else(|| id.to_owned(), |gpu| gpu.display_name().to_owned());
    json!({ "id": id, "count": count, "displayName": display_name, "securePrice": 0.0, "communityPrice": 0.0 })
}

fn as_json(service: &Service, who: &Principal, view: &PodView, include: &Include) -> Value {
    let pod = &view.pod;
    let mappings: Map<String, Value> =
        view.ports.iter().map(|port| (port.container_port.to_string(), json!(port.host_port))).collect();
    let mut value = json!({
        "id": pod.id,
        "name": pod.name,
        "image": pod.config.image,
        "desiredStatus": pod.desired.name(),
        "lastStatusChange": format!("{}: {}", view.note, pod.changed),
        "consumerUserId": pod.account,
        "containerDiskInGb": pod.config.disk_gb,
        "volumeInGb": pod.config.volume_gb,
        "volumeMountPath": pod.config.mount_path,
        "volumeEncrypted": false,
        "dockerEntrypoint": pod.config.entrypoint,
        "dockerStartCmd": pod.config.start_command,
        "env": pod.config.env,
        "ports": pod.config.ports,
        "portMappings": if mappings.is_empty() { Value::Null } else { Value::Object(mappings) },
        "publicIp": view.ports.first().map(|port| port.host.clone()),
        "interruptible": pod.interruptible,
        "locked": pod.locked,
        "costPerHr": 0.0,
        "adjustedCostPerHr": 0.0,
        "machineId": input::MACHINE_ID,
        "memoryInGb": pod.memory_gb,
        "vcpuCount": pod.vcpu,
        "savingsPlans": [],
    });
    if let Some(started) = pod.started {
        value["lastStartedAt"] = json!(started.to_string());
    }
    if let Some(template) = &pod.template {
        value["templateId"] = json!(template);
    }
    match &pod.hardware {
        Hardware::Gpu { id, count } => value["gpu"] = gpu_json(id, *count),
        Hardware::Cpu { flavor, .. } => value["cpuFlavorId"] = json!(flavor),
    }
    if include.machine {
        value["machine"] = json!({
            "dataCenterId": pod.data_center,
            "location": pod.data_center,
            "secureCloud": pod.cloud == Cloud::Secure,
            "cpuCount": pod.vcpu,
            "costPerHr": 0.0,
        });
        if let Hardware::Gpu { id, count } = &pod.hardware {
            let gpu = gpu_json(id, *count);
            value["machine"]["gpuTypeId"] = json!(id);
            value["machine"]["gpuDisplayName"] = gpu["displayName"].clone();
            value["machine"]["gpuType"] = gpu;
        }
    }
    if let Some(volume) = view.volume.as_ref().filter(|_| include.volume) {
        value["networkVolume"] = volumes::as_json(volume);
    }
    if let Some(id) = pod.template.as_ref().filter(|_| include.template)
        && let Ok(template) = service.template(who, id)
    {
        value["template"] = templates::as_json(&template);
    }
    value
}

/// Whether a pod is among those that are asked for. Workers of endpoints are not run, so none is asked for with success.
fn wanted(view: &PodView, parameters: &Parameters) -> bool {
    let pod = &view.pod;
    let is = |name: &str, value: &str| parameters.one(name).is_none_or(|wanted| wanted == value);
    let among = |name: &str, value: Option<&str>| {
        let wanted = parameters.all(name);
        wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|wanted| wanted == value))
    };
    let (compute, gpu, flavor) = match &pod.hardware {
        Hardware::Gpu { id, .. } => ("GPU", Some(id.as_str()), None),
        Hardware::Cpu { flavor, .. } => ("CPU", None, Some(flavor.as_str())),
    };
    is("id", &pod.id)
        && is("name", &pod.name)
        && is("imageName", &pod.config.image)
        && is("desiredStatus", pod.desired.name())
        && is("computeType", compute)
        && is("networkVolumeId", pod.volume.as_ref().map_or("", |id| id.as_str()))
        && is("templateId", pod.template.as_deref().unwrap_or(""))
        && parameters.one("endpointId").is_none()
        && among("dataCenterId", Some(&pod.data_center))
        && among("gpuTypeId", gpu)
        && among("cpuFlavorId", flavor)
}

pub(super) async fn list(Caller { service, who }: Caller, parameters: Parameters) -> Answer {
    let include = Include::of(&parameters);
    let pods = service.pods(&who)?;
    let pods = pods.iter().filter(|view| wanted(view, &parameters));
    Ok(ok(pods.map(|view| as_json(&service, &who, view, &include)).collect::<Vec<_>>()))
}

pub(super) async fn show(Caller { service, who }: Caller, Path(id): Path<String>, parameters: Parameters) -> Answer {
    let view = service.pod(&who, &id)?;
    Ok(ok(as_json(&service, &who, &view, &Include::of(&parameters))))
}

/// What is not read says which machine is wanted, and there is but one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    name: Option<String>,
    image_name: Option<String>,
    template_id: Option<String>,
    docker_entrypoint: Option<Vec<String>>,
    docker_start_cmd: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    ports: Option<Vec<String>>,
    container_disk_in_gb: Option<u32>,
    volume_in_gb: Option<u32>,
    volume_mount_path: Option<String>,
    network_volume_id: Option<String>,
    #[serde(default)]
    data_center_ids: Vec<String>,
    compute_type: Option<String>,
    cloud_type: Option<Cloud>,
    #[serde(default)]
    gpu_type_ids: Vec<String>,
    gpu_count: Option<u32>,
    #[serde(default)]
    cpu_flavor_ids: Vec<String>,
    vcpu_count: Option<u32>,
    #[serde(default)]
    interruptible: bool,
    #[serde(default)]
    locked: bool,
    _allowed_cuda_versions: Unread,
    _container_registry_auth_id: Unread,
    _country_codes: Unread,
    _cpu_flavor_priority: Unread,
    _data_center_priority: Unread,
    _global_networking: Unread,
    _gpu_type_priority: Unread,
    #[serde(rename = "minDiskBandwidthMBps")]
    _min_disk_bandwidth: Unread,
    _min_download_mbps: Unread,
    #[serde(rename = "minRAMPerGPU")]
    _min_ram_per_gpu: Unread,
    _min_upload_mbps: Unread,
    #[serde(rename = "minVCPUPerGPU")]
    _min_vcpu_per_gpu: Unread,
    _support_public_ip: Unread,
}

pub(super) async fn create(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let wanted: Create = rest::body(&body)?;
    let hardware = match wanted.compute_type.as_deref() {
        Some("CPU") => Hardware::Cpu {
            flavor: wanted.cpu_flavor_ids.into_iter().next().unwrap_or_else(|| "cpu3g".to_owned()),
            vcpu: wanted.vcpu_count.unwrap_or(2),
        },
        Some("GPU") | None => Hardware::Gpu {
            id: wanted.gpu_type_ids.into_iter().next().unwrap_or_else(|| input::ANY_GPU.to_owned()),
            count: wanted.gpu_count.unwrap_or(1),
        },
        Some(_) => return Err(ServiceError::Invalid("computeType is GPU or CPU".to_owned()).into()),
    };
    let from_template = wanted.template_id.is_some();
    let wanted = NewPod {
        name: wanted.name.unwrap_or_else(|| input::POD_NAME.to_owned()),
        template: wanted.template_id,
        image: wanted.image_name,
        args: None,
        entrypoint: wanted.docker_entrypoint,
        start_command: wanted.docker_start_cmd,
        env: wanted.env,
        // The published defaults, unless a template has its own.
        ports: wanted.ports.or_else(|| (!from_template).then(|| input::split("8888/http,22/tcp"))),
        disk_gb: wanted.container_disk_in_gb.or((!from_template).then_some(50)),
        volume_gb: wanted.volume_in_gb.or((!from_template).then_some(20)),
        volume: wanted.network_volume_id,
        mount_path: wanted.volume_mount_path,
        data_centers: wanted.data_center_ids,
        hardware,
        cloud: wanted.cloud_type.unwrap_or(Cloud::Secure),
        interruptible: wanted.interruptible,
        locked: wanted.locked,
    };
    let view = service.create_pod(&who, wanted).await?;
    let include = Include { machine: true, volume: true, template: false };
    Ok(created(as_json(&service, &who, &view, &include)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Update {
    name: Option<String>,
    locked: Option<bool>,
    image_name: Option<String>,
    docker_entrypoint: Option<Vec<String>>,
    docker_start_cmd: Option<Vec<String>>,
    env: Option<BTreeMap<String, String>>,
    ports: Option<Vec<String>>,
    container_disk_in_gb: Option<u32>,
    volume_in_gb: Option<u32>,
    volume_mount_path: Option<String>,
    _container_registry_auth_id: Unread,
    _global_networking: Unread,
}

pub(super) async fn update(Caller { service, who }: Caller, Path(id): Path<String>, body: Bytes) -> Answer {
    let wanted: Update = rest::body(&body)?;
    let change = PodChange {
        name: wanted.name,
        locked: wanted.locked,
        image: wanted.image_name,
        args: None,
        entrypoint: wanted.docker_entrypoint,
        start_command: wanted.docker_start_cmd,
        env: wanted.env,
        ports: wanted.ports,
        disk_gb: wanted.container_disk_in_gb,
        volume_gb: wanted.volume_in_gb,
        mount_path: wanted.volume_mount_path,
        volume: None,
    };
    let view = service.update_pod(&who, &id, change).await?;
    let include = Include { machine: false, volume: true, template: false };
    Ok(ok(as_json(&service, &who, &view, &include)))
}

pub(super) async fn terminate(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.terminate_pod(&who, &id).await?;
    Ok(no_content())
}

pub(super) async fn start(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.start_pod(&who, &id).await?;
    Ok(StatusCode::OK.into_response())
}

pub(super) async fn stop(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.stop_pod(&who, &id).await?;
    Ok(StatusCode::OK.into_response())
}

pub(super) async fn reset(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.restart_pod(&who, &id, true).await?;
    Ok(StatusCode::OK.into_response())
}

pub(super) async fn restart(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.restart_pod(&who, &id, false).await?;
    Ok(StatusCode::OK.into_response())
}
