//! `cairn plugin`: what gives volumes to containers.

use std::process::ExitCode;

use anyhow::{Context, Result};
use cairn_containers::volume_plugin::{PluginOptions, VolumePlugin};

use crate::cli::{DockerPlugin, Plugin};
use crate::{connect, output, runtime};

pub(crate) fn run(command: &Plugin) -> Result<ExitCode> {
    match command {
        Plugin::Docker(options) => serve_docker(options),
    }
}

fn serve_docker(options: &DockerPlugin) -> Result<ExitCode> {
    let plugin = PluginOptions {
        socket: options.socket.clone(),
        state: options.state.clone(),
        connect: connect::options(&options.connection)?,
        program: std::env::current_exe().context("cannot find this program")?,
        default_size: options.default_size.0,
    };
    runtime::new()?.block_on(async {
        let plugin = VolumePlugin::start(plugin).await?;
        println!("listening on unix:{}", options.socket.display());
        let end = async {
            match runtime::asked_to_stop(true).await {
                Ok(reason) => tracing::info!("{reason}: shutting down; mounts stay"),
                Err(error) => tracing::error!("{}", output::sentence(&error)),
            }
        };
        plugin.serve(end).await;
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(ExitCode::SUCCESS)
}
