//! The control plane beside a server, if it is asked for.

use std::net::ToSocketAddrs;
use std::sync::Arc;

use anyhow::{Context, Result};
use cairn_control::engine::ContainerEngine;
use cairn_control::http::{HttpLimits, HttpServer};
use cairn_control::service::{Service, ServiceOptions};
use cairn_server::Server;

use crate::cli::Http;

/// The running control plane, or none.
pub(crate) struct Control(Option<HttpServer>);

impl Control {
    pub(crate) async fn start(server: &Server, options: &Http) -> Result<Self> {
        let Some(address) = &options.http else { return Ok(Control(None)) };
        let resolved = address
            .to_socket_addrs()
            .with_context(|| format!("{address:?} is not an address to listen on: write HOST:PORT, such as 127.0.0.1:7430"))?
            .next()
            .with_context(|| format!("{address:?} has no address"))?;
        let service_options =
            ServiceOptions { grace: options.grace, v1_shrink: options.v1_shrink, ..ServiceOptions::default() };
        let service = Service::open(Arc::clone(server.shared()), service_options, container_engine())
            .await
            .context("the control plane cannot be started")?;
        let key_file = service.key_file();
        let http = HttpServer::start(service, resolved, HttpLimits::default())
            .await
            .with_context(|| format!("cannot listen on {resolved}: choose another address for --http"))?;
        println!("control plane on http://{}", http.address());
        println!("its operator's key is in {}", key_file.display());
        Ok(Control(Some(http)))
    }

    /// Must come before the server's own end: it uses the server.
    pub(crate) async fn shutdown(self) {
        if let Some(http) = self.0 {
            http.shutdown().await;
        }
    }
}

/// What runs containers for pods; without it, pods are records.
fn container_engine() -> Option<Arc<dyn ContainerEngine>> {
    None
}
