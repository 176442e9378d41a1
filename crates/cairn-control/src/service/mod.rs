//! The one layer below every face: accounts, keys and roles, volumes, attachments, pods, endpoints, templates, usage and charges.
//!
//! Every rule is enforced here and nowhere else. Faces call methods with the [`Principal`] who asks, and get typed records or a
//! [`ServiceError`]; what another account owns does not exist for them.
//!
//! Invariants:
//! - Volumes are those of the server's catalogue. Their names and sizes are its; this layer adds owner, tier and charges, and takes
//!   in volumes that were made without it.
//! - Records change in batches: durable first, then in memory. Changes are made one after the other, on a task of their own, so
//!   that a client that goes away leaves nothing half done; reads never wait for them.
//! - Money is not booked but counted: from credit, and the times in which volumes had a size. The clock only moves what is due.

mod access;
mod accounts;
mod balance;
mod billing;
pub mod catalog;
mod clock;
mod containers;
mod endpoints;
mod error;
mod ids;
mod money;
mod pods;
pub mod records;
mod state;
mod store;
mod templates;
mod upkeep;
mod validate;
mod volumes;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_locks::{Mutex, RwLock};
use cairn_server::ServerState;
use tokio::time::timeout;

use crate::engine::{ContainerEngine, ContainerState};
use crate::lock_order;

pub use self::access::{Permission, Principal, Role};
pub use self::accounts::{AccountView, NewAccount};
pub use self::billing::{Bucket, BucketSize, ChargeQuery, Charges};
pub use self::clock::{ClockSource, Moment};
pub use self::endpoints::{EndpointChange, NewEndpoint};
pub use self::error::{ErrorKind, ServiceError};
pub use self::money::Money;
pub use self::pods::{NewPod, PodChange, PodStatus, PodView};
pub use self::templates::{NewTemplate, TemplateChange};
pub use self::volumes::{NewNetworkVolume, Shrink, VolumeChange, VolumeView};

use self::clock::Clock;
use self::state::State;
use self::store::{Change, Store};

/// How long a request waits for changes before its own, and for its own.
const CHANGE_PATIENCE: Duration = Duration::from_secs(30);

/// How the service behaves; see `cairn serve --help`.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    pub clock: ClockSource,
    /// From the end of a prepaid balance to the end of its volumes.
    pub grace: Duration,
    /// Reproduces that REST v1 was seen to let sizes shrink.
    pub v1_shrink: bool,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        ServiceOptions { clock: ClockSource::Machine, grace: Duration::from_secs(7 * 24 * 3600), v1_shrink: false }
    }
}

/// The service. Cheap to share; ends with [`Service::close`].
pub struct Service {
    server: Arc<ServerState>,
    options: ServiceOptions,
    clock: Clock,
    store: Arc<Store>,
    state: RwLock<State, lock_order::Records>,
    /// Held while records are being changed.
    changing: tokio::sync::Mutex<()>,
    engine: Option<Arc<dyn ContainerEngine>>,
    /// What the engine last said of each pod's container.
    observed: Mutex<HashMap<String, ContainerState>, lock_order::ObservedContainers>,
    /// A lock for each pod whose container is being worked on.
    working: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>, lock_order::WorkOnPods>,
    /// Whether containers were brought in line with their pods since the start.
    engine_seen: std::sync::atomic::AtomicBool,
    /// Whether the first round of upkeep is over.
    upkept: std::sync::atomic::AtomicBool,
}

impl Service {
    /// Opens the records beside the server's, makes the first account if there is none, and takes in the server's volumes.
    pub async fn open(
        server: Arc<ServerState>,
        options: ServiceOptions,
        engine: Option<Arc<dyn ContainerEngine>>,
    ) -> Result<Arc<Self>, ServiceError> {
        let path = server.data_path().join("control.redb");
        let (store, state) = in_background(move || {
            let store = Store::open(&path)?;
            let state = store.load()?;
            Ok((Arc::new(store), state))
        })
        .await?;
        let clock = Clock::new(options.clock, state.settings.skipped_ms);
        let service = Arc::new(Service {
            server,
            options,
            clock,
            store,
            state: RwLock::new(state),
            changing: tokio::sync::Mutex::new(()),
            engine,
            observed: Mutex::new(HashMap::new()),
            working: Mutex::new(HashMap::new()),
            engine_seen: std::sync::atomic::AtomicBool::new(false),
            upkept: std::sync::atomic::AtomicBool::new(false),
        });
        service.ensure_first_account().await?;
        service.discard_unfinished().await?;
        service.settle().await?;
        let weak = Arc::downgrade(&service);
        service.server.guard_deletions(Some(Arc::new(move |volume| {
            let service = weak.upgrade()?;
            let (pods, endpoints) = service.state.read().holders(volume);
            let holders = [("pods", pods), ("endpoints", endpoints)]
                .into_iter()
                .filter(|(_, ids)| !ids.is_empty())
                .map(|(what, ids)| format!("{what} {}", ids.join(", ")))
                .collect::<Vec<_>>();
            (!holders.is_empty()).then(|| format!("it is attached to {}: remove them first", holders.join(" and ")))
        })));
        Ok(service)
    }

    /// Lets go of the server. What is written is safe at any moment; containers are left running.
    pub fn close(&self) {
        self.server.guard_deletions(None);
    }

    /// The control plane's time.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    pub fn options(&self) -> &ServiceOptions {
        &self.options
    }

    /// For people: the container engine, or that there is none.
    pub fn engine_name(&self) -> String {
        self.engine.as_ref().map_or_else(|| "none: pods are only recorded".to_owned(), |engine| engine.name())
    }

    /// The operator's key is kept here, readable by the server's own user.
    pub fn key_file(&self) -> PathBuf {
        self.server.data_path().join("control-key")
    }

    /// Whether everything from before the start is known again: volumes made without the control plane, and containers.
    pub fn ready(&self) -> bool {
        self.upkept.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Runs a change alone, to its end even if nobody waits for it any more.
    async fn change<T, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ServiceError>> + Send + 'static,
    {
        let doing = work(Arc::clone(self));
        let service = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _alone = timeout(CHANGE_PATIENCE, service.changing.lock()).await.map_err(|_| ServiceError::Busy)?;
            doing.await
        });
        match timeout(CHANGE_PATIENCE * 2, task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Err(ServiceError::Store(error.to_string())),
            Err(_) => Err(ServiceError::TakesLong(CHANGE_PATIENCE.as_secs() * 2)),
        }
    }

    /// Makes changes durable and then visible. Called by whoever changes alone.
    async fn commit(&self, changes: Vec<Change>) -> Result<(), ServiceError> {
        if changes.is_empty() {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        let changes = in_background(move || store.write(&changes).map(|()| changes)).await?;
        self.state.write().apply(changes);
        Ok(())
    }
}

/// Runs what waits for the disk where it holds up nobody.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ServiceError::Store(error.to_string()))?
}
