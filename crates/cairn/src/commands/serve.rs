//! `cairn serve`: a server for volumes and mounts.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cairn_server::{Server, ServerConfig, TlsFiles};

use crate::cli::{ControlPlane, Serve};
use crate::commands::control::Control;
use crate::{paths, runtime};

pub(crate) fn run(options: &Serve) -> Result<ExitCode> {
    let data = options.data.clone().unwrap_or_else(paths::data_directory);
    let mut config = ServerConfig::new(data.clone());
    let socket = options.socket.clone().unwrap_or_else(|| paths::socket_in(&data));
    config.unix_socket = Some(socket.clone());
    for address in options.listen.iter().filter(|address| address.as_str() != "none") {
        let resolved = address
            .to_socket_addrs()
            .with_context(|| format!("{address:?} is not an address to listen on: write HOST:PORT"))?;
        config.listen.extend(resolved.take(1));
    }
    if let (Some(certificate), Some(key)) = (&options.tls_cert, &options.tls_key) {
        config.tls = Some(TlsFiles { certificates: certificate.clone(), private_key: key.clone() });
    }
    config.lease_ttl = options.lease_ttl;
    config.metrics = options.metrics;
    runtime::new()?.block_on(async {
        let server = Server::start(config).await?;
        for address in server.local_addrs() {
            println!("listening on {address}");
        }
        println!("listening on unix:{}", socket.display());
        if let Some(address) = server.metrics_address() {
            println!("metrics on http://{address}/metrics");
        }
        let outcome = serve_apis(&server, socket, &options.http).await;
        let stopped = server.shutdown().await.context("the server could not be shut down cleanly");
        outcome.and(stopped)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// With the control plane, if it is asked for, until the process shall end.
async fn serve_apis(server: &Server, socket: PathBuf, options: &ControlPlane) -> Result<()> {
    let control = Control::start(server, socket, options).await?;
    let reason = runtime::asked_to_stop(true).await?;
    tracing::info!("{reason}: shutting down");
    control.shutdown().await;
    Ok(())
}
