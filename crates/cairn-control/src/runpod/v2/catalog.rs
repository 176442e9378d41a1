//! `/v2/catalog`: what the cloud lists. GPUs are never available here: none is promised.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Answer;
use crate::runpod::rest::{Parameters, ok};
use crate::service::{Service, ServiceError, catalog};

fn wants(parameters: &Parameters, what: &str) -> bool {
    parameters.all("include").iter().any(|item| item == what)
}

fn gpu_json(gpu: catalog::GpuType, parameters: &Parameters) -> Value {
    let most = catalog::GPU_COUNT_MAX;
    let mut value = json!({
        "id": gpu.id, "name": gpu.display_name(), "pool": gpu.pool, "manufacturer": gpu.manufacturer(),
        "memory": gpu.memory_gb, "secure": true, "community": true,
        "price": { "secure": 0.0, "community": 0.0 }, "maxCount": { "secure": most, "community": most },
    });
    if wants(parameters, "AVAILABILITY") {
        value["availability"] = json!("NONE");
    }
    value
}

pub(super) async fn gpus(parameters: Parameters) -> Answer {
    let gpus: Vec<Value> = catalog::gpu_types().map(|gpu| gpu_json(gpu, &parameters)).collect();
    Ok(ok(json!({ "gpus": gpus })))
}

pub(super) async fn gpu(Path(id): Path<String>, parameters: Parameters) -> Answer {
    let gpu = catalog::gpu_types().find(|gpu| gpu.id == id).ok_or(ServiceError::NotFound { what: "GPU type" })?;
    Ok(ok(gpu_json(gpu, &parameters)))
}

fn cpu_json(flavor: &catalog::CpuFlavor, parameters: &Parameters) -> Value {
    let mut value = json!({
        "id": flavor.id, "name": flavor.name, "group": flavor.id,
        "vcpu": { "min": catalog::VCPU_MIN, "max": catalog::VCPU_MAX }, "ramGbPerVcpu": flavor.memory_per_vcpu,
        "price": { "securePerVcpu": 0.0, "serverlessPerVcpu": 0.0 },
    });
    if wants(parameters, "AVAILABILITY") {
        value["availability"] = json!("HIGH");
    }
    value
}

pub(super) async fn cpus(parameters: Parameters) -> Answer {
    let cpus: Vec<Value> = catalog::CPU_FLAVORS.iter().map(|flavor| cpu_json(flavor, &parameters)).collect();
    Ok(ok(json!({ "cpus": cpus })))
}

pub(super) async fn cpu(Path(id): Path<String>, parameters: Parameters) -> Answer {
    let flavor = catalog::CPU_FLAVORS.iter().find(|flavor| flavor.id == id);
    let flavor = flavor.ok_or(ServiceError::NotFound { what: "CPU type" })?;
    Ok(ok(cpu_json(flavor, &parameters)))
}

fn data_center_json(center: &catalog::DataCenter) -> Value {
    json!({
        "id": center.id, "name": center.name, "region": center.region, "globalNetwork": false,
        "networkVolumeTypes": ["STANDARD", "HIGH_PERFORMANCE"], "compliance": [],
    })
}

pub(super) async fn data_centers(State(service): State<Arc<Service>>, parameters: Parameters) -> Answer {
    let regions = parameters.all("regions");
    // No data centre here is certified, or on a global network.
    let nothing = !parameters.all("compliance").is_empty() || parameters.one("globalNetwork") == Some("true");
    let centers = service.data_centers();
    let wanted = centers
        .iter()
        .filter(|center| !nothing && (regions.is_empty() || regions.iter().any(|region| region == center.region)));
    Ok(ok(json!({ "dataCenters": wanted.map(data_center_json).collect::<Vec<_>>() })))
}

pub(super) async fn data_center(State(service): State<Arc<Service>>, Path(id): Path<String>) -> Answer {
    let centers = service.data_centers();
    let center = centers.iter().find(|center| center.id == id);
    Ok(ok(data_center_json(center.ok_or(ServiceError::NotFound { what: "data center" })?)))
}
