//! HTTP: from a socket to a face's handler, and the bounds that keep a client from harming others.
//!
//! ```text
//! listen (connections, slow senders) ─► guard (request id, key, body, time, log) ─► a face's router
//! ```
//!
//! Nothing here knows an API. What goes wrong before a face has its turn is told in that face's own form.

mod guard;
mod listen;
mod openapi;
pub(crate) mod refusal;
pub(crate) mod routes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::service::Service;
use crate::{admin, runpod};

/// How much a client may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Most connections at once. When there are more, the one that has been idle longest is closed.
    pub connections: usize,
    /// Time for the head of a request, and for the next one on a connection.
    pub head: Duration,
    /// Time for a request's body.
    pub body: Duration,
    /// Largest body, in bytes.
    pub body_bytes: usize,
    /// Largest body of a GraphQL request, in bytes.
    pub graphql_bytes: usize,
    /// Requests that are worked on at once.
    pub requests: usize,
    /// Time for a request in all.
    pub request: Duration,
    /// Longest life of a connection, so that nobody keeps one by taking answers slowly.
    pub connection: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        HttpLimits {
            connections: 256,
            head: Duration::from_secs(10),
            body: Duration::from_secs(20),
            body_bytes: 1024 * 1024,
            graphql_bytes: 256 * 1024,
            requests: 64,
            request: Duration::from_secs(120),
            connection: Duration::from_secs(300),
        }
    }
}

/// The running HTTP side. Ends with [`HttpServer::shutdown`].
pub struct HttpServer {
    address: SocketAddr,
    service: Arc<Service>,
    stopping: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    upkeep: JoinHandle<()>,
}

impl HttpServer {
    /// Listens and serves every face of `service`.
    pub async fn start(service: Arc<Service>, address: SocketAddr, limits: HttpLimits) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "API keys cross the network unencrypted: put a TLS proxy in front");
        }
        let (stopping, stopped) = watch::channel(false);
        let router = router(Arc::clone(&service), limits.clone());
        let accepting = tokio::spawn(listen::accept(listener, router, limits, stopped));
        let upkeep = tokio::spawn(Arc::clone(&service).upkeep());
        tracing::info!(%address, engine = service.engine_name(), "control plane started");
        Ok(HttpServer { address, service, stopping, accepting, upkeep })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets requests finish for a moment and lets go of the server.
    pub async fn shutdown(self) {
        self.stopping.send_replace(true);
        self.upkeep.abort();
        let _ = self.upkeep.await;
        // Accepting ends when its connections have, or after its own limit.
        let _ = self.accepting.await;
        self.service.close();
    }
}

fn router(service: Arc<Service>, limits: HttpLimits) -> Router {
    let guard = Arc::new(guard::Guard::new(Arc::clone(&service), limits));
    let (faces, routes) = runpod::routes(&service).merge(admin::routes()).into_parts();
    let document = axum::Json(openapi::document(&routes));
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/openapi.json", get(async move || document.clone()))
        .merge(faces)
        .fallback(refusal::no_such_route)
        .method_not_allowed_fallback(refusal::no_such_method)
        .layer(axum::middleware::from_fn_with_state(guard, guard::guard))
        .with_state(service)
}

/// The process answers.
async fn health() -> Response {
    axum::Json(json!({ "status": "ok" })).into_response()
}

/// Everything that requests need is there.
async fn ready(State(service): State<Arc<Service>>) -> Response {
    if service.ready() {
        axum::Json(json!({ "status": "ready", "containers": service.engine_name() })).into_response()
    } else {
        let body = json!({ "status": "starting", "detail": "volumes and containers are being checked" });
        (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
    }
}
