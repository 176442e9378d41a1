//! Mounts of volumes on this host, each held by any number of holders (containers, pods) and there as long as one
//! of them is.
//!
//! ```text
//! FOLDER/mounts.json    who holds what, replaced as a whole; durable before a holder is told
//! FOLDER/live/ID        where volume ID is mounted
//! FOLDER/logs/ID.log    what its mount process says
//! ```
//!
//! Invariants: a holder that was told a directory is in the list on disk; a directory that nobody holds is not mounted
//! (after the next start at the latest). Holders are a set: to hold twice is to hold once. A list from before the
//! machine was started names holders that are gone, and is dropped. Who opens the folder finds live mounts and goes on with them.

mod program;
mod table;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_locks::Mutex;
use cairn_types::VolumeId;

use crate::durable::{self, DurableError};
use crate::lock_order;
pub use program::CairnProgram;
use table::Table;

/// How a directory of ours is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountState {
    /// Nothing is mounted.
    Absent,
    /// Mounted, and its process answers or may answer again.
    Live,
    /// Mounted, but its process is gone: every access fails.
    Dead,
}

/// What makes and takes away mounts. Every call ends in finite time.
pub trait Mounter: Send + Sync {
    fn state(&self, directory: &Path) -> impl Future<Output = MountState> + Send;
    /// Mounts; the directory is made if need be. `flags` are further flags of `cairn mount`.
    fn mount(
        &self,
        volume: &VolumeId,
        directory: &Path,
        log: &Path,
        flags: &[String],
    ) -> impl Future<Output = Result<(), String>> + Send;
    /// Unmounts, in good order if that can be had, and removes the directory.
    fn unmount(&self, directory: &Path) -> impl Future<Output = Result<(), String>> + Send;
}

/// Why a volume is not held or not released.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    #[error("volume {volume} cannot be mounted: {reason}")]
    Mount { volume: VolumeId, reason: String },
    #[error("volume {volume} cannot be unmounted: {reason}")]
    Unmount { volume: VolumeId, reason: String },
    #[error(transparent)]
    Record(#[from] DurableError),
}

/// The mounts below one folder.
pub struct HostMounts<M = CairnProgram> {
    folder: PathBuf,
    mounter: M,
    /// As it is on disk; the lock is held while it is written, so that the file never goes back.
    table: Mutex<Table, lock_order::MountTable>,
    /// One turn for each volume, so that a slow mount delays nobody else's.
    turns: Mutex<HashMap<VolumeId, Arc<tokio::sync::Mutex<()>>>, lock_order::Turns>,
}

impl<M: Mounter> HostMounts<M> {
    /// Takes over what is in `folder`: live mounts that are held stay as they are, others are unmounted. Whoever opens it
    /// keeps other processes out of it.
    pub async fn open(folder: PathBuf, mounter: M) -> Result<Self, DurableError> {
        durable::private_folder(&folder.join("live"))?;
        durable::private_folder(&folder.join("logs"))?;
        let mut table: Table = durable::load(&folder.join("mounts.json"))?;
        table.begin(&boot_id());
        durable::save(&folder.join("mounts.json"), &table)?;
        let mounts = HostMounts { folder, mounter, table: Mutex::new(table), turns: Mutex::default() };
        mounts.unmount_what_nobody_holds().await?;
        Ok(mounts)
    }

    /// Where the volume is mounted while somebody holds it.
    pub fn directory(&self, volume: &VolumeId) -> PathBuf {
        self.folder.join("live").join(volume.as_str())
    }

    /// Who holds the volume.
    pub fn holders(&self, volume: &VolumeId) -> Vec<String> {
        self.table.lock().holders(volume)
    }

    /// All volumes that somebody holds.
    pub fn held(&self) -> Vec<VolumeId> {
        self.table.lock().held()
    }

