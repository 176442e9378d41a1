//! Runpod REST v1, under `/v1`: bare arrays, `{"error", "status"}` when something is wrong, and the oddities that its clients have
//! come to know.

mod billing;
mod endpoints;
mod pods;
mod templates;
mod volumes;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, patch, post};
use axum::{Json, extract::Query};
use serde_json::json;

use super::input::BodyTrouble;
use crate::http::refusal::{Face, not_served};
use crate::service::{ErrorKind, Service, ServiceError};

pub(super) const SERVED: [(&str, &str, &str); 30] = [
    ("get", "/v1/networkvolumes", "List network volumes"),
    ("post", "/v1/networkvolumes", "Create a network volume"),
    ("get", "/v1/networkvolumes/{networkVolumeId}", "Find a network volume"),
    ("patch", "/v1/networkvolumes/{networkVolumeId}", "Rename or grow a network volume"),
    ("delete", "/v1/networkvolumes/{networkVolumeId}", "Delete a network volume"),
    ("post", "/v1/networkvolumes/{networkVolumeId}/update", "Rename or grow a network volume"),
    ("get", "/v1/pods", "List pods"),
    ("post", "/v1/pods", "Create a pod"),
    ("get", "/v1/pods/{podId}", "Find a pod"),
    ("patch", "/v1/pods/{podId}", "Change a pod"),
    ("delete", "/v1/pods/{podId}", "Terminate a pod"),
    ("post", "/v1/pods/{podId}/update", "Change a pod"),
    ("post", "/v1/pods/{podId}/start", "Start a pod"),
    ("post", "/v1/pods/{podId}/stop", "Stop a pod"),
    ("post", "/v1/pods/{podId}/reset", "Make a pod's container anew"),
    ("post", "/v1/pods/{podId}/restart", "Restart a pod"),
    ("get", "/v1/endpoints", "List endpoints"),
    ("post", "/v1/endpoints", "Create an endpoint"),
    ("get", "/v1/endpoints/{endpointId}", "Find an endpoint"),
    ("patch", "/v1/endpoints/{endpointId}", "Change an endpoint"),
    ("delete", "/v1/endpoints/{endpointId}", "Delete an endpoint"),
    ("post", "/v1/endpoints/{endpointId}/update", "Change an endpoint"),
    ("get", "/v1/templates", "List templates"),
    ("post", "/v1/templates", "Create a template"),
    ("get", "/v1/templates/{templateId}", "Find a template"),
    ("patch", "/v1/templates/{templateId}", "Change a template"),
    ("delete", "/v1/templates/{templateId}", "Delete a template"),
    ("post", "/v1/templates/{templateId}/update", "Change a template"),
    ("get", "/v1/billing/pods", "What pods cost: nothing here"),
    ("get", "/v1/billing/networkvolumes", "What network volumes cost"),
];

pub(super) const NOT_SERVED: [(&str, &str); 7] = [
    ("get", "/v1/openapi.json"),
    ("get", "/v1/docs"),
    ("get", "/v1/billing/endpoints"),
    ("get", "/v1/containerregistryauth"),
    ("post", "/v1/containerregistryauth"),
    ("get", "/v1/containerregistryauth/{containerRegistryAuthId}"),
    ("delete", "/v1/containerregistryauth/{containerRegistryAuthId}"),
];

pub(super) fn router() -> Router<Arc<Service>> {
    let served = Router::new()
        .route("/v1/networkvolumes", get(volumes::list).post(volumes::create))
        .route("/v1/networkvolumes/{id}", get(volumes::show).patch(volumes::update).delete(volumes::remove))
        .route("/v1/networkvolumes/{id}/update", post(volumes::update))
        .route("/v1/pods", get(pods::list).post(pods::create))
        .route("/v1/pods/{id}", get(pods::show).patch(pods::update).delete(pods::terminate))
        .route("/v1/pods/{id}/update", post(pods::update))
        .route("/v1/pods/{id}/start", post(pods::start))
        .route("/v1/pods/{id}/stop", post(pods::stop))
        .route("/v1/pods/{id}/reset", post(pods::reset))
        .route("/v1/pods/{id}/restart", post(pods::restart))
        .route("/v1/endpoints", get(endpoints::list).post(endpoints::create))
        .route("/v1/endpoints/{id}", get(endpoints::show).patch(endpoints::update).delete(endpoints::remove))
        .route("/v1/endpoints/{id}/update", post(endpoints::update))
        .route("/v1/templates", get(templates::list).post(templates::create))
        .route("/v1/templates/{id}", patch(templates::update).get(templates::show).delete(templates::remove))
        .route("/v1/templates/{id}/update", post(templates::update))
        .route("/v1/billing/pods", get(billing::pods))
        .route("/v1/billing/networkvolumes", get(billing::volumes));
    let mut paths: Vec<&str> = NOT_SERVED.iter().map(|(_, path)| *path).collect();
    paths.dedup();
    paths.into_iter().fold(served, |router, path| router.route(path, any(not_served)))
}

/// An error in this API's form.
enum Refused {
    Service(ServiceError),
    Body(BodyTrouble),
}

type Answer = Result<Response, Refused>;

impl From<ServiceError> for Refused {
    fn from(error: ServiceError) -> Self {
        Refused::Service(error)
    }
}

impl From<BodyTrouble> for Refused {
    fn from(trouble: BodyTrouble) -> Self {
        Refused::Body(trouble)
    }
}

fn status_of(error: &ServiceError) -> StatusCode {
    match (error, error.kind()) {
        // What was seen of the real service.
        (ServiceError::UnknownDataCenter { .. }, _) => StatusCode::INTERNAL_SERVER_ERROR,
        (_, ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::TooMany) => StatusCode::BAD_REQUEST,
        (_, ErrorKind::Forbidden) => StatusCode::FORBIDDEN,
        (_, ErrorKind::NotFound) => StatusCode::NOT_FOUND,
        (_, ErrorKind::NoBalance) => StatusCode::PAYMENT_REQUIRED,
        (_, ErrorKind::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
        (_, ErrorKind::Internal) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Refused::Service(error) => {
                let status = status_of(&error);
                if error.kind() == ErrorKind::Internal {
                    tracing::error!(%error, "the control plane failed");
                }
                let sentence = match &error {
                    ServiceError::UnknownDataCenter { .. } => format!("create network volume: {error}"),
                    _ => error.public_message(),
                };
                Face::V1.refuse(status, &sentence)
            }
            Refused::Body(BodyTrouble::UnknownKeys(keys)) => {
                let problems: Vec<String> = keys.iter().map(|key| format!("unknown key {key:?}")).collect();
                let body = json!({ "error": "Extra input keys provided in request body", "problems": problems });
                (StatusCode::BAD_REQUEST, Json(body)).into_response()
            }
            Refused::Body(BodyTrouble::Malformed(sentence) | BodyTrouble::Shape(sentence)) => {
                Face::V1.refuse(StatusCode::BAD_REQUEST, &sentence)
            }
        }
    }
}

/// A query's parameters.
type Parameters = Query<Vec<(String, String)>>;

/// All values of a parameter; a list may also be one value with commas.
fn all(parameters: &[(String, String)], name: &str) -> Vec<String> {
    let values = parameters.iter().filter(|(known, _)| known == name);
    values.flat_map(|(_, value)| super::input::split(value)).collect()
}

fn one<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn flag(parameters: &[(String, String)], name: &str) -> bool {
    one(parameters, name) == Some("true")
}
