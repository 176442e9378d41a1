//! `/v1/endpoints`.

use axum::body::Bytes;
use axum::extract::Path;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, templates};
use crate::http::routes::Caller;
use crate::runpod::input::{self, set};
use crate::runpod::rest::{self, Parameters, no_content, ok};
use crate::service::records::{ContainerConfig, Endpoint, EndpointCompute, Scaler};
use crate::service::{EndpointChange, NewEndpoint, Principal, Service};

fn as_json(service: &Service, who: &Principal, endpoint: &Endpoint, parameters: &Parameters) -> Value {
    let mut value = json!({
        "id": endpoint.id, "name": endpoint.name, "userId": endpoint.account, "version": endpoint.version,
        "createdAt": endpoint.created.to_string(), "dataCenterIds": endpoint.data_centers, "env": endpoint.config.env,
        "executionTimeoutMs": endpoint.timeout_ms, "idleTimeout": endpoint.idle_timeout_s,
        "networkVolumeIds": endpoint.volumes, "scalerType": endpoint.scaler.name(),
        "scalerValue": input::scaler_units(endpoint.scaler_value_milli),
        "workersMin": endpoint.workers_min, "workersMax": endpoint.workers_max,
        "allowedCudaVersions": endpoint.allowed_cuda_versions,
    });
    match &endpoint.compute {
        EndpointCompute::Gpu { ids, count } => {
            value["computeType"] = json!("GPU");
            value["gpuTypeIds"] = json!(ids);
            value["gpuCount"] = json!(count);
        }
        EndpointCompute::Cpu { flavors, vcpu } => {
            value["computeType"] = json!("CPU");
            value["instanceIds"] = flavors.iter().map(|flavor| format!("{flavor}-{vcpu}")).collect();
        }
    }
    if let Some(volume) = endpoint.volumes.first() {
        value["networkVolumeId"] = json!(volume);
    }
    if let Some(version) = &endpoint.min_cuda_version {
        value["minCudaVersion"] = json!(version);
    }
    if let Some(id) = &endpoint.template {
        value["templateId"] = json!(id);
        if parameters.flag("includeTemplate")
            && let Ok(template) = service.template(who, id)
        {
            value["template"] = templates::as_json(&template);
        }
    }
    if parameters.flag("includeWorkers") {
        value["workers"] = json!([]);
    }
    value
}

pub(super) async fn list(Caller { service, who }: Caller, parameters: Parameters) -> Answer {
    let endpoints = service.endpoints(&who)?;
    let endpoints = endpoints.iter().map(|endpoint| as_json(&service, &who, endpoint, &parameters));
    Ok(ok(endpoints.collect::<Vec<_>>()))
}

