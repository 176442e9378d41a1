//! `plugin`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Connection;
use crate::size::Size;

#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    /// Serve the volume plug-in that Docker and Podman ask for volumes.
    Docker(DockerPlugin),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn plugin docker
  docker volume create -d cairn -o size=50GiB models
  docker run -v models:/workspace IMAGE

Podman needs a line in containers.conf to find the plug-in: [engine.volume_plugins] cairn = \"/run/docker/plugins/cairn.sock\"
Options of a volume: size, inodes, chunk-size, data-center, profile, read-only, noatime, cache-size, server-timeout.
A volume that already exists on the server is used as it is, and is kept when the engine removes it.
Mounts are separate processes: they keep running while the plug-in is restarted. They use the environment variables and
the configuration of `cairn mount`.")]
pub(crate) struct DockerPlugin {
    /// Unix socket to listen on. Docker looks for plug-ins in /run/docker/plugins; the file's name is the plug-in's.
    #[arg(long, env = "CAIRN_PLUGIN_SOCKET", default_value = "/run/docker/plugins/cairn.sock", value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Folder for mounts and for state that must survive a restart.
    #[arg(long, env = "CAIRN_PLUGIN_STATE", default_value = "/var/lib/cairn-plugin", value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// Size of a volume that is created without one.
    #[arg(long, env = "CAIRN_DEFAULT_SIZE", default_value = "100GiB", value_name = "SIZE")]
    pub(crate) default_size: Size,
    #[command(flatten)]
    pub(crate) connection: Connection,
}
