//! `/v1/networkvolumes`.

use axum::body::Bytes;
use axum::extract::Path;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use crate::http::routes::Caller;
use crate::runpod::rest::{self, no_content, ok};
use crate::service::records::VolumeTier;
use crate::service::{NewNetworkVolume, ServiceError, Shrink, VolumeChange, VolumeView};

/// This API's own limit, in GB.
const SIZE_MAX: u64 = 4000;

pub(super) fn as_json(view: &VolumeView) -> Value {
    json!({ "id": view.id, "name": view.name, "size": view.size_gb, "dataCenterId": view.data_center })
}

fn check_size(size: u64) -> Result<u64, ServiceError> {
    if size <= SIZE_MAX {
        return Ok(size);
    }
    Err(ServiceError::Invalid(format!("a network volume has at most {SIZE_MAX} GB: {size} GB is not possible")))
}

pub(super) async fn list(Caller { service, who }: Caller) -> Answer {
    let volumes: Vec<Value> = service.volumes(&who)?.iter().map(as_json).collect();
    Ok(ok(volumes))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    name: String,
    size: u64,
    data_center_id: String,
}

pub(super) async fn create(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let wanted: Create = rest::body(&body)?;
    let wanted = NewNetworkVolume {
        name: wanted.name,
        size_gb: check_size(wanted.size)?,
        data_center: wanted.data_center_id,
        tier: VolumeTier::Standard,
    };
    Ok(ok(as_json(&service.create_volume(&who, wanted).await?)))
}

pub(super) async fn show(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    Ok(ok(as_json(&service.volume(&who, &id)?)))
}

#[derive(Deserialize)]
struct Update {
    name: Option<String>,
    size: Option<u64>,
}

pub(super) async fn update(Caller { service, who }: Caller, Path(id): Path<String>, body: Bytes) -> Answer {
    let wanted: Update = rest::body(&body)?;
    let size_gb = wanted.size.map(check_size).transpose()?;
    let change = VolumeChange { name: wanted.name, size_gb, shrink: Shrink::AsObserved };
    Ok(ok(as_json(&service.update_volume(&who, &id, change).await?)))
}

pub(super) async fn remove(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.delete_volume(&who, &id).await?;
    Ok(no_content())
}
