//! The running server: puts its parts together, starts listening, and stops in an orderly way.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_engine::VolumeOptions;
use cairn_locks::Mutex;
use cairn_types::VolumeId;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::memory_bytes;
use crate::catalogue::{Catalogue, CatalogueError};
use crate::checks::Checks;
use crate::config::ServerConfig;
use crate::connections::Connections;
use crate::data_directory::{DataDirectory, sync_directory};
use crate::error::ServerError;
use crate::keys::{KeyError, Keys};
use crate::listen::{self, Listener};
use crate::lock_order;
use crate::metrics::{Counters, Gauges, VolumeGauges, prometheus_text};
use crate::metrics_page;
use crate::store::Store;
use crate::tls;

/// Says why a volume must not be deleted, if it must not.
pub type DeletionGuard = Arc<dyn Fn(&VolumeId) -> Option<String> + Send + Sync>;

/// What every connection and every face of the server works with.
pub struct ServerState {
    pub(crate) config: ServerConfig,
    data: DataDirectory,
    pub(crate) boot_id: u64,
    pub(crate) started: Instant,
    pub(crate) catalogue: Catalogue,
    pub(crate) keys: Arc<Keys>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) checks: Arc<Checks>,
    pub(crate) counters: Counters,
    listening: Mutex<Vec<String>, lock_order::Listening>,
    deletion_guard: Mutex<Option<DeletionGuard>, lock_order::DeletionGuard>,
    /// Becomes true when nothing of this server may go on any more.
    halt: watch::Sender<bool>,
}

impl ServerState {
    /// The volumes.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The keys. Revoke one by [`ServerState::revoke_key`], so that its connections end, too.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Checks of volumes.
    pub fn checks(&self) -> &Arc<Checks> {
        &self.checks
    }

    /// Takes a key out of use and ends its connections. Waits for the disk.
    pub fn revoke_key(&self, id: &str) -> Result<(), KeyError> {
        let outcome = self.keys.revoke(id);
        // Also when the disk failed: in memory, the key is out of use already.
        let cut = self.connections.cut_key(id);
        if outcome.is_ok() {
            tracing::info!(key = id, connections = cut, "key revoked");
        }
        outcome
    }

    /// Lets whoever sits on the server keep volumes from being deleted by others. `None` ends it.
    pub fn guard_deletions(&self, guard: Option<DeletionGuard>) {
        *self.deletion_guard.lock() = guard;
    }

    /// Where the server's data are; other parts of the program may keep files of their own there.
    pub fn data_path(&self) -> &Path {
        self.data.path()
    }

    /// Deletes a volume, unless it is mounted, being checked or guarded.
    pub async fn delete_volume(&self, id: &VolumeId) -> Result<(), CatalogueError> {
        let guard = self.deletion_guard.lock().clone();
        if let Some(reason) = guard.and_then(|guard| guard(id)) {
            return Err(CatalogueError::Kept { volume: id.clone(), reason });
        }
        self.delete_unguarded_volume(id).await
    }

    /// The same for the guard itself, which has made up its mind.
    pub async fn delete_unguarded_volume(&self, id: &VolumeId) -> Result<(), CatalogueError> {
        if self.checks.running(id).is_some() {
            return Err(CatalogueError::Busy(id.clone()));
        }
        self.catalogue.delete(id).await
    }

    /// The metrics as Prometheus reads them.
    pub async fn metrics_text(&self) -> String {
        let mut volumes = Vec::new();
        for volume in self.catalogue.open_volumes() {
            let id = volume.info().id;
            // It may have been deleted this instant.
            if let Ok(status) = self.catalogue.show(&id).await {
                volumes.push(VolumeGauges { status, sessions: volume.sessions().len(), counters: volume.counters() });
            }
        }
        let gauges = Gauges {
            uptime: self.started.elapsed(),
            memory_bytes: memory_bytes(),
            connections: self.connections.count(),
            volumes,
        };
        prometheus_text(&self.counters, &gauges)
    }

    /// Waits until the server has ended. Requests outlive their connections, but not their server.
    pub(crate) async fn halted(&self) {
        // The sender is in `self`.
        let _ = self.halt.subscribe().wait_for(|halt| *halt).await;
    }

    pub(crate) fn listening(&self) -> Vec<String> {
        self.listening.lock().clone()
    }

    /// The server's counters, and each volume's with its id as a label.
    pub(crate) fn all_counters(&self) -> Vec<(String, u64)> {
        let mut counters = self.counters.snapshot();
        for volume in self.catalogue.open_volumes() {
            let id = volume.info().id;
            let of_volume = volume.counters();
            counters.extend(
                of_volume
                    .into_iter()
                    .map(|(name, value)| (format!("cairn_engine_{name}_total{{volume=\"{id}\"}}"), value)),
            );
        }
        counters
    }
}

/// Time for the last tasks to let go of the server's parts, and how often to look.
const RELEASE: Duration = Duration::from_secs(2);
const RELEASE_LOOK: Duration = Duration::from_millis(2);

/// A server that listens. Dropping it without [`Server::shutdown`] ends it at once, as a crash would.
pub struct Server {
    shared: Arc<ServerState>,
    addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    stopping: watch::Sender<bool>,
    accepting: JoinSet<()>,
    /// What runs beside: the metrics page, the opening of volumes.
    background: JoinSet<()>,
}

