//! `/v2/serverless`.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::Path;
use serde::Deserialize;
use serde_json::{Value, json};

use super::shapes::Cpu;
use super::{Answer, unprocessable};
use crate::http::routes::Caller;
use crate::runpod::input::{self, set};
use crate::runpod::rest::{self, Unread, created, no_content, ok};
use crate::service::records::{ContainerConfig, Endpoint, EndpointCompute, Scaler};
use crate::service::{EndpointChange, NewEndpoint, ServiceError, catalog};

fn as_json(endpoint: &Endpoint) -> Value {
    let config = &endpoint.config;
    let scaling = match endpoint.scaler {
        Scaler::QueueDelay => {
            json!({ "type": "QUEUE_DELAY", "queueDelay": endpoint.scaler_value_milli as f64 / 1000.0 })
        }
        Scaler::RequestCount => {
            json!({ "type": "REQUEST_COUNT", "requestCount": input::scaler_units(endpoint.scaler_value_milli).max(1) })
        }
    };
    let mut value = json!({
        "id": endpoint.id, "name": endpoint.name,
        "type": if endpoint.load_balancer { "LOAD_BALANCER" } else { "QUEUE" },
        "image": config.image, "args": config.args, "disk": config.disk_gb.max(1), "env": config.env,
        "ports": config.ports, "registry": null,
        "workers": {
            "min": endpoint.workers_min, "max": endpoint.workers_max, "idleTimeout": endpoint.idle_timeout_s,
        },
        "scaling": scaling, "dataCenterIds": endpoint.data_centers, "networkVolumes": endpoint.volumes,
        "timeout": endpoint.timeout_ms, "flashboot": endpoint.flashboot, "createdAt": endpoint.created.to_string(),
    });
    match &endpoint.compute {
        EndpointCompute::Gpu { ids, .. } if ids.is_empty() => value["gpu"] = Value::Null,
        EndpointCompute::Gpu { ids, count } => {
            let excluded: Vec<&str> = ids.iter().filter_map(|id| id.strip_prefix('-')).collect();
            let pools: Vec<&String> = ids.iter().filter(|id| !id.starts_with('-')).collect();
            value["gpu"] = json!({
                "pools": pools, "count": count, "allowedCudaVersions": endpoint.allowed_cuda_versions,
                "minCudaVersion": endpoint.min_cuda_version,
            });
            if !excluded.is_empty() {
                value["gpu"]["excludedTypes"] = json!(excluded);
            }
        }
        EndpointCompute::Cpu { flavors, vcpu } => {
            let memory = |id: &str| {
                let flavor = catalog::CPU_FLAVORS.iter().find(|flavor| flavor.id == id);
                flavor.map_or(1, |flavor| flavor.memory_per_vcpu) * vcpu
            };
            value["cpu"] =
                flavors.iter().map(|id| json!({ "id": id, "vcpuCount": vcpu, "memory": memory(id) })).collect();
        }
    }
    value
}

pub(super) async fn list(Caller { service, who }: Caller) -> Answer {
    let endpoints: Vec<Value> = service.endpoints(&who)?.iter().map(as_json).collect();
    Ok(ok(json!({ "endpoints": endpoints })))
}

pub(super) async fn show(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    Ok(ok(as_json(&service.endpoint(&who, &id)?)))
}

