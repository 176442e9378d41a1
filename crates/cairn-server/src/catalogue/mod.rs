//! The volumes of a server: made, found, listed, resized, renamed, deleted, opened and closed.
//!
//! This is the one layer below every face of the server (the wire's administration, and control planes over HTTP). It knows
//! nothing of connections, keys or answers; who may do what is decided above it.
//!
//! Invariants:
//! - A volume's own record in its directory is the truth about its name and limits; the catalogue's database is an index that
//!   is brought up to date when the volume is opened or changed.
//! - A directory `ID.new` was never announced to anybody, a directory `ID.deleted` no longer counts: both are removed at the
//!   next start. A directory `ID` without a record (the server died between the two) is taken into the catalogue.
//! - Names need not be unique. Using one that several volumes share is an error that lists their ids.

mod error;
mod reconcile;
pub mod rules;
mod slot;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_engine::{Storage, Volume, VolumeOptions};
use cairn_locks::RwLock;
use cairn_types::{Allocation, Profile, Timestamp, VolumeId};
use cairn_wire::admin::{SessionStatus, VolumeInfo, VolumeStatus};
use cairn_wire::message::Usage;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use self::slot::{Slot, SlotState};
use crate::data_directory::sync_directory;
use crate::lock_order;
use crate::store::{Store, VolumeRecord};

pub use self::error::CatalogueError;
pub use self::slot::OpenVolume;

/// Up to so many volumes are opened when the server starts, so that the time in which sessions may come back begins at once;
/// with more of them, each is opened when it is first used.
const OPEN_AT_START_MAX: usize = 256;
/// So many at once.
const OPEN_AT_START_PARALLEL: usize = 4;
/// How long a list or a status waits for a volume that is being opened before it says so.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// How long a deletion waits for those who are just being let in.
const DELETE_PATIENCE: Duration = Duration::from_secs(5);

/// What a new volume shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume {
    pub name: String,
    /// Most logical bytes.
    pub bytes_limit: u64,
    /// Most nodes; by default one for every 4 KiB, and at least 1,048,576.
    pub inodes_limit: Option<u64>,
    pub data_center: String,
    /// Bytes, a power of two.
    pub chunk_size: u32,
    /// Whatever it is to emulate.
    pub profile: Profile,
}

/// All volumes.
pub struct Catalogue {
    store: Arc<Store>,
    directory: PathBuf,
    options: VolumeOptions,
    slots: RwLock<BTreeMap<VolumeId, Arc<Slot>>, lock_order::Catalogue>,
}

impl Catalogue {
    /// Reads what there is and puts in order what an interrupted creation or deletion left. Opens the volumes that the
    /// database does not know, but no others.
    pub(crate) async fn open(
        store: Arc<Store>,
        directory: PathBuf,
        options: VolumeOptions,
    ) -> Result<Self, CatalogueError> {
        let found = {
            let (store, directory) = (Arc::clone(&store), directory.clone());
            in_background(move || reconcile::reconcile(&store, &directory)).await?
        };
        let known = found.known.into_iter().map(|info| (info.id.clone(), Slot::new(info, &directory, options.clone())));
        let catalogue = Catalogue { store, slots: RwLock::new(known.collect()), directory, options };
        for id in found.unrecorded {
            catalogue.adopt(id).await?;
        }
        Ok(catalogue)
    }

    /// Takes a volume into the catalogue whose directory is there and whose record is not.
    async fn adopt(&self, id: VolumeId) -> Result<(), CatalogueError> {
        let info = VolumeInfo {
            id: id.clone(),
            name: id.to_string(),
            bytes_limit: 0,
            inodes_limit: 0,
            data_center: String::new(),
            chunk_size: 0,
            created: 0,
            profile: Profile::default().to_string(),
            allocation: Allocation::NATIVE,
        };
        let slot = Slot::new(info, &self.directory, self.options.clone());
        match slot.open().await {
            Ok(volume) if volume.info().id == id => {
                tracing::warn!(volume = %id, "found a volume that the catalogue did not know");
                self.note(volume.info()).await?;
                self.slots.write().insert(id, slot);
            }
            Ok(volume) => {
                tracing::error!(directory = %slot.directory.display(), says = %volume.info().id,
                    "ignored a volume in a directory of another name");
            }
            // Logged where it happened. It stays on disk, untouched.
            Err(_) => {}
        }
        Ok(())
    }

    /// Opens what should be open from the start. Failures show in the volumes' status.
    pub async fn open_at_start(&self) {
        let slots = self.all();
        if slots.len() > OPEN_AT_START_MAX {
            return;
        }
        let mut opening = JoinSet::new();
        for slot in slots {
            if opening.len() >= OPEN_AT_START_PARALLEL {
                opening.join_next().await;
            }
            opening.spawn(async move { slot.open().await.map(|_| ()) });
        }
        while opening.join_next().await.is_some() {}
    }