pub(super) async fn show(Caller { service, who }: Caller, Path(id): Path<String>, parameters: Parameters) -> Answer {
    let endpoint = service.endpoint(&who, &id)?;
    Ok(ok(as_json(&service, &who, &endpoint, &parameters)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    name: Option<String>,
    template_id: Option<String>,
    compute_type: Option<String>,
    gpu_type_ids: Option<Vec<String>>,
    gpu_count: Option<u32>,
    cpu_flavor_ids: Option<Vec<String>>,
    vcpu_count: Option<u32>,
    data_center_ids: Option<Vec<String>>,
    network_volume_id: Option<String>,
    network_volume_ids: Option<Vec<String>>,
    workers_min: Option<u32>,
    workers_max: Option<u32>,
    idle_timeout: Option<u32>,
    scaler_type: Option<Scaler>,
    scaler_value: Option<u64>,
    execution_timeout_ms: Option<u64>,
    flashboot: Option<bool>,
    allowed_cuda_versions: Option<Vec<String>>,
    min_cuda_version: Option<String>,
}

impl Body {
    fn volumes(&self) -> Option<Vec<String>> {
        self.network_volume_ids.clone().or_else(|| self.network_volume_id.clone().map(|id| vec![id]))
    }

    fn flashboot(&self) -> Option<String> {
        self.flashboot.map(|on| if on { "FLASHBOOT" } else { "OFF" }.to_owned())
    }

    /// What workers run on, as far as it is said; the rest as it was.
    fn compute(&self, was: EndpointCompute) -> EndpointCompute {
        match was {
            EndpointCompute::Gpu { ids, count } => EndpointCompute::Gpu {
                ids: self.gpu_type_ids.clone().unwrap_or(ids),
                count: self.gpu_count.unwrap_or(count),
            },
            EndpointCompute::Cpu { flavors, vcpu } => EndpointCompute::Cpu {
                flavors: self.cpu_flavor_ids.clone().unwrap_or(flavors),
                vcpu: self.vcpu_count.unwrap_or(vcpu),
            },
        }
    }
}

pub(super) async fn create(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let body: Body = rest::body(&body)?;
    let was = if body.compute_type.as_deref() == Some("CPU") {
        EndpointCompute::Cpu { flavors: vec!["cpu3g".to_owned()], vcpu: 2 }
    } else {
        EndpointCompute::Gpu { ids: Vec::new(), count: 1 }
    };
    let wanted = NewEndpoint {
        compute: body.compute(was),
        volumes: body.volumes().unwrap_or_default(),
        flashboot: body.flashboot().unwrap_or_else(|| "OFF".to_owned()),
        name: body.name.unwrap_or_else(|| "my endpoint".to_owned()),
        template: Some(body.template_id.unwrap_or_default()),
        resolve_template: false,
        config: ContainerConfig::default(),
        data_centers: body.data_center_ids.unwrap_or_default(),
        load_balancer: false,
        workers_min: body.workers_min.unwrap_or(0),
        workers_max: body.workers_max.unwrap_or(3),
        idle_timeout_s: body.idle_timeout.unwrap_or(5),
        scaler: body.scaler_type.unwrap_or(Scaler::QueueDelay),
        scaler_value_milli: body.scaler_value.unwrap_or(4).saturating_mul(1000),
        timeout_ms: body.execution_timeout_ms.unwrap_or(600_000),
        allowed_cuda_versions: body.allowed_cuda_versions.unwrap_or_default(),
        min_cuda_version: body.min_cuda_version,
    };
    let endpoint = service.create_endpoint(&who, wanted).await?;
    Ok(ok(as_json(&service, &who, &endpoint, &Parameters::default())))
}

pub(super) async fn update(Caller { service, who }: Caller, Path(id): Path<String>, body: Bytes) -> Answer {
    let body: Body = rest::body_without(&body, &["computeType"])?;
    let volumes = body.volumes();
    let settings = move |endpoint: &mut Endpoint| {
        endpoint.compute = body.compute(endpoint.compute.clone());
        set(&mut endpoint.flashboot, body.flashboot());
        set(&mut endpoint.name, body.name);
        if let Some(template) = body.template_id {
            endpoint.template = Some(template);
        }
        set(&mut endpoint.data_centers, body.data_center_ids);
        set(&mut endpoint.workers_min, body.workers_min);
        set(&mut endpoint.workers_max, body.workers_max);
        set(&mut endpoint.idle_timeout_s, body.idle_timeout);
        set(&mut endpoint.scaler, body.scaler_type);
        set(&mut endpoint.scaler_value_milli, body.scaler_value.map(|value| value.saturating_mul(1000)));
        set(&mut endpoint.timeout_ms, body.execution_timeout_ms);
        set(&mut endpoint.allowed_cuda_versions, body.allowed_cuda_versions);
        if body.min_cuda_version.is_some() {
            endpoint.min_cuda_version = body.min_cuda_version;
        }
    };
    let change = EndpointChange { settings: Box::new(settings), volumes };
    let endpoint = service.update_endpoint(&who, &id, change).await?;
    Ok(ok(as_json(&service, &who, &endpoint, &Parameters::default())))
}

pub(super) async fn remove(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.delete_endpoint(&who, &id).await?;
    Ok(no_content())
}
