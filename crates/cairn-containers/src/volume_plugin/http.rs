//! The plug-in's socket: one POST for each thing that an engine wants.
//!
//! Bounded: 64 connections, 64 KiB a request, 10 s to send it. An engine that hangs up does not stop what it
//! asked for half way.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::driver::Driver;
use super::messages::{Call, MEDIA_TYPE};

const CONNECTIONS: usize = 64;
const BODY_MAX: usize = 64 * 1024;
const SENDING_LIMIT: Duration = Duration::from_secs(10);
/// How long the plug-in's end waits for what is being done.
const ENDING_LIMIT: Duration = Duration::from_secs(30);

/// Answers until `end` is over, then finishes what is being done.
pub(super) async fn serve(listener: UnixListener, driver: Arc<Driver>, end: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (ending, ended) = tokio::sync::watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(end);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = &mut end => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let (driver, ended) = (Arc::clone(&driver), ended.clone());
        connections.spawn(async move {
            answer_connection(stream, driver, ended).await;
            drop(place);
        });
    }
    // Nobody is left to be told only if every connection has ended.
    let _ = ending.send(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(ENDING_LIMIT, all).await.is_err() {
        tracing::warn!("shutting down while a request is still being answered");
    }
}

async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> Option<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn answer_connection(stream: UnixStream, driver: Arc<Driver>, mut ended: tokio::sync::watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        let driver = Arc::clone(&driver);
        async move { Ok::<_, Infallible>(answer(request, driver).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SENDING_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        _ = ended.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn answer(request: Request<Incoming>, driver: Arc<Driver>) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "this protocol uses POST requests only");
    }
    let path = request.uri().path().to_owned();
    let body = Limited::new(request.into_body(), BODY_MAX).collect();
    let body = match tokio::time::timeout(SENDING_LIMIT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the request is larger than 64 KiB");
        }
        Ok(Err(_)) => return refuse(StatusCode::BAD_REQUEST, "the request is incomplete"),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the request did not arrive within 10 s"),
    };
    let call: Call = if body.iter().all(u8::is_ascii_whitespace) {
        Call::default()
    } else {
        match serde_json::from_slice(&body) {
            Ok(call) => call,
            Err(error) => {
                return refuse(StatusCode::BAD_REQUEST, &format!("the request is not valid: {error}"));
            }
        }
    };
    let name = call.name.clone();
    // A task of its own: it goes on if the engine hangs up.
    let work = tokio::spawn({
        let path = path.clone();
        async move { driver.answer(&path, call).await }
    });
    match work.await {
        Ok(Ok(Some(answer))) => {
            tracing::info!(path, volume = name, "done");
            respond(StatusCode::OK, &answer)
        }
        Ok(Ok(None)) => {
            refuse(StatusCode::NOT_FOUND, &format!("this plug-in does not implement {path}: it is a VolumeDriver"))
        }
        Ok(Err(error)) => {
            tracing::info!(path, volume = name, "refused: {error}");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
        }
        Err(error) => {
            tracing::error!(path, volume = name, %error, "a request failed");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "the plug-in failed; its log says more")
        }
    }
}

#[derive(Serialize)]
struct Refusal<'a> {
    #[serde(rename = "Err")]
    err: &'a str,
}

fn refuse(status: StatusCode, sentence: &str) -> Response<Full<Bytes>> {
    respond(status, &Refusal { err: sentence })
}

fn respond(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let (status, body) = match serde_json::to_vec(body) {
        Ok(body) => (status, body),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!(r#"{{"Err":"{error}"}}"#).into_bytes()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(MEDIA_TYPE));
    response
}
