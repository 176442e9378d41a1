//! Runpod REST v2, under `/v2`: lists in named fields, `application/problem+json` when something is wrong, 422 for bodies of the
//! wrong shape.

mod account;
mod billing;
mod catalog;
mod endpoints;
mod pods;
mod shapes;
mod templates;
mod volumes;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::rest::{self, BodyError, RestFace};
use crate::http::refusal::Face;
use crate::http::routes::Routes;
use crate::service::{ErrorKind, ServiceError};

pub(super) fn routes() -> Routes {
    Routes::default()
        .get("/v2/network-volumes", "List network volumes", volumes::list)
        .post("/v2/network-volumes", "Create a network volume", volumes::create)
        .get("/v2/network-volumes/{id}", "Get a network volume", volumes::show)
        .patch("/v2/network-volumes/{id}", "Rename or grow a network volume", volumes::update)
        .delete("/v2/network-volumes/{id}", "Delete a network volume", volumes::remove)
        .get("/v2/pods", "List pods", pods::list)
        .post("/v2/pods", "Create a pod", pods::create)
        .get("/v2/pods/{id}", "Get a pod", pods::show)
        .patch("/v2/pods/{id}", "Change a pod", pods::update)
        .delete("/v2/pods/{id}", "Terminate a pod", pods::terminate)
        .post("/v2/pods/{id}/action", "Start, stop, restart or terminate a pod", pods::act)
        .get("/v2/pods/{id}/logs", "The last lines of a pod's output; the stream ends with them", pods::logs)
        .get("/v2/serverless", "List endpoints", endpoints::list)
        .post("/v2/serverless", "Create an endpoint", endpoints::create)
        .get("/v2/serverless/{id}", "Get an endpoint", endpoints::show)
        .patch("/v2/serverless/{id}", "Change an endpoint", endpoints::update)
        .delete("/v2/serverless/{id}", "Delete an endpoint", endpoints::remove)
        .get("/v2/serverless/{id}/workers", "Workers of an endpoint: none are run", endpoints::workers)
        .get("/v2/templates", "List templates", templates::list)
        .post("/v2/templates", "Create a template", templates::create)
        .get("/v2/templates/{id}", "Get a template", templates::show)
        .patch("/v2/templates/{id}", "Change a template", templates::update)
        .delete("/v2/templates/{id}", "Delete a template", templates::remove)
        .get("/v2/catalog/gpus", "Kinds of GPUs", catalog::gpus)
        .get("/v2/catalog/gpus/{id}", "A kind of GPU", catalog::gpu)
        .get("/v2/catalog/cpus", "Kinds of CPUs", catalog::cpus)
        .get("/v2/catalog/cpus/{id}", "A kind of CPU", catalog::cpu)
        .get("/v2/catalog/datacenters", "Data centres", catalog::data_centers)
        .get("/v2/catalog/datacenters/{id}", "A data centre", catalog::data_center)
        .get("/v2/catalog/templates", "Everybody's templates", templates::list_public)
        .get("/v2/account/ssh-keys", "The account's SSH keys", account::ssh_keys)
        .put("/v2/account/ssh-keys", "Set the account's SSH keys", account::set_ssh_keys)
        .get("/v2/billing", "What everything cost", billing::everything)
        .get("/v2/billing/pods", "What pods cost: nothing here", billing::pods)
        .get("/v2/billing/serverless", "What endpoints cost: nothing here", billing::serverless)
        .get("/v2/billing/network-volumes", "What network volumes cost", billing::volumes)
        .not_served("/v2/clusters", &["get", "post"])
        .not_served("/v2/clusters/{id}", &["get", "patch", "delete"])
        .not_served("/v2/clusters/{id}/pods", &["get"])
        .not_served("/v2/serverless/{id}/releases", &["get"])
        .not_served("/v2/serverless/{id}/workers/{workerId}/logs", &["get"])
        .not_served("/v2/registries", &["get", "post"])
        .not_served("/v2/registries/{id}", &["get", "delete"])
        .not_served("/v2/registries/delegations", &["get", "post"])
        .not_served("/v2/registries/delegations/{id}", &["delete"])
        .not_served("/v2/billing/endpoints", &["get"])
        .not_served("/v2/billing/clusters", &["get"])
        .not_served("/v2/openapi.json", &["get"])
}

/// This face's form of an error.
enum V2 {}

type Refused = rest::Refused<V2>;
type Answer = Result<Response, Refused>;

/// A body whose shape breaks a rule of the specification.
fn unprocessable(sentence: impl Into<String>) -> Refused {
    BodyError::Shape(sentence.into()).into()
}

fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid | ErrorKind::TooMany => StatusCode::BAD_REQUEST,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::NoBalance => StatusCode::PAYMENT_REQUIRED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn unprocessable_response(errors: &[String]) -> Response {
    let body = json!({
        "title": "Unprocessable Entity", "status": 422, "detail": "Request validation failed.", "errors": errors,
    });
    let mut response = (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

impl RestFace for V2 {
    fn service_error(error: &ServiceError) -> Response {
        Face::V2.refuse_error(status_of(error.kind()), error)
    }

    fn body_error(error: BodyError) -> Response {
        match error {
            BodyError::UnknownKeys(keys) => {
                let errors: Vec<String> =
                    keys.iter().map(|key| format!("$: additional properties '{key}' not allowed")).collect();
                unprocessable_response(&errors)
            }
            BodyError::Shape(sentence) => unprocessable_response(&[format!("$: {sentence}")]),
            BodyError::Malformed(sentence) => Face::V2.refuse(StatusCode::BAD_REQUEST, &sentence),
        }
    }
}
