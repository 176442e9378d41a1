//! One volume's life in a running server: closed, open, broken, deleted.
//!
//! Whoever needs the volume to stay (a mount that is being let in, a check) holds the state's read lock through an
//! [`OpenVolume`]; opening, closing and deleting take the write lock. Requests of sessions hold neither: they keep the volume's memory
//! alive, and a volume that was closed under them answers with errors.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_engine::{Storage, Volume, VolumeError, VolumeOptions};
use cairn_locks::Mutex;
use cairn_types::VolumeId;
use cairn_wire::admin::VolumeInfo;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::time::timeout;

use super::CatalogueError;
use crate::lock_order;

/// Where a volume stands.
pub(super) enum SlotState {
    Closed,
    Open(Arc<Volume>),
    /// It could not be opened, for this reason; the next use tries again.
    Broken(String),
    Deleted,
}

/// A volume of the catalogue, whether it is open or not.
pub(super) struct Slot {
    pub(super) id: VolumeId,
    pub(super) directory: PathBuf,
    options: VolumeOptions,
    /// As last known; the open volume's own record is the truth.
    pub(super) info: Mutex<VolumeInfo, lock_order::VolumeInfo>,
    state: Arc<RwLock<SlotState>>,
    /// The volume while it is open, for those who only look and must not wait for the state.
    live: Mutex<Option<Arc<Volume>>, lock_order::LiveVolume>,
    /// Serialises changes of the volume's name and size with what the catalogue notes of them.
    pub(super) changing: tokio::sync::Mutex<()>,
}

/// An open volume that can be neither closed nor deleted while this is held.
pub struct OpenVolume {
    volume: Arc<Volume>,
    _state: OwnedRwLockReadGuard<SlotState>,
}

impl OpenVolume {
    /// The volume itself, for use beyond the life of this guard.
    pub fn shared(&self) -> Arc<Volume> {
        Arc::clone(&self.volume)
    }
}

impl Deref for OpenVolume {
    type Target = Volume;

    fn deref(&self) -> &Volume {
        &self.volume
    }
}

impl Slot {
    pub(super) fn new(info: VolumeInfo, directory: &Path, options: VolumeOptions) -> Arc<Self> {
        Arc::new(Slot {
            id: info.id.clone(),
            directory: directory.join(info.id.as_str()),
            options,
            info: Mutex::new(info),
            state: Arc::new(RwLock::new(SlotState::Closed)),
            live: Mutex::new(None),
            changing: tokio::sync::Mutex::new(()),
        })
    }

    /// Opens the volume if it is not open. Opening goes on if the caller gives up waiting, and is not begun twice.
    pub(super) async fn open(self: &Arc<Self>) -> Result<OpenVolume, CatalogueError> {
        if let Some(open) = self.already_open().await {
            return Ok(open);
        }
        let slot = Arc::clone(self);
        let opening = tokio::spawn(async move { slot.open_now().await });
        opening.await.map_err(|_| CatalogueError::TaskFailed)?
    }

    async fn open_engine(&self) -> Result<Volume, VolumeError> {
        Volume::open(&Storage::local(&self.directory, &self.options), &self.options).await
    }

    async fn open_now(&self) -> Result<OpenVolume, CatalogueError> {
        let mut state = Arc::clone(&self.state).write_owned().await;
        let volume = match &*state {
            SlotState::Open(volume) => Arc::clone(volume),
            SlotState::Deleted => return Err(CatalogueError::UnknownVolume(self.id.to_string())),
            SlotState::Closed | SlotState::Broken(_) => match self.open_engine().await {
                Ok(volume) => {
                    let volume = Arc::new(volume);
                    *self.info.lock() = volume.info();
                    *state = SlotState::Open(Arc::clone(&volume));
                    *self.live.lock() = Some(Arc::clone(&volume));
                    volume
                }
                Err(error) => {
                    let reason = error.to_string();
                    tracing::error!(volume = %self.id, reason, "volume cannot be opened");
                    *state = SlotState::Broken(reason.clone());
                    return Err(CatalogueError::Broken { volume: self.id.clone(), reason });
                }
            },
        };
        Ok(OpenVolume { volume, _state: state.downgrade() })
    }

    /// The volume, if it is open; does not open it.
    pub(super) async fn already_open(&self) -> Option<OpenVolume> {
        let state = Arc::clone(&self.state).read_owned().await;
        match &*state {
            SlotState::Open(volume) => Some(OpenVolume { volume: Arc::clone(volume), _state: state }),
            _ => None,
        }
    }

    /// The volume, if it is open; never waits. It may be closed at any moment after.
    pub(super) fn live(&self) -> Option<Arc<Volume>> {
        self.live.lock().clone()
    }

    /// What is wrong, if it could not be opened.
    pub(super) fn broken(&self) -> Option<String> {
        match &*self.state.try_read().ok()? {
            SlotState::Broken(reason) => Some(reason.clone()),
            _ => None,
        }
    }

    /// Keeps everybody else from the volume. `None` if they do not let go within `limit`.
    pub(super) async fn seize(self: &Arc<Self>, limit: Duration) -> Option<SeizedSlot> {
        let state = timeout(limit, Arc::clone(&self.state).write_owned()).await.ok()?;
        Some(SeizedSlot { slot: Arc::clone(self), state })
    }
}

/// A slot that nobody else uses.
pub(super) struct SeizedSlot {
    slot: Arc<Slot>,
    state: OwnedRwLockWriteGuard<SlotState>,
}

impl SeizedSlot {
    pub(super) fn state(&self) -> &SlotState {
        &self.state
    }

    /// Closes the volume if it is open. After an error it is not open either.
    pub(super) async fn close(&mut self) -> Result<(), VolumeError> {
        *self.slot.live.lock() = None;
        match std::mem::replace(&mut *self.state, SlotState::Closed) {
            SlotState::Open(volume) => volume.close().await,
            SlotState::Deleted => {
                *self.state = SlotState::Deleted;
                Ok(())
            }
            SlotState::Closed | SlotState::Broken(_) => Ok(()),
        }
    }

    /// From now on, there is no such volume.
    pub(super) fn mark_deleted(&mut self) {
        *self.state = SlotState::Deleted;
    }
}
