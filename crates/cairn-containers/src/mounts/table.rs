//! Who holds which volume: the document on disk.

use std::collections::{BTreeMap, BTreeSet};

use cairn_types::VolumeId;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Table {
    /// The kernel's id of the run of the machine in which the holders live.
    boot: String,
    volumes: BTreeMap<VolumeId, BTreeSet<String>>,
}

impl Table {
    /// Drops the holders unless they are of this run of the machine.
    pub(super) fn begin(&mut self, boot: &str) {
        if self.boot != boot {
            *self = Table { boot: boot.to_owned(), volumes: BTreeMap::new() };
        }
    }

    pub(super) fn add(&mut self, volume: &VolumeId, holder: &str) {
        self.volumes.entry(volume.clone()).or_default().insert(holder.to_owned());
    }

    pub(super) fn remove(&mut self, volume: &VolumeId, holder: &str) {
        if let Some(holders) = self.volumes.get_mut(volume) {
            holders.remove(holder);
            if holders.is_empty() {
                self.volumes.remove(volume);
            }
        }
    }

    pub(super) fn holders(&self, volume: &VolumeId) -> Vec<String> {
        self.volumes.get(volume).map(|holders| holders.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn held(&self) -> Vec<VolumeId> {
        self.volumes.keys().cloned().collect()
    }
}
