//! Answers that are given before a face has its turn, in the form that the face's clients read.

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::service::{ErrorKind, ServiceError};

/// Whose clients send requests to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    GraphQl,
    V1,
    V2,
    Admin,
    /// Pages that take no key.
    Open,
}

impl Face {
    pub(crate) fn of(path: &str) -> Self {
        let under =
            |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if under("/graphql") {
            Face::GraphQl
        } else if under("/v1") {
            Face::V1
        } else if under("/v2") {
            Face::V2
        } else if under("/cairn") {
            Face::Admin
        } else {
            Face::Open
        }
    }

    /// `status` and a sentence.
    pub(crate) fn refuse(self, status: StatusCode, sentence: &str) -> Response {
        let mut response = match self {
            Face::GraphQl => {
                let body = json!({ "errors": [{ "message": sentence, "extensions": { "code": "RUNPOD" } }] });
                (status, Json(body)).into_response()
            }
            Face::V2 => {
                let title = status.canonical_reason().unwrap_or("Error");
                let body = json!({ "title": title, "status": status.as_u16(), "detail": sentence });
                let mut response = (status, Json(body)).into_response();
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
                response
            }
            Face::V1 | Face::Admin | Face::Open => {
                (status, Json(json!({ "error": sentence, "status": status.as_u16() }))).into_response()
            }
        };
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    /// `status` and what the client may know of `error`; the log has the rest.
    pub(crate) fn refuse_error(self, status: StatusCode, error: &ServiceError) -> Response {
        if error.kind() == ErrorKind::Internal {
            tracing::error!(%error, "the control plane failed");
        }
        self.refuse(status, &error.public_message())
    }
}

pub(crate) async fn no_such_route(request: Request) -> Response {
    let path = request.uri().path();
    Face::of(path).refuse(StatusCode::NOT_FOUND, "no such route: /openapi.json lists the routes")
}

pub(crate) async fn no_such_method(request: Request) -> Response {
    let path = request.uri().path();
    Face::of(path).refuse(StatusCode::METHOD_NOT_ALLOWED, "this route does not support that method: see /openapi.json")
}

/// For a route that the emulated API has and this server does not serve.
pub(crate) async fn not_served(request: Request) -> Response {
    let path = request.uri().path();
    let sentence = "this server does not implement that part of the API: it emulates volumes and what uses them";
    Face::of(path).refuse(StatusCode::NOT_IMPLEMENTED, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_belong_to_faces() {
        for (path, face) in [
            ("/graphql", Face::GraphQl),
            ("/v1/pods", Face::V1),
            ("/v2", Face::V2),
            ("/v22", Face::Open),
            ("/cairn/v1/accounts", Face::Admin),
            ("/health", Face::Open),
        ] {
            assert_eq!(Face::of(path), face, "{path}");
        }
    }
}
