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

Podman finds the plug-in by a line in containers.conf: [engine.volume_plugins] cairn = \"/run/docker/plugins/cairn.sock\"
Options of a volume: size, inodes, chunk-size, data-center, profile, read-only, noatime, cache-size, server-timeout.
A volume that exists at the server is used as it is, and stays when the engine removes it.
Mounts are processes of their own: they go on while the plug-in is restarted. They take the variables and the
configuration of `cairn mount`.")]
pub(crate) struct DockerPlugin {
    /// Unix socket to listen on. Docker looks for plug-ins in /run/docker/plugins; the file's name is the plug-in's.
    #[arg(long, env = "CAIRN_PLUGIN_SOCKET", default_value = "/run/docker/plugins/cairn.sock", value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Folder for mounts and for what must survive a restart.
    #[arg(long, env = "CAIRN_PLUGIN_STATE", default_value = "/var/lib/cairn-plugin", value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// Size of a volume that is made without one.
    #[arg(long, env = "CAIRN_DEFAULT_SIZE", default_value = "100GiB", value_name = "SIZE")]
    pub(crate) default_size: Size,
    #[command(flatten)]
    pub(crate) connection: Connection,
}