    /// Finds the volume that a person or a program means, by id or else by name, among those that it may know of.
    pub fn resolve(&self, id_or_name: &str, may_know: impl Fn(&VolumeId) -> bool) -> Result<VolumeId, CatalogueError> {
        let slots = self.slots.read();
        if let Ok(id) = id_or_name.parse::<VolumeId>()
            && slots.contains_key(&id)
            && may_know(&id)
        {
            return Ok(id);
        }
        let called_so = slots.values().filter(|slot| may_know(&slot.id) && slot.info.lock().name == id_or_name);
        let mut ids: Vec<VolumeId> = called_so.map(|slot| slot.id.clone()).collect();
        match ids.pop() {
            None => Err(CatalogueError::UnknownVolume(id_or_name.to_owned())),
            Some(id) if ids.is_empty() => Ok(id),
            Some(id) => {
                ids.push(id);
                Err(CatalogueError::AmbiguousName { name: id_or_name.to_owned(), ids })
            }
        }
    }

    /// The volume, opened if it was not. Waits for as long as opening takes.
    pub async fn open_volume(&self, id: &VolumeId) -> Result<OpenVolume, CatalogueError> {
        self.slot(id)?.open().await
    }

    /// Whether every volume that the asker may know of is open now.
    pub fn all_open(&self, may_know: impl Fn(&VolumeId) -> bool) -> bool {
        self.slots.read().values().all(|slot| !may_know(&slot.id) || slot.live().is_some())
    }

    /// The volumes that are open now.
    pub fn open_volumes(&self) -> Vec<Arc<Volume>> {
        self.all().iter().filter_map(|slot| slot.live()).collect()
    }

    /// What is known of every volume without opening it, in the order of ids. Never waits.
    pub fn infos(&self) -> Vec<VolumeInfo> {
        self.slots.read().values().map(|slot| slot.info.lock().clone()).collect()
    }

    /// What is known of a volume without opening it. Never waits.
    pub fn info(&self, id: &VolumeId) -> Option<VolumeInfo> {
        self.slots.read().get(id).map(|slot| slot.info.lock().clone())
    }

    /// An id that no volume has, for [`Catalogue::create_as`].
    pub fn reserve_id(&self) -> VolumeId {
        self.fresh_id()
    }

    /// Makes an empty volume.
    pub async fn create(&self, wanted: NewVolume) -> Result<VolumeStatus, CatalogueError> {
        self.create_as(self.fresh_id(), wanted).await
    }

    /// Makes an empty volume whose id somebody has noted beforehand.
    pub async fn create_as(&self, id: VolumeId, wanted: NewVolume) -> Result<VolumeStatus, CatalogueError> {
        rules::check_name(&wanted.name)?;
        rules::check_data_center(&wanted.data_center)?;
        rules::check_bytes_limit(wanted.bytes_limit)?;
        rules::check_chunk_size(wanted.chunk_size)?;
        let inodes_limit = wanted.inodes_limit.unwrap_or_else(|| rules::default_inodes_limit(wanted.bytes_limit));
        rules::check_inodes_limit(inodes_limit)?;
        let info = VolumeInfo {
            id,
            name: wanted.name,
            bytes_limit: wanted.bytes_limit,
            inodes_limit,
            data_center: wanted.data_center,
            chunk_size: wanted.chunk_size,
            created: Timestamp::now().secs,
            profile: wanted.profile.to_string(),
            allocation: wanted.profile.allocation(),
        };
        let (directory, options, made) = (self.directory.clone(), self.options.clone(), info.clone());
        in_background(move || make_on_disk(&directory, made, &options)).await?;
        self.note(info.clone()).await?;
        let slot = Slot::new(info.clone(), &self.directory, self.options.clone());
        self.slots.write().insert(info.id.clone(), Arc::clone(&slot));
        tracing::info!(volume = %info.id, name = info.name, "volume made");
        slot.open().await?;
        Ok(status_of(&slot, Instant::now() + OPEN_PATIENCE).await)
    }

    /// Every volume that the asker may know of, in the order of ids.
    pub async fn list(&self, may_know: impl Fn(&VolumeId) -> bool) -> Vec<VolumeStatus> {
        let mut statuses = Vec::new();
        let deadline = Instant::now() + OPEN_PATIENCE;
        for slot in self.all().into_iter().filter(|slot| may_know(&slot.id)) {
            statuses.push(status_of(&slot, deadline).await);
        }
        statuses
    }

    pub async fn show(&self, id: &VolumeId) -> Result<VolumeStatus, CatalogueError> {
        let slot = self.slot(id)?;
        Ok(status_of(&slot, Instant::now() + OPEN_PATIENCE).await)
    }

