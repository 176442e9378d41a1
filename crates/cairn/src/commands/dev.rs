//! `cairn dev`: server, volume and mount in one process.

use std::process::ExitCode;

use anyhow::{Context, Result};
use cairn_client::{AdminClient, ConnectOptions, ServerAddress};
use cairn_runtime::MemoryBudget;
use cairn_server::{Server, ServerConfig};
use cairn_types::Profile;
use cairn_wire::admin::{AdminReply, AdminRequest};

use crate::cli::Dev;
use crate::commands::control::Control;
use crate::commands::mounted::{self, Plan};
use crate::{connect, paths, runtime};

pub(crate) fn run(options: &Dev) -> Result<ExitCode> {
    runtime::new()?.block_on(serve_and_mount(options))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve_and_mount(options: &Dev) -> Result<()> {
    let data = options.data.clone().unwrap_or_else(paths::data_directory);
    let socket = paths::socket_in(&data);
    let mut config = ServerConfig::new(data.clone());
    config.unix_socket = Some(socket.clone());
    let server = Server::start(config).await?;
    let outcome = mount_on(options, &server, ConnectOptions::new(ServerAddress::Unix(socket)), &data).await;
    let stopped = server.shutdown().await.context("the server could not be shut down cleanly");
    outcome.and(stopped)
}

async fn mount_on(options: &Dev, server: &Server, connect: ConnectOptions, data: &std::path::Path) -> Result<()> {
    ensure_volume(options, &connect).await?;
    let plan = Plan {
        memory: MemoryBudget::of_process(),
        connect,
        volume: options.volume.clone(),
        directory: options.directory.clone(),
        tuning: options.tuning.clone(),
        kernel_options: Vec::new(),
        foreground: true,
    };
    let control = Control::start(server, paths::socket_in(data), &options.http).await?;
    let outcome = mount_until_the_end(plan, data).await;
    control.shutdown().await;
    outcome
}

async fn mount_until_the_end(plan: Plan, data: &std::path::Path) -> Result<()> {
    let live = mounted::start(plan).await?;
    println!("mounted {} at {}", live.volume_name(), live.directory().display());
    println!("data in {}; Ctrl-C unmounts", data.display());
    live.run_to_end().await
}

/// Makes the volume on first use.
async fn ensure_volume(options: &Dev, connect: &ConnectOptions) -> Result<()> {
    let mut client = AdminClient::connect(connect).await.map_err(connect::admin_error)?;
    let reply = client.request(AdminRequest::VolumeList).await.map_err(connect::admin_error)?;
    let AdminReply::Volumes(volumes) = reply else { return connect::unexpected() };
    let found =
        volumes.iter().find(|volume| volume.info.name == options.volume || volume.info.id.as_str() == options.volume);
    let profile = options.tuning.profile.map(|profile| profile.to_string());
    if let Some(volume) = found {
        if let Some(profile) = profile.filter(|profile| *profile != volume.info.profile) {
            let request = AdminRequest::VolumeProfile { volume: options.volume.clone(), profile };
            client.request(request).await.map_err(connect::admin_error)?;
        }
        return Ok(());
    }
    let chunk_size = u32::try_from(options.chunk_size.0).context("the chunk size is too large: at most 64MiB")?;
    let request = AdminRequest::VolumeCreate {
        name: options.volume.clone(),
        bytes_limit: options.size.0,
        inodes_limit: None,
        data_center: "LOCAL".into(),
        chunk_size,
        profile: profile.unwrap_or_else(|| Profile::default().to_string()),
    };
    client.request(request).await.map_err(connect::admin_error)?;
    Ok(())
}
