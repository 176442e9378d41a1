//! Runpod REST v2, under `/v2`: lists in named fields, `application/problem+json` when something is wrong, 422 for bodies of the
//! wrong shape.

mod account;
mod billing;
mod catalog;
mod endpoints;
mod pods;
mod templates;
mod volumes;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::Query;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use serde_json::json;

use super::input::BodyTrouble;
use crate::http::refusal::{Face, not_served};
use crate::service::{ErrorKind, Service, ServiceError};

pub(super) const SERVED: [(&str, &str, &str); 36] = [
    ("get", "/v2/network-volumes", "List network volumes"),
    ("post", "/v2/network-volumes", "Create a network volume"),
    ("get", "/v2/network-volumes/{id}", "Get a network volume"),
    ("patch", "/v2/network-volumes/{id}", "Rename or grow a network volume"),
    ("delete", "/v2/network-volumes/{id}", "Delete a network volume"),
    ("get", "/v2/pods", "List pods"),
    ("post", "/v2/pods", "Create a pod"),
    ("get", "/v2/pods/{id}", "Get a pod"),
    ("patch", "/v2/pods/{id}", "Change a pod"),
    ("delete", "/v2/pods/{id}", "Terminate a pod"),
    ("post", "/v2/pods/{id}/action", "Start, stop, restart or terminate a pod"),
    ("get", "/v2/pods/{id}/logs", "The last lines of a pod's output; the stream ends with them"),
    ("get", "/v2/serverless", "List endpoints"),
    ("post", "/v2/serverless", "Create an endpoint"),
    ("get", "/v2/serverless/{id}", "Get an endpoint"),
    ("patch", "/v2/serverless/{id}", "Change an endpoint"),
    ("delete", "/v2/serverless/{id}", "Delete an endpoint"),
    ("get", "/v2/serverless/{id}/workers", "Workers of an endpoint: none are run"),
    ("get", "/v2/templates", "List templates"),
    ("post", "/v2/templates", "Create a template"),
    ("get", "/v2/templates/{id}", "Get a template"),
    ("patch", "/v2/templates/{id}", "Change a template"),
    ("delete", "/v2/templates/{id}", "Delete a template"),
    ("get", "/v2/catalog/gpus", "Kinds of GPUs"),
    ("get", "/v2/catalog/gpus/{id}", "A kind of GPU"),
    ("get", "/v2/catalog/cpus", "Kinds of CPUs"),
    ("get", "/v2/catalog/cpus/{id}", "A kind of CPU"),
    ("get", "/v2/catalog/datacenters", "Data centres"),
    ("get", "/v2/catalog/datacenters/{id}", "A data centre"),
    ("get", "/v2/catalog/templates", "Everybody's templates"),
    ("get", "/v2/account/ssh-keys", "The account's SSH keys"),
    ("put", "/v2/account/ssh-keys", "Set the account's SSH keys"),
    ("get", "/v2/billing", "What everything cost"),
    ("get", "/v2/billing/pods", "What pods cost: nothing here"),
    ("get", "/v2/billing/serverless", "What endpoints cost: nothing here"),
    ("get", "/v2/billing/network-volumes", "What network volumes cost"),
];

pub(super) const NOT_SERVED: [(&str, &str); 18] = [
    ("get", "/v2/clusters"),
    ("post", "/v2/clusters"),
    ("get", "/v2/clusters/{id}"),
    ("patch", "/v2/clusters/{id}"),
    ("delete", "/v2/clusters/{id}"),
    ("get", "/v2/clusters/{id}/pods"),
    ("get", "/v2/serverless/{id}/releases"),
    ("get", "/v2/serverless/{id}/workers/{workerId}/logs"),
    ("get", "/v2/registries"),
    ("post", "/v2/registries"),
    ("get", "/v2/registries/{id}"),
    ("delete", "/v2/registries/{id}"),
    ("get", "/v2/registries/delegations"),
    ("post", "/v2/registries/delegations"),
    ("delete", "/v2/registries/delegations/{id}"),
    ("get", "/v2/billing/endpoints"),
    ("get", "/v2/billing/clusters"),
    ("get", "/v2/openapi.json"),
];

pub(super) fn router() -> Router<Arc<Service>> {
    let served = Router::new()
        .route("/v2/network-volumes", get(volumes::list).post(volumes::create))
        .route("/v2/network-volumes/{id}", get(volumes::show).patch(volumes::update).delete(volumes::remove))
        .route("/v2/pods", get(pods::list).post(pods::create))
        .route("/v2/pods/{id}", get(pods::show).patch(pods::update).delete(pods::terminate))
        .route("/v2/pods/{id}/action", post(pods::act))
        .route("/v2/pods/{id}/logs", get(pods::logs))
        .route("/v2/serverless", get(endpoints::list).post(endpoints::create))
        .route("/v2/serverless/{id}", get(endpoints::show).patch(endpoints::update).delete(endpoints::remove))
        .route("/v2/serverless/{id}/workers", get(endpoints::workers))
        .route("/v2/templates", get(templates::list).post(templates::create))
        .route("/v2/templates/{id}", get(templates::show).patch(templates::update).delete(templates::remove))
        .route("/v2/catalog/gpus", get(catalog::gpus))
        .route("/v2/catalog/gpus/{id}", get(catalog::gpu))
        .route("/v2/catalog/cpus", get(catalog::cpus))
        .route("/v2/catalog/cpus/{id}", get(catalog::cpu))
        .route("/v2/catalog/datacenters", get(catalog::data_centers))
        .route("/v2/catalog/datacenters/{id}", get(catalog::data_center))
        .route("/v2/catalog/templates", get(templates::list_public))
        .route("/v2/account/ssh-keys", get(account::ssh_keys).put(account::set_ssh_keys))
        .route("/v2/billing", get(billing::everything))
        .route("/v2/billing/pods", get(billing::pods))
        .route("/v2/billing/serverless", get(billing::serverless))
        .route("/v2/billing/network-volumes", get(billing::volumes));
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

/// A body whose shape breaks a rule of the specification.
fn unprocessable(sentence: impl Into<String>) -> Refused {
    Refused::Body(BodyTrouble::Shape(sentence.into()))
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

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Refused::Service(error) => {
                if error.kind() == ErrorKind::Internal {
                    tracing::error!(%error, "the control plane failed");
                }
                Face::V2.refuse(status_of(error.kind()), &error.public_message())
            }
            Refused::Body(BodyTrouble::UnknownKeys(keys)) => {
                let errors: Vec<String> =
                    keys.iter().map(|key| format!("$: additional properties '{key}' not allowed")).collect();
                unprocessable_response(&errors)
            }
            Refused::Body(BodyTrouble::Shape(sentence)) => unprocessable_response(&[format!("$: {sentence}")]),
            Refused::Body(BodyTrouble::Malformed(sentence)) => Face::V2.refuse(StatusCode::BAD_REQUEST, &sentence),
        }
    }
}

/// A query's parameters.
type Parameters = Query<Vec<(String, String)>>;

fn one<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// All values of a parameter; a list may also be one value with commas.
fn all(parameters: &[(String, String)], name: &str) -> Vec<String> {
    let values = parameters.iter().filter(|(known, _)| known == name);
    values.flat_map(|(_, value)| super::input::split(value)).collect()
}