impl Server {
    /// Takes the data directory, reads the catalogue and begins to listen. Volumes are opened in the background; a mount that
    /// comes before its volume is open waits for it.
    pub async fn start(config: ServerConfig) -> Result<Server, ServerError> {
        if config.listen.is_empty() && config.unix_socket.is_none() {
            return Err(ServerError::NothingToListenOn);
        }
        let data = DataDirectory::open(&config.data)?;
        let acceptor = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let store = Arc::new(Store::open(&data.database()).map_err(CatalogueError::from)?);
        sync_directory(data.path()).map_err(|source| CatalogueError::Io { path: data.path().to_path_buf(), source })?;
        let keys = Arc::new(Keys::open(Arc::clone(&store)).map_err(CatalogueError::from)?);
        let options = VolumeOptions { lease_ttl: config.lease_ttl, ..VolumeOptions::default() };
        let catalogue = Catalogue::open(store, data.volumes(), options).await?;

        let mut listeners = Vec::new();
        let (mut addresses, mut listening) = (Vec::new(), Vec::new());
        for address in &config.listen {
            let listener = listen::bind_tcp(*address).await?;
            let bound = listener.local_addr().map_err(|source| ServerError::Listen { address: *address, source })?;
            if acceptor.is_none() && !bound.ip().is_loopback() {
                tracing::warn!(address = %bound, "keys and data cross the network unencrypted: TLS is advised");
            }
            addresses.push(bound);
            listening.push(format!("{} {bound}", if acceptor.is_some() { "tls" } else { "tcp" }));
            listeners.push(Listener::Tcp(listener, acceptor.clone()));
        }
        if let Some(path) = &config.unix_socket {
            let (listener, file) = listen::bind_unix(path).await?;
            listening.push(format!("unix {}", path.display()));
            listeners.push(Listener::Unix { listener, _file: file });
        }
        let metrics = match config.metrics {
            Some(address) => Some(listen::bind_tcp(address).await?),
            None => None,
        };
        let metrics_address = metrics.as_ref().and_then(|listener| listener.local_addr().ok());

        let shared = Arc::new(ServerState {
            config,
            data,
            boot_id: rand::random(),
            started: Instant::now(),
            catalogue,
            keys,
            connections: Arc::new(Connections::default()),
            checks: Arc::new(Checks::default()),
            counters: Counters::default(),
            listening: Mutex::new(listening),
            deletion_guard: Mutex::new(None),
            halt: watch::Sender::new(false),
        });
        let (stopping, stopped) = watch::channel(false);
        let (mut accepting, mut background) = (JoinSet::new(), JoinSet::new());
        for listener in listeners {
            accepting.spawn(listen::accept(Arc::clone(&shared), listener, stopped.clone()));
        }
        if let Some(listener) = metrics {
            background.spawn(metrics_page::serve(Arc::clone(&shared), listener));
        }
        let opening = Arc::clone(&shared);
        background.spawn(async move { opening.catalogue.open_at_start().await });
        tracing::info!(listening = ?shared.listening(), data = %shared.data_path().display(), "server started");
        Ok(Server { shared, addresses, metrics_address, stopping, accepting, background })
    }

    /// The TCP addresses, in the order of the configuration, with the ports that the system chose.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the metrics page is.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// The server's parts, for other faces than the wire's.
    pub fn state(&self) -> &Arc<ServerState> {
        &self.shared
    }

    /// Serves until `shutdown` is ready, then stops in an orderly way.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        shutdown.await;
        self.shutdown().await
    }

    /// Stops: no new connections, those there are finish what they do and are told, and every volume is written to stable
    /// storage. Takes at most as long as the limits allow; the error says what was not done by then.
    pub async fn shutdown(mut self) -> Result<(), ServerError> {
        let limits = self.shared.config.limits.clone();
        tracing::info!("server stops");
        self.background.abort_all();
        self.stopping.send_replace(true);
        self.shared.connections.stop();
        let all_ended = async { while self.accepting.join_next().await.is_some() {} };
        // A connection takes its drain time and two farewells at most.
        if timeout(limits.drain * 2 + Duration::from_secs(3), all_ended).await.is_err() {
            tracing::warn!("connections were cut off because they did not end in time");
            self.accepting.shutdown().await;
        }
        self.shared.checks.stop();
        let troubles = self.shared.catalogue.close(limits.close).await;
        self.shared.halt.send_replace(true);
        self.background.shutdown().await;
        // The locks on the data directory go with the last who uses the server's parts; tasks that were told to end do so at once.
        let released = async {
            while Arc::strong_count(&self.shared) > 1 {
                tokio::time::sleep(RELEASE_LOOK).await;
            }
        };
        if timeout(RELEASE, released).await.is_err() {
            tracing::warn!("something still uses the server: its data directory may be locked a little longer");
        }
        if troubles.is_empty() {
            tracing::info!("server stopped");
            Ok(())
        } else {
            Err(ServerError::UncleanClose(troubles.join("; ")))
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.checks.stop();
        self.shared.halt.send_replace(true);
    }
}
