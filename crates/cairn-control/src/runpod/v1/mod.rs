//! Runpod REST v1, under `/v1`: bare arrays, `{"error", "status"}` when something is wrong, and the oddities that its clients have
//! come to know.

mod billing;
mod endpoints;
mod pods;
mod templates;
mod volumes;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::rest::{self, BodyError, RestFace};
use crate::http::refusal::Face;
use crate::http::routes::Routes;
use crate::service::{ErrorKind, ServiceError};

pub(super) fn routes() -> Routes {
    Routes::default()
        .get("/v1/networkvolumes", "List network volumes", volumes::list)
        .post("/v1/networkvolumes", "Create a network volume", volumes::create)
        .get("/v1/networkvolumes/{networkVolumeId}", "Find a network volume", volumes::show)
        .patch("/v1/networkvolumes/{networkVolumeId}", "Rename or grow a network volume", volumes::update)
        .delete("/v1/networkvolumes/{networkVolumeId}", "Delete a network volume", volumes::remove)
        .post("/v1/networkvolumes/{networkVolumeId}/update", "Rename or grow a network volume", volumes::update)
        .get("/v1/pods", "List pods", pods::list)
        .post("/v1/pods", "Create a pod", pods::create)
        .get("/v1/pods/{podId}", "Find a pod", pods::show)
        .patch("/v1/pods/{podId}", "Change a pod", pods::update)
        .delete("/v1/pods/{podId}", "Terminate a pod", pods::terminate)
        .post("/v1/pods/{podId}/update", "Change a pod", pods::update)
        .post("/v1/pods/{podId}/start", "Start a pod", pods::start)
        .post("/v1/pods/{podId}/stop", "Stop a pod", pods::stop)
        .post("/v1/pods/{podId}/reset", "Recreate a pod's container", pods::reset)
        .post("/v1/pods/{podId}/restart", "Restart a pod", pods::restart)
        .get("/v1/endpoints", "List endpoints", endpoints::list)
        .post("/v1/endpoints", "Create an endpoint", endpoints::create)
        .get("/v1/endpoints/{endpointId}", "Find an endpoint", endpoints::show)
        .patch("/v1/endpoints/{endpointId}", "Change an endpoint", endpoints::update)
        .delete("/v1/endpoints/{endpointId}", "Delete an endpoint", endpoints::remove)
        .post("/v1/endpoints/{endpointId}/update", "Change an endpoint", endpoints::update)
        .get("/v1/templates", "List templates", templates::list)
        .post("/v1/templates", "Create a template", templates::create)
        .get("/v1/templates/{templateId}", "Find a template", templates::show)
        .patch("/v1/templates/{templateId}", "Change a template", templates::update)
        .delete("/v1/templates/{templateId}", "Delete a template", templates::remove)
        .post("/v1/templates/{templateId}/update", "Change a template", templates::update)
        .get("/v1/billing/pods", "What pods cost: nothing here", billing::pods)
        .get("/v1/billing/networkvolumes", "What network volumes cost", billing::volumes)
        .not_served("/v1/openapi.json", &["get"])
        .not_served("/v1/docs", &["get"])
        .not_served("/v1/billing/endpoints", &["get"])
        .not_served("/v1/containerregistryauth", &["get", "post"])
        .not_served("/v1/containerregistryauth/{containerRegistryAuthId}", &["get", "delete"])
}

/// This face's form of an error.
enum V1 {}

type Refused = rest::Refused<V1>;
type Answer = Result<Response, Refused>;

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

impl RestFace for V1 {
    fn service_error(error: &ServiceError) -> Response {
        let status = status_of(error);
        match error {
            ServiceError::UnknownDataCenter { .. } => {
                Face::V1.refuse(status, &format!("create network volume: {error}"))
            }
            _ => Face::V1.refuse_error(status, error),
        }
    }

    fn body_error(error: BodyError) -> Response {
        match error {
            BodyError::UnknownKeys(keys) => {
                let problems: Vec<String> = keys.iter().map(|key| format!("unknown key {key:?}")).collect();
                let body = json!({ "error": "Extra input keys provided in request body", "problems": problems });
                (StatusCode::BAD_REQUEST, Json(body)).into_response()
            }
            BodyError::Malformed(sentence) | BodyError::Shape(sentence) => {
                Face::V1.refuse(StatusCode::BAD_REQUEST, &sentence)
            }
        }
    }
}
