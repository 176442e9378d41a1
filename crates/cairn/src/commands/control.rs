//! The control plane beside a server, if it is asked for.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use cairn_client::{ConnectOptions, ServerAddress};
use cairn_control::engine::{self, ContainerEngine, EngineOptions};
use cairn_control::http::{HttpLimits, HttpServer};
use cairn_control::service::{Service, ServiceOptions};
use cairn_server::Server;

use crate::cli::ControlPlane;

/// The running control plane, or none.
pub(crate) struct Control(Option<HttpServer>);

impl Control {
    pub(crate) async fn start(server: &Server, socket: PathBuf, options: &ControlPlane) -> Result<Self> {
        let Some(address) = &options.http else { return Ok(Control(None)) };
        let resolved = address
            .to_socket_addrs()
            .with_context(|| {
                format!("{address:?} is not an address to listen on: write HOST:PORT, such as 127.0.0.1:7430")
            })?
            .next()
            .with_context(|| format!("{address:?} has no address"))?;
        let service_options =
            ServiceOptions { grace: options.grace, v1_shrink: options.v1_shrink, ..ServiceOptions::default() };
        let engine = container_engine(server, socket, options).await?;
        let service = Service::open(Arc::clone(server.state()), service_options, engine)
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
async fn container_engine(
    server: &Server,
    socket: PathBuf,
    options: &ControlPlane,
) -> Result<Option<Arc<dyn ContainerEngine>>> {
    let engine = EngineOptions {
        choice: options.engine.into(),
        engine_arguments: options.engine_arguments.clone(),
        pod_arguments: options.pod_arguments.clone(),
        state: server.state().data_path().join("containers"),
        connect: ConnectOptions::new(ServerAddress::Unix(socket)),
        program: std::env::current_exe().context("cannot find this program's own executable")?,
    };
    engine::choose(engine).await.context("cannot determine the state of the container engine")
}