    /// Mounts the volume unless it is mounted, and notes the holder. A mount whose process died is made anew.
    pub async fn hold(&self, volume: &VolumeId, holder: &str, flags: &[String]) -> Result<PathBuf, HoldError> {
        let turn = self.turn(volume);
        let _turn = turn.lock().await;
        let directory = self.directory(volume);
        let failed = |reason| HoldError::Mount { volume: volume.clone(), reason };
        let state = self.mounter.state(&directory).await;
        if state == MountState::Dead {
            tracing::warn!(%volume, "the mount's process has exited; mounting again");
            self.mounter.unmount(&directory).await.map_err(failed)?;
        }
        if state != MountState::Live {
            let log = self.folder.join("logs").join(format!("{volume}.log"));
            self.mounter.mount(volume, &directory, &log, flags).await.map_err(failed)?;
        }
        if let Err(error) = self.record(|table| table.add(volume, holder)) {
            if self.holders(volume).is_empty()
                && let Err(reason) = self.mounter.unmount(&directory).await
            {
                tracing::warn!(%volume, "a mount that could not be recorded could not be unmounted, either: {reason}");
            }
            return Err(error.into());
        }
        Ok(directory)
    }

    /// Forgets the holder and unmounts if it was the last. Succeeds if there is no such holder.
    pub async fn release(&self, volume: &VolumeId, holder: &str) -> Result<(), HoldError> {
        let turn = self.turn(volume);
        let _turn = turn.lock().await;
        self.record(|table| table.remove(volume, holder))?;
        self.unmount_unless_held(volume).await
    }

    /// Releases every holder for whom `stays` is false: those whose containers are gone.
    pub async fn release_others(&self, stays: impl Fn(&str) -> bool) -> Result<(), HoldError> {
        for volume in self.held() {
            for holder in self.holders(&volume).into_iter().filter(|holder| !stays(holder)) {
                tracing::info!(%volume, holder, "releasing the volume: the container that used it is gone");
                self.release(&volume, &holder).await?;
            }
        }
        Ok(())
    }

    async fn unmount_unless_held(&self, volume: &VolumeId) -> Result<(), HoldError> {
        let directory = self.directory(volume);
        if !self.holders(volume).is_empty() || self.mounter.state(&directory).await == MountState::Absent {
            return Ok(());
        }
        self.mounter.unmount(&directory).await.map_err(|reason| HoldError::Unmount { volume: volume.clone(), reason })
    }

    async fn unmount_what_nobody_holds(&self) -> Result<(), DurableError> {
        let live = self.folder.join("live");
        let entries = std::fs::read_dir(&live).map_err(|source| DurableError::Io { path: live.clone(), source })?;
        for volume in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<VolumeId>().ok()) {
            if let Err(error) = self.unmount_unless_held(&volume).await {
                // Tried again at the next start; until then it is mounted and harms nobody.
                tracing::warn!("left over from an earlier run: {error}");
            }
        }
        Ok(())
    }

    /// Changes the list, on disk first.
    fn record(&self, change: impl FnOnce(&mut Table)) -> Result<(), DurableError> {
        let mut table = self.table.lock();
        let mut next = table.clone();
        change(&mut next);
        if next != *table {
            durable::save(&self.folder.join("mounts.json"), &next)?;
            *table = next;
        }
        Ok(())
    }

    fn turn(&self, volume: &VolumeId) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.turns.lock().entry(volume.clone()).or_default())
    }
}

