//! What every request passes: an id for the logs, the key, the body within its bounds, a limit of time, one line in the log.
//!
//! The key is looked at before anything of the body is taken in. Handlers find a [`Principal`] among the request's extensions
//! and the whole body in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::HttpLimits;
use super::refusal::Face;
use crate::service::{Principal, Service};

/// How long a request waits when as many as allowed are being worked on.
const TURN_PATIENCE: Duration = Duration::from_secs(10);
const REQUEST_ID: &str = "x-request-id";
/// What an account should know is sent along with every answer.
const WARNING: &str = "x-cairn-warning";

pub(super) struct Guard {
    service: Arc<Service>,
    limits: HttpLimits,
    turns: Semaphore,
}

impl Guard {
    pub(super) fn new(service: Arc<Service>, limits: HttpLimits) -> Self {
        let turns = Semaphore::new(limits.requests);
        Guard { service, limits, turns }
    }
}

pub(super) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let face = Face::of(&path);
    let principal = key_of(request.headers(), request.uri(), face).and_then(|key| guard.service.authenticate(&key));
    let mut response = if principal.is_none() && face != Face::Open {
        let sentence = "the API key is missing, malformed, revoked or wrong: send it as `Authorization: Bearer KEY`";
        face.refuse(StatusCode::UNAUTHORIZED, sentence)
    } else {
        answer(&guard, face, principal.clone(), request, next).await
    };
    let account = principal.as_ref().map_or("-", |principal| principal.account.as_str());
    let key = principal.as_ref().map_or("-", |principal| principal.key_id.as_str());
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let status = response.status().as_u16();
    // The query is left out: it may hold a key.
    if status >= 500 && status != 501 {
        tracing::warn!(request_id = id, %method, path, status, milliseconds, account, key, "request failed");
    } else {
        tracing::info!(request_id = id, %method, path, status, milliseconds, account, key, "request");
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    if let Some(principal) = &principal {
        for warning in guard.service.warnings(principal) {
            if let Ok(value) = HeaderValue::from_str(&warning) {
                headers.append(WARNING, value);
            }
        }
    }
    response
}

async fn answer(guard: &Guard, face: Face, principal: Option<Principal>, request: Request, next: Next) -> Response {
    let Ok(Ok(_turn)) = timeout(TURN_PATIENCE, guard.turns.acquire()).await else {
        return face.refuse(StatusCode::SERVICE_UNAVAILABLE, "too many requests in progress: try again later");
    };
    let most = if face == Face::GraphQl { guard.limits.graphql_bytes } else { guard.limits.body_bytes };
    let (mut parts, body) = request.into_parts();
    let body = match timeout(guard.limits.body, take_in(body, most)).await {
        Ok(Ok(body)) => body,
        Ok(Err(true)) => {
            let sentence = format!("the request's body is too large: the limit is {most} bytes");
            return closing(face.refuse(StatusCode::PAYLOAD_TOO_LARGE, &sentence));
        }
        Ok(Err(false)) => return closing(face.refuse(StatusCode::BAD_REQUEST, "the request's body is incomplete")),
        Err(_) => {
            let sentence = format!("the request's body took longer than {} s", guard.limits.body.as_secs());
            return closing(face.refuse(StatusCode::REQUEST_TIMEOUT, &sentence));
        }
    };
    if let Some(principal) = principal {
        parts.extensions.insert(principal);
    }
    let request = Request::from_parts(parts, Body::from(body));
    match timeout(guard.limits.request, next.run(request)).await {
        Ok(response) => response,
        Err(_) => face.refuse(
            StatusCode::GATEWAY_TIMEOUT,
            "this takes longer than the time limit of a request and continues in the background: check again later",
        ),
    }
}

/// The whole body; the error says whether it is too large.
async fn take_in(body: Body, most: usize) -> Result<Bytes, bool> {
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(error.is::<LengthLimitError>()),
    }
}

/// What is left of a body that was not taken in must not be read as the next request.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The key that a request shows. In the address only where clients put it there.
fn key_of(headers: &HeaderMap, uri: &Uri, face: Face) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| key.trim().to_owned());
    }
    if face != Face::GraphQl {
        return None;
    }
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("api_key=")).map(str::to_owned)
}

/// The client's own, if it can stand in a log, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|text| {
        (1..=64).contains(&text.len())
            && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter))
    });
    given.map_or_else(|| format!("{:016x}", rand::random::<u64>()), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_where_clients_put_them() {
        let mut headers = HeaderMap::new();
        let uri: Uri = "/graphql?x=1&api_key=cak_a_b".parse().expect("address");
        assert_eq!(key_of(&headers, &uri, Face::GraphQl).as_deref(), Some("cak_a_b"));
        assert_eq!(key_of(&headers, &uri, Face::V1), None);
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer cak_c_d"));
        assert_eq!(key_of(&headers, &uri, Face::V2).as_deref(), Some("cak_c_d"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic cak_c_d"));
        assert_eq!(key_of(&headers, &uri, Face::GraphQl), None);
    }

    #[test]
    fn odd_request_ids_are_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("abc-1"));
        assert_eq!(request_id(&headers), "abc-1");
        headers.insert(REQUEST_ID, HeaderValue::from_static("a b\"c"));
        assert_ne!(request_id(&headers), "a b\"c");
    }
}
