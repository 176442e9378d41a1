//! Servers: `serve`, `dev`, `status`, the control plane beside them, and their keys.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{MountTuning, Output, parse_duration};
use crate::size::Size;

/// The control plane; shared by `serve` and `dev`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ControlPlane {
    /// Address of the control plane's HTTP API (Runpod GraphQL, REST v1 and v2), such as 127.0.0.1:7430. Default: no control plane.
    #[arg(long, env = "CAIRN_HTTP", value_name = "ADDRESS")]
    pub(crate) http: Option<String>,
    /// Grace period: how long after a prepaid account's balance is used up its volumes are deleted.
    #[arg(long, env = "CAIRN_GRACE", default_value = "7d", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) grace: Duration,
    /// Let REST v1 shrink volumes, as the emulated cloud has been observed to do; never below the space in use.
    #[arg(long, env = "CAIRN_V1_SHRINK")]
    pub(crate) v1_shrink: bool,
    /// Container engine that runs pods.
    #[arg(long, env = "CAIRN_ENGINE", value_enum, default_value_t, value_name = "ENGINE")]
    pub(crate) engine: Engine,
    /// Argument for every call of the engine, before its subcommand, such as --engine-arg=--runtime=runc (repeatable).
    #[arg(
        long = "engine-arg",
        env = "CAIRN_ENGINE_ARGS",
        value_name = "ARGUMENT",
        value_delimiter = ' ',
        allow_hyphen_values = true
    )]
    pub(crate) engine_arguments: Vec<String>,
    /// Argument for every pod's container, such as --pod-arg=--network=none (repeatable).
    #[arg(
        long = "pod-arg",
        env = "CAIRN_POD_ARGS",
        value_name = "ARGUMENT",
        value_delimiter = ' ',
        allow_hyphen_values = true
    )]
    pub(crate) pod_arguments: Vec<String>,
}

/// See [`cairn_control::engine::EngineChoice`].
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Engine {
    /// Podman if it works, otherwise Docker; if neither works, pods are only recorded, not run.
    #[default]
    Auto,
    Podman,
    Docker,
    /// Pods are only recorded, not run.
    None,
}

impl From<Engine> for cairn_control::engine::EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => cairn_control::engine::EngineChoice::Auto,
            Engine::Podman => cairn_control::engine::EngineChoice::Podman,
            Engine::Docker => cairn_control::engine::EngineChoice::Docker,
            Engine::None => cairn_control::engine::EngineChoice::None,
        }
    }
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn dev                                  mounted at /workspace, data in ~/.local/share/cairn (root: /var/lib/cairn)
  cairn dev /runpod-volume --size 200GiB --profile runpod-standard
  cairn dev ./work --data ./work.data
  cairn dev --http 127.0.0.1:7430            also serve Runpod's APIs; the key is in DATA/control-key

Ctrl-C flushes everything, unmounts and exits. The same command mounts the volume again.")]
pub(crate) struct Dev {
    /// Where to mount.
    #[arg(default_value = "/workspace", env = "CAIRN_DIRECTORY")]
    pub(crate) directory: PathBuf,
    /// Data directory.
    #[arg(long, env = "CAIRN_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Size of the volume when it is first created.
    #[arg(long, env = "CAIRN_SIZE", default_value = "100GiB", value_name = "SIZE")]
    pub(crate) size: Size,
    /// Chunk size of the volume when it is first created: a power of two from 64KiB to 64MiB.
    #[arg(long, env = "CAIRN_CHUNK_SIZE", default_value = "4MiB", value_name = "SIZE")]
    pub(crate) chunk_size: Size,
    /// Volume to mount; created if it does not exist.
    #[arg(long, env = "CAIRN_VOLUME", default_value = "default", value_name = "NAME")]
    pub(crate) volume: String,
    #[command(flatten)]
    pub(crate) http: ControlPlane,
    #[command(flatten)]
    pub(crate) tuning: MountTuning,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn serve                                          Unix socket and 127.0.0.1:7420
  cairn serve --data /srv/cairn --listen 0.0.0.0:7420 --tls-cert cert.pem --tls-key key.pem
  cairn serve --http 127.0.0.1:7430                    also serve the clouds' APIs; the operator's key is in DATA/control-key
  cairn key create --label laptop                      a key for TCP clients")]
pub(crate) struct Serve {
    /// Data directory.
    #[arg(long, env = "CAIRN_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// TCP addresses to listen on, comma-separated; `none` for the Unix socket alone.
    #[arg(long, env = "CAIRN_LISTEN", value_delimiter = ',', default_value = "127.0.0.1:7420", value_name = "ADDRESS")]
    pub(crate) listen: Vec<String>,
    /// Unix socket. Default: cairn.sock in the data directory.
    #[arg(long, env = "CAIRN_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Certificate chain (PEM); enables TLS on the TCP addresses.
    #[arg(long, env = "CAIRN_TLS_CERT", requires = "tls_key", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate.
    #[arg(long, env = "CAIRN_TLS_KEY", requires = "tls_cert", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// How long a lease lasts without contact: a mount that is silent for longer loses its leases when another one needs them.
    #[arg(long, env = "CAIRN_LEASE_TTL", default_value = "15s", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) lease_ttl: Duration,
    /// Address for Prometheus metrics.
    #[arg(long, env = "CAIRN_METRICS", value_name = "ADDRESS")]
    pub(crate) metrics: Option<std::net::SocketAddr>,
    #[command(flatten)]
    pub(crate) http: ControlPlane,
}

#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Create a key and print it; it cannot be shown again.
    #[command(after_help = "\
Examples:
  cairn key create --label ci --volume models
  cairn key create --label operator --admin")]
    Create {
        /// A note on what the key is for.
        #[arg(long, env = "CAIRN_KEY_LABEL", default_value = "")]
        label: String,
        /// Volume that the key gives access to (repeatable).
        #[arg(long, env = "CAIRN_KEY_VOLUMES", value_delimiter = ',', value_name = "VOLUME")]
        volume: Vec<String>,
        /// Give access to every volume and to administration.
        #[arg(long, env = "CAIRN_KEY_ADMIN", conflicts_with = "volume")]
        admin: bool,
        #[command(flatten)]
        output: Output,
    },
    /// List the keys, without their secrets.
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Revoke a key and close the connections that use it.
    Revoke {
        /// Id, as `cairn key list` shows it.
        id: String,
        #[command(flatten)]
        output: Output,
    },
}
