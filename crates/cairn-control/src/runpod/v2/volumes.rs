//! `/v2/network-volumes`.

use axum::body::Bytes;
use axum::extract::Path;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Refused, unprocessable};
use crate::http::routes::Caller;
use crate::runpod::rest::{self, created, no_content, ok};
use crate::service::records::VolumeTier;
use crate::service::{NewNetworkVolume, Shrink, VolumeChange, VolumeView};

/// This API's own limits, in GB.
const SIZES: std::ops::RangeInclusive<u64> = 10..=4096;

fn as_json(view: &VolumeView) -> Value {
    json!({
        "id": view.id, "name": view.name, "size": view.size_gb, "dataCenter": view.data_center, "type": view.tier,
    })
}

fn check_size(size: u64) -> Result<u64, Refused> {
    if SIZES.contains(&size) {
        return Ok(size);
    }
    Err(unprocessable(format!("size must be {} to {} GB", SIZES.start(), SIZES.end())))
}

pub(super) async fn list(Caller { service, who }: Caller) -> Answer {
    let volumes: Vec<Value> = service.volumes(&who)?.iter().map(as_json).collect();
    Ok(ok(json!({ "networkVolumes": volumes })))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    name: String,
    size: u64,
    data_center: String,
    r#type: Option<VolumeTier>,
}

pub(super) async fn create(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let wanted: Create = rest::body(&body)?;
    let wanted = NewNetworkVolume {
        name: wanted.name,
        size_gb: check_size(wanted.size)?,
        data_center: wanted.data_center,
        tier: wanted.r#type.unwrap_or(VolumeTier::Standard),
    };
    let view = service.create_volume(&who, wanted).await?;
    Ok(created(as_json(&view)))
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
    if wanted.name.is_none() && wanted.size.is_none() {
        return Err(unprocessable("at least one of name and size is needed"));
    }
    let size_gb = wanted.size.map(check_size).transpose()?;
    let change = VolumeChange { name: wanted.name, size_gb, shrink: Shrink::Refused };
    Ok(ok(as_json(&service.update_volume(&who, &id, change).await?)))
}

pub(super) async fn remove(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.delete_volume(&who, &id).await?;
    Ok(no_content())
}
