//! A real server in this process, mounts of its volume, and a stand-in for the kernel in front of each mount.

pub(crate) mod gate;
pub(crate) mod kernel;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{ConnectOptions, ServerAddress, SessionOptions, Volume, VolumeOptions};
use cairn_runtime::MemoryBudget;
use cairn_server::{NewVolume, Server, ServerConfig};
use cairn_wire::handshake::ClientInfo;

use self::gate::Gate;
use self::kernel::Kernel;

pub(crate) const VOLUME: &str = "tests";
/// Nothing in these tests takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) server: Option<Server>,
    config: ServerConfig,
    directory: tempfile::TempDir,
}

impl World {
    /// A server with one volume of `bytes` and chunks of `chunk_size`.
    pub(crate) async fn new(bytes: u64, chunk_size: u32) -> World {
        World::with_nodes(bytes, chunk_size, None).await
    }

    /// As [`World::new`], for at most so many nodes.
    pub(crate) async fn with_nodes(bytes: u64, chunk_size: u32, inodes_limit: Option<u64>) -> World {
        let directory = tempfile::tempdir().expect("directory");
        let config = ServerConfig::new(directory.path().join("data"));
        let server = Server::start(config.clone()).await.expect("server");
        let wanted = NewVolume {
            name: VOLUME.into(),
            bytes_limit: bytes,
            inodes_limit,
            data_center: String::new(),
            chunk_size,
            profile: cairn_types::Profile::default(),
        };
        server.state().catalogue().create(wanted).await.expect("volume");
        World { server: Some(server), config, directory }
    }

    fn socket(&self) -> PathBuf {
        self.config.unix_socket.clone().expect("socket")
    }

    pub(crate) fn recovery(&self) -> PathBuf {
        self.directory.path().join("recovery")
    }

    pub(crate) fn options(&self) -> VolumeOptions {
        VolumeOptions { recovery_dir: self.recovery(), ..VolumeOptions::new(MemoryBudget::of_process()) }
    }

    /// A mount with a kernel in front of it.
    pub(crate) async fn mount_with(&self, options: VolumeOptions) -> Kernel {
        mount_at(self.socket(), options).await
    }

    /// The same through a gate.
    pub(crate) async fn mount_through_gate(&self, options: VolumeOptions) -> (Kernel, Gate) {
        let gate = Gate::new(self.directory.path(), self.socket());
        (mount_at(gate.socket.clone(), options).await, gate)
    }

    pub(crate) async fn mount(&self) -> Kernel {
        self.mount_with(self.options()).await
    }

    pub(crate) async fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown().await.expect("stopped");
        }
        self.server = Some(Server::start(self.config.clone()).await.expect("server"));
    }
}

async fn mount_at(socket: PathBuf, options: VolumeOptions) -> Kernel {
    let session = SessionOptions::new(ConnectOptions::new(ServerAddress::Unix(socket)), VOLUME, ClientInfo::default());
    let volume = Volume::open(session, options, tokio::runtime::Handle::current()).await.expect("mounted");
    let kernel = Kernel::new(volume.clone());
    volume.attach_kernel(Arc::new(kernel.cache()));
    kernel
}

/// Runs a test on a runtime of its own, within the time limit.
pub(crate) fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async { tokio::time::timeout(LIMIT, test).await.expect("in time") });
    runtime.shutdown_timeout(Duration::from_secs(1));
}