/// Changes each time the machine is started; empty where the kernel does not tell.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// Stands for the kernel's table of mounts, which outlives whoever mounts.
    #[derive(Clone, Default)]
    struct Kernel {
        states: Arc<Mutex<BTreeMap<PathBuf, MountState>, lock_order::MountTable>>,
        refuse: Arc<Mutex<bool, lock_order::MountTable>>,
    }

    impl Mounter for Kernel {
        async fn state(&self, directory: &Path) -> MountState {
            self.states.lock().get(directory).copied().unwrap_or(MountState::Absent)
        }

        async fn mount(&self, _: &VolumeId, directory: &Path, _: &Path, _: &[String]) -> Result<(), String> {
            if *self.refuse.lock() {
                return Err("no server answers".into());
            }
            std::fs::create_dir_all(directory).map_err(|error| error.to_string())?;
            let before = self.states.lock().insert(directory.to_owned(), MountState::Live);
            assert_eq!(before, None, "mounted over a mount");
            Ok(())
        }

        async fn unmount(&self, directory: &Path) -> Result<(), String> {
            self.states.lock().remove(directory).map(drop).ok_or_else(|| "nothing is mounted".to_owned())
        }
    }

    fn volume(number: usize) -> VolumeId {
        format!("volume000{number}").parse().expect("id")
    }

    async fn open(folder: &Path, kernel: &Kernel) -> HostMounts<Kernel> {
        HostMounts::open(folder.to_owned(), kernel.clone()).await.expect("opened")
    }

    #[derive(Clone, Debug)]
    enum Step {
        Hold(usize, usize),
        Release(usize, usize),
        Refuse(bool),
        Die(usize),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3usize, 0..3usize).prop_map(|(volume, holder)| Step::Hold(volume, holder)),
            4 => (0..3usize, 0..3usize).prop_map(|(volume, holder)| Step::Release(volume, holder)),
            1 => any::<bool>().prop_map(Step::Refuse),
            1 => (0..3usize).prop_map(Step::Die),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Mounted is exactly what somebody holds, whatever comes and whoever restarts.
        #[test]
        fn mounted_is_what_is_held(steps in prop::collection::vec(step(), 1..40)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
            runtime.block_on(async {
                let folder = tempfile::tempdir().expect("folder");
                let kernel = Kernel::default();
                let mut mounts = open(folder.path(), &kernel).await;
                let mut model: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
                for step in steps {
                    match step {
                        Step::Hold(number, holder) => {
                            let result = mounts.hold(&volume(number), &format!("holder{holder}"), &[]).await;
                            let live = kernel.state(&mounts.directory(&volume(number))).await == MountState::Live;
                            prop_assert_eq!(result.is_ok(), live);
                            if live {
                                model.entry(number).or_default().insert(holder);
                            }
                        }
                        Step::Release(number, holder) => {
                            mounts.release(&volume(number), &format!("holder{holder}")).await.expect("released");
                            model.entry(number).or_default().remove(&holder);
                        }
                        Step::Refuse(on) => *kernel.refuse.lock() = on,
                        Step::Die(number) => {
                            if let Some(state) = kernel.states.lock().get_mut(&mounts.directory(&volume(number))) {
                                *state = MountState::Dead;
                            }
                        }
                        Step::Restart => mounts = open(folder.path(), &kernel).await,
                    }
                    for number in 0..3 {
                        let holders = model.get(&number).map_or(0, BTreeSet::len);
                        prop_assert_eq!(mounts.holders(&volume(number)).len(), holders);
                        let state = kernel.state(&mounts.directory(&volume(number))).await;
                        if holders == 0 {
                            prop_assert_eq!(state, MountState::Absent);
                        }
                    }
                }
                Ok(())
            })?;
        }
    }

    #[tokio::test]
    async fn a_list_from_before_the_machine_was_started_is_dropped() {
        let folder = tempfile::tempdir().expect("folder");
        let kernel = Kernel::default();
        open(folder.path(), &kernel).await.hold(&volume(1), "a", &[]).await.expect("held");
        let path = folder.path().join("mounts.json");
        let text = std::fs::read_to_string(&path).expect("list").replace(&boot_id(), "another");
        std::fs::write(&path, text).expect("written");
        kernel.states.lock().clear();
        assert!(open(folder.path(), &kernel).await.held().is_empty());
    }

    #[tokio::test]
    async fn holders_that_are_gone_are_released() {
        let folder = tempfile::tempdir().expect("folder");
        let kernel = Kernel::default();
        let mounts = open(folder.path(), &kernel).await;
        mounts.hold(&volume(1), "a", &[]).await.expect("held");
        mounts.hold(&volume(1), "b", &[]).await.expect("held");
        mounts.hold(&volume(2), "b", &[]).await.expect("held");
        mounts.release_others(|holder| holder == "a").await.expect("released");
        assert_eq!((mounts.held(), mounts.holders(&volume(1))), (vec![volume(1)], vec!["a".to_owned()]));
    }
}