    /// Changes a volume's limits; what is `None` stays. Not below what is used.
    pub async fn resize(
        &self,
        id: &VolumeId,
        bytes_limit: Option<u64>,
        inodes_limit: Option<u64>,
    ) -> Result<VolumeStatus, CatalogueError> {
        bytes_limit.map_or(Ok(()), rules::check_bytes_limit)?;
        inodes_limit.map_or(Ok(()), rules::check_inodes_limit)?;
        let slot = self.slot(id)?;
        let _changing = slot.changing.lock().await;
        let volume = slot.open().await?;
        let usage = volume.usage();
        let wanted_and_used = [("bytes", bytes_limit, usage.bytes_used), ("inodes", inodes_limit, usage.inodes_used)];
        for (unit, wanted, used) in wanted_and_used {
            if let Some(wanted) = wanted.filter(|wanted| *wanted < used) {
                return Err(CatalogueError::BelowUse { volume: id.clone(), unit, used, wanted });
            }
        }
        volume.resize(bytes_limit, inodes_limit).await.map_err(|error| engine_error(id, &error))?;
        self.adopt_info(&slot, volume.info()).await?;
        Ok(status_of(&slot, Instant::now() + OPEN_PATIENCE).await)
    }

    /// Gives a volume another profile. What mounts do by it, they do from their next start on. Refused while it is mounted if
    /// its content would count otherwise.
    pub async fn set_profile(&self, id: &VolumeId, profile: Profile) -> Result<VolumeStatus, CatalogueError> {
        let slot = self.slot(id)?;
        let _changing = slot.changing.lock().await;
        let volume = slot.open().await?;
        if !volume.set_profile(profile).await.map_err(|error| engine_error(id, &error))? {
            refuse_if_mounted(&volume)?;
            return Err(CatalogueError::Busy(id.clone()));
        }
        self.adopt_info(&slot, volume.info()).await?;
        Ok(status_of(&slot, Instant::now() + OPEN_PATIENCE).await)
    }

    pub async fn rename(&self, id: &VolumeId, name: String) -> Result<VolumeStatus, CatalogueError> {
        rules::check_name(&name)?;
        let slot = self.slot(id)?;
        let _changing = slot.changing.lock().await;
        let volume = slot.open().await?;
        volume.rename(name).await.map_err(|error| engine_error(id, &error))?;
        self.adopt_info(&slot, volume.info()).await?;
        Ok(status_of(&slot, Instant::now() + OPEN_PATIENCE).await)
    }

