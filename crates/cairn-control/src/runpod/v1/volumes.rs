//! `/v1/networkvolumes`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Json, response::Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use crate::runpod::input;
use crate::service::records::VolumeTier;
use crate::service::{NewNetworkVolume, Principal, Service, ServiceError, Shrink, VolumeChange, VolumeView};

/// This API's own limit, in GB.
const SIZE_MAX: u64 = 4000;

pub(super) fn as_json(view: &VolumeView) -> Value {
    json!({ "id": view.id, "name": view.name, "size": view.size_gb, "dataCenterId": view.data_center })
}

fn check_size(size: u64) -> Result<u64, ServiceError> {
    if size <= SIZE_MAX {
        return Ok(size);
    }
    Err(ServiceError::Invalid(format!("a network volume has at most {SIZE_MAX} GB: {size} GB cannot be had")))
}

pub(super) async fn list(State(service): State<Arc<Service>>, Extension(who): Extension<Principal>) -> Answer {
    let volumes: Vec<Value> = service.volumes(&who)?.iter().map(as_json).collect();
    Ok(Json(volumes).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    name: String,
    size: u64,
    data_center_id: String,
}

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    body: Bytes,
) -> Answer {
    let wanted: Create = input::body(&body, &["name", "size", "dataCenterId"])?;
    let wanted = NewNetworkVolume {
        name: wanted.name,
        size_gb: check_size(wanted.size)?,
        data_center: wanted.data_center_id,
        tier: VolumeTier::Standard,
    };
    Ok(Json(as_json(&service.create_volume(&who, wanted).await?)).into_response())
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
) -> Answer {
    Ok(Json(as_json(&service.volume(&who, &id)?)).into_response())
}

#[derive(Deserialize)]
struct Update {
    name: Option<String>,
    size: Option<u64>,
}

pub(super) async fn update(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer {
    let wanted: Update = input::body(&body, &["name", "size"])?;
    let size_gb = wanted.size.map(check_size).transpose()?;
    let change = VolumeChange { name: wanted.name, size_gb, shrink: Shrink::AsObserved };
    Ok(Json(as_json(&service.update_volume(&who, &id, change).await?)).into_response())
}

pub(super) async fn remove(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
) -> Answer {
    service.delete_volume(&who, &id).await?;
    Ok(no_content())
}

pub(super) fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