pub(super) async fn workers(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    let endpoint = service.endpoint(&who, &id)?;
    let summary = json!({ "running": 0, "idle": 0, "initializing": 0, "throttled": 0, "unhealthy": 0, "total": 0 });
    Ok(ok(json!({ "workers": [], "summary": summary, "endpointVersion": endpoint.version })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Gpu {
    pools: Option<Vec<String>>,
    excluded_types: Option<Vec<String>>,
    count: Option<u32>,
    allowed_cuda_versions: Option<Vec<String>>,
    min_cuda_version: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Workers {
    min: Option<u32>,
    max: Option<u32>,
    idle_timeout: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, tag = "type", rename_all_fields = "camelCase")]
enum Scaling {
    #[serde(rename = "QUEUE_DELAY")]
    QueueDelay { queue_delay: f64 },
    #[serde(rename = "REQUEST_COUNT")]
    RequestCount { request_count: u64 },
}

impl Scaling {
    /// The scaler and its value in thousandths.
    fn read(self) -> Result<(Scaler, u64), super::Refused> {
        match self {
            Scaling::QueueDelay { queue_delay } if (0.5..=1e9).contains(&queue_delay) => {
                Ok((Scaler::QueueDelay, (queue_delay * 1000.0).round() as u64))
            }
            Scaling::QueueDelay { .. } => Err(unprocessable("scaling.queueDelay must be at least 0.5")),
            Scaling::RequestCount { request_count: 0 } => Err(unprocessable("scaling.requestCount must be at least 1")),
            Scaling::RequestCount { request_count } => Ok((Scaler::RequestCount, request_count.saturating_mul(1000))),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    name: Option<String>,
    r#type: Option<String>,
    image: Option<String>,
    args: Option<String>,
    disk: Option<u32>,
    env: Option<BTreeMap<String, String>>,
    ports: Option<Vec<String>>,
    template_id: Option<String>,
    gpu: Option<Gpu>,
    cpu: Option<Vec<Cpu>>,
    data_center_ids: Option<Vec<String>>,
    network_volumes: Option<Vec<String>>,
    #[serde(default)]
    workers: Workers,
    scaling: Option<Scaling>,
    timeout: Option<u64>,
    flashboot: Option<String>,
    _registry: Unread,
}

/// Pools, then the types to leave out with a minus, as GraphQL writes them.
fn gpu_ids(pools: Vec<String>, excluded: Option<Vec<String>>) -> Vec<String> {
    let excluded = excluded.unwrap_or_default().into_iter().map(|id| format!("-{}", id.trim()));
    pools.into_iter().chain(excluded).collect()
}

fn cpu_compute(cpus: Vec<Cpu>) -> Option<EndpointCompute> {
    let vcpu = cpus.first()?.vcpu_count;
    Some(EndpointCompute::Cpu { flavors: cpus.into_iter().map(|cpu| cpu.id).collect(), vcpu })
}

pub(super) async fn create(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let body: Body = rest::body(&body)?;
    let (Some(name), Some(kind), Some(scaling)) = (body.name, body.r#type, body.scaling) else {
        return Err(unprocessable("name, type and scaling are needed"));
    };
    let load_balancer = match kind.as_str() {
        "QUEUE" => false,
        "LOAD_BALANCER" => true,
        _ => return Err(unprocessable("type must be QUEUE or LOAD_BALANCER")),
    };
    let (scaler, scaler_value_milli) = scaling.read()?;
    if load_balancer && scaler != Scaler::RequestCount {
        return Err(unprocessable("a LOAD_BALANCER endpoint scales by REQUEST_COUNT"));
    }
    let (mut allowed_cuda_versions, mut min_cuda_version) = (Vec::new(), None);
    let compute = match (body.gpu, body.cpu) {
        (Some(gpu), None) => {
            let Some(pools) = gpu.pools.filter(|pools| !pools.is_empty()) else {
                return Err(unprocessable("gpu.pools needs at least 1 item"));
            };
            allowed_cuda_versions = gpu.allowed_cuda_versions.unwrap_or_default();
            min_cuda_version = gpu.min_cuda_version;
            EndpointCompute::Gpu { ids: gpu_ids(pools, gpu.excluded_types), count: gpu.count.unwrap_or(1) }
        }
        (None, Some(cpus)) => cpu_compute(cpus).ok_or_else(|| unprocessable("cpu needs at least 1 item"))?,
        (None, None) => EndpointCompute::Gpu { ids: Vec::new(), count: 1 },
        (Some(_), Some(_)) => {
            return Err(ServiceError::Invalid("an endpoint takes either gpu or cpu, not both".to_owned()).into());
        }
    };
    let wanted = NewEndpoint {
        name,
        template: body.template_id,
        resolve_template: true,
        config: ContainerConfig {
            image: body.image.unwrap_or_default(),
            args: body.args.unwrap_or_default(),
            env: body.env.unwrap_or_default(),
            ports: body.ports.unwrap_or_default(),
            disk_gb: body.disk.unwrap_or(0),
            ..ContainerConfig::default()
        },
        volumes: body.network_volumes.unwrap_or_default(),
        data_centers: body.data_center_ids.unwrap_or_default(),
        compute,
        load_balancer,
        workers_min: body.workers.min.unwrap_or(0),
        workers_max: body.workers.max.unwrap_or(3),
        idle_timeout_s: body.workers.idle_timeout.unwrap_or(10),
        scaler,
        scaler_value_milli,
        timeout_ms: body.timeout.unwrap_or(300_000),
        flashboot: body.flashboot.unwrap_or_else(|| "OFF".to_owned()),
        allowed_cuda_versions,
        min_cuda_version,
    };
    let endpoint = service.create_endpoint(&who, wanted).await?;
    Ok(created(as_json(&endpoint)))
}

pub(super) async fn update(Caller { service, who }: Caller, Path(id): Path<String>, body: Bytes) -> Answer {
    let body: Body = rest::body_without(&body, &["type"])?;
    let scaling = body.scaling.map(Scaling::read).transpose()?;
    let volumes = body.network_volumes;
    let settings = move |endpoint: &mut Endpoint| {
        set(&mut endpoint.name, body.name);
        set(&mut endpoint.config.image, body.image);
        set(&mut endpoint.config.args, body.args);
        set(&mut endpoint.config.disk_gb, body.disk);
        set(&mut endpoint.config.env, body.env);
        set(&mut endpoint.config.ports, body.ports);
        set(&mut endpoint.data_centers, body.data_center_ids);
        set(&mut endpoint.workers_min, body.workers.min);
        set(&mut endpoint.workers_max, body.workers.max);
        set(&mut endpoint.idle_timeout_s, body.workers.idle_timeout);
        set(&mut endpoint.timeout_ms, body.timeout);
        set(&mut endpoint.flashboot, body.flashboot);
        if let Some(template) = body.template_id.filter(|template| !template.is_empty()) {
            endpoint.template = Some(template);
        }
        if let Some((scaler, value)) = scaling {
            endpoint.scaler = scaler;
            endpoint.scaler_value_milli = value;
        }
        if let Some(gpu) = body.gpu {
            if let EndpointCompute::Gpu { ids, count } = &mut endpoint.compute {
                set(ids, gpu.pools.map(|pools| gpu_ids(pools, gpu.excluded_types)));
                set(count, gpu.count);
            }
            set(&mut endpoint.allowed_cuda_versions, gpu.allowed_cuda_versions);
            if let Some(version) = gpu.min_cuda_version {
                endpoint.min_cuda_version = Some(version).filter(|version| !version.is_empty());
            }
        }
        if let Some(compute) = body.cpu.and_then(cpu_compute) {
            endpoint.compute = compute;
        }
    };
    let change = EndpointChange { settings: Box::new(settings), volumes };
    Ok(ok(as_json(&service.update_endpoint(&who, &id, change).await?)))
}

pub(super) async fn remove(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.delete_endpoint(&who, &id).await?;
    Ok(no_content())
}