    /// Deletes a volume and all that is in it. Refused while it is mounted or checked. When this returns, the volume is gone
    /// for good; its space comes back in the background.
    pub async fn delete(&self, id: &VolumeId) -> Result<(), CatalogueError> {
        let slot = self.slot(id)?;
        // Whether it is mounted is known to the volume alone, also that mounts may come back after a restart of the server. One
        // that cannot be opened can still be deleted.
        match slot.open().await {
            Ok(volume) => refuse_if_mounted(&volume)?,
            Err(CatalogueError::Broken { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut seized = slot.seize(DELETE_PATIENCE).await.ok_or_else(|| CatalogueError::Busy(id.clone()))?;
        match seized.state() {
            SlotState::Open(volume) => refuse_if_mounted(volume)?,
            SlotState::Deleted => return Err(CatalogueError::UnknownVolume(id.to_string())),
            SlotState::Closed | SlotState::Broken(_) => {}
        }
        if let Err(error) = seized.close().await {
            // Its content is about to go: that not all of it could be saved does not matter.
            tracing::warn!(volume = %id, %error, "volume could not be closed before its deletion");
        }
        let (directory, slot_directory) = (self.directory.clone(), slot.directory.clone());
        let trash = self.directory.join(format!("{id}{}", reconcile::DELETED));
        let moved_to = trash.clone();
        in_background(move || {
            let failed = |source| CatalogueError::Io { path: slot_directory.clone(), source };
            match fs::rename(&slot_directory, &moved_to) {
                // Its directory was missing already: only the record is left to remove.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                outcome => outcome.and_then(|()| sync_directory(&directory)).map_err(failed),
            }
        })
        .await?;
        seized.mark_deleted();
        self.slots.write().remove(id);
        let (store, id) = (Arc::clone(&self.store), id.clone());
        in_background(move || {
            store.remove_volume(&id)?;
            tracing::info!(volume = %id, "volume deleted");
            Ok(())
        })
        .await?;
        // Not waited for: it may take long, and the next start removes what is left.
        tokio::task::spawn_blocking(move || reconcile::remove_trash(&trash));
        Ok(())
    }

    /// Sessions of all open volumes.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        self.open_volumes().iter().flat_map(|volume| volume.sessions()).collect()
    }

    /// Writes every open volume to stable storage and closes it. Returns a sentence for each that did not make it within
    /// `limit`.
    pub async fn close(&self, limit: Duration) -> Vec<String> {
        let mut closing = JoinSet::new();
        for slot in self.all() {
            closing.spawn(async move {
                let id = slot.id.clone();
                match timeout(limit, close_slot(&slot, limit)).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(format!("volume {id}: {error}")),
                    Err(_) => Some(format!("volume {id}: not closed after {} s", limit.as_secs())),
                }
            });
        }
        let mut troubles = Vec::new();
        while let Some(outcome) = closing.join_next().await {
            match outcome {
                Ok(trouble) => troubles.extend(trouble),
                Err(error) => troubles.push(error.to_string()),
            }
        }
        troubles
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.read().values().cloned().collect()
    }

    fn slot(&self, id: &VolumeId) -> Result<Arc<Slot>, CatalogueError> {
        self.slots.read().get(id).cloned().ok_or_else(|| CatalogueError::UnknownVolume(id.to_string()))
    }

    fn fresh_id(&self) -> VolumeId {
        let slots = self.slots.read();
        loop {
            let id = VolumeId::from_entropy(rand::random());
            if !slots.contains_key(&id) {
                return id;
            }
        }
    }

    /// Takes over what a volume now says of itself.
    async fn adopt_info(&self, slot: &Slot, info: VolumeInfo) -> Result<(), CatalogueError> {
        *slot.info.lock() = info.clone();
        self.note(info).await
    }

    async fn note(&self, info: VolumeInfo) -> Result<(), CatalogueError> {
        let store = Arc::clone(&self.store);
        in_background(move || Ok(store.put_volume(&VolumeRecord::from(info))?)).await
    }
}

async fn close_slot(slot: &Arc<Slot>, limit: Duration) -> Result<(), String> {
    let mut seized = slot.seize(limit).await.ok_or("still in use")?;
    seized.close().await.map_err(|error| error.to_string())
}

/// What to tell of a volume. One that is closed is opened for it until `deadline`; one that could not be opened is left to
/// those who want to use it.
async fn status_of(slot: &Arc<Slot>, deadline: Instant) -> VolumeStatus {
    let trouble = match slot.broken() {
        Some(reason) => reason,
        None => match timeout_at(deadline, slot.open()).await {
            Ok(Ok(volume)) => {
                return VolumeStatus { info: volume.info(), usage: volume.usage(), trouble: volume.trouble() };
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => CatalogueError::Opening(slot.id.clone()).to_string(),
        },
    };
    let info = slot.info.lock().clone();
    let usage = Usage { bytes_limit: info.bytes_limit, inodes_limit: info.inodes_limit, ..Usage::default() };
    VolumeStatus { info, usage, trouble }
}

fn refuse_if_mounted(volume: &Volume) -> Result<(), CatalogueError> {
    if !volume.mounted() {
        return Ok(());
    }
    let clients = volume
        .sessions()
        .into_iter()
        .map(|session| {
            let client = format!("{} on {}", session.info.kind, session.info.host);
            if session.connected { client } else { format!("{client} (not connected at the moment)") }
        })
        .collect();
    Err(CatalogueError::InUse { volume: volume.info().id, clients })
}

/// Makes a volume's directory under a name that does not count yet, and renames it when it is complete.
fn make_on_disk(directory: &Path, info: VolumeInfo, options: &VolumeOptions) -> Result<(), CatalogueError> {
    let failed = |source| CatalogueError::Io { path: directory.to_path_buf(), source };
    let id = info.id.clone();
    let unfinished = directory.join(format!("{id}{}", reconcile::UNFINISHED));
    DirBuilder::new().mode(0o700).create(&unfinished).map_err(failed)?;
    let made = Volume::create(&Storage::local(&unfinished, options), info)
        .map_err(|error| engine_error(&id, &error))
        .and_then(|()| sync_directory(&unfinished).map_err(failed))
        .and_then(|()| fs::rename(&unfinished, directory.join(id.as_str())).map_err(failed));
    if let Err(error) = made {
        reconcile::remove_trash(&unfinished);
        return Err(error);
    }
    sync_directory(directory).map_err(failed)
}

fn engine_error(id: &VolumeId, error: &cairn_engine::VolumeError) -> CatalogueError {
    CatalogueError::Engine { volume: id.clone(), reason: error.to_string() }
}

/// Runs what waits for the disk where it holds up nobody.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CatalogueError> + Send + 'static,
) -> Result<T, CatalogueError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| CatalogueError::TaskFailed)?
}

#[cfg(test)]
mod tests;
