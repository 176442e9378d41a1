//! The volume plug-in of Docker and Podman: `docker run -v models:/workspace` with a volume of Cairn.
//!
//! `http` takes the engine's requests from a Unix socket (bounded in size, number and time), `messages` says how they
//! look, `driver` does what they ask: volumes are made and deleted at the server, mounts are counted by
//! [`crate::HostMounts`]. `registry` remembers which volumes the engine knows, and which of them the plug-in made: only those
//! are deleted when the engine removes them.
//!
//! ```text
//! STATE/lock           one plug-in at a time
//! STATE/volumes.json   names, as the engine knows them
//! STATE/mounts.json, STATE/live/, STATE/logs/    see crate::mounts
//! ```

mod driver;
mod http;
mod messages;
mod options;
mod registry;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_client::ConnectOptions;
use tokio::net::UnixListener;

use crate::durable::{self, DurableError};
use crate::mounts::{CairnProgram, HostMounts};
use driver::Driver;

/// Where the plug-in listens and what it works with.
#[derive(Debug)]
pub struct PluginOptions {
    /// Unix socket, which the engine knows or finds.
    pub socket: PathBuf,
    /// Folder for what must survive a restart.
    pub state: PathBuf,
    /// The server that has the volumes.
    pub connect: ConnectOptions,
    /// The `cairn` program, which mounts.
    pub program: PathBuf,
    /// Bytes of a volume that is made without a size.
    pub default_size: u64,
}

/// Why the plug-in does not start.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error(transparent)]
    State(#[from] DurableError),
    #[error("cannot listen on {socket}: {source}", socket = .socket.display())]
    Listen { socket: PathBuf, source: io::Error },
}

/// A plug-in that listens; [`VolumePlugin::serve`] answers.
pub struct VolumePlugin {
    listener: UnixListener,
    socket: PathBuf,
    driver: Arc<Driver>,
    _lock: std::fs::File,
}

impl VolumePlugin {
    /// Takes over the state, and mounts that are live, and begins to listen.
    pub async fn start(options: PluginOptions) -> Result<Self, PluginError> {
        durable::private_folder(&options.state)?;
        // Mounts are made by other processes, which may work elsewhere.
        let state =
            options.state.canonicalize().map_err(|source| DurableError::Io { path: options.state.clone(), source })?;
        let lock = durable::lock(&state.join("lock"))?;
        let mounts = HostMounts::open(state.clone(), CairnProgram::new(options.program, &options.connect)).await?;
        let driver = Driver::new(&state, options.connect, options.default_size, mounts)?;
        let listener =
            listen(&options.socket).map_err(|source| PluginError::Listen { socket: options.socket.clone(), source })?;
        Ok(VolumePlugin { listener, socket: options.socket, driver: Arc::new(driver), _lock: lock })
    }

    /// Answers until `end` is over. What is being done then is finished; mounts stay.
    pub async fn serve(self, end: impl Future<Output = ()>) {
        http::serve(self.listener, self.driver, end).await;
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::warn!("cannot remove {}: {error}", self.socket.display());
        }
    }
}

/// Listens for root alone. A socket that an earlier run left there is replaced; the lock says that nobody uses it.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process is already listening there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
