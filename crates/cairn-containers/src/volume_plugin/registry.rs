//! The volumes that the engine knows: its names, the volumes they stand for, and whether the plug-in made them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cairn_locks::Mutex;
use cairn_types::VolumeId;
use serde::{Deserialize, Serialize};

use crate::durable::{self, DurableError};
use crate::lock_order;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) volume: VolumeId,
    /// Made by the plug-in, and so deleted when the engine removes it.
    pub(super) made_here: bool,
    /// Seconds since 1970, when the engine asked for it.
    pub(super) created: i64,
    /// Further flags of `cairn mount`.
    pub(super) mount_flags: Vec<String>,
}

type Names = BTreeMap<String, Known>;

pub(super) struct Registry {
    path: PathBuf,
    names: Mutex<Names, lock_order::VolumeNames>,
}

impl Registry {
    pub(super) fn open(state: &Path) -> Result<Self, DurableError> {
        let path = state.join("volumes.json");
        let names = durable::load(&path)?;
        Ok(Registry { path, names: Mutex::new(names) })
    }

    pub(super) fn get(&self, name: &str) -> Option<Known> {
        self.names.lock().get(name).cloned()
    }

    pub(super) fn all(&self) -> Names {
        self.names.lock().clone()
    }

    /// Durable when it returns.
    pub(super) fn put(&self, name: &str, known: Known) -> Result<(), DurableError> {
        self.change(|names| {
            names.insert(name.to_owned(), known);
        })
    }

    /// Durable when it returns.
    pub(super) fn forget(&self, name: &str) -> Result<(), DurableError> {
        self.change(|names| {
            names.remove(name);
        })
    }

    fn change(&self, change: impl FnOnce(&mut Names)) -> Result<(), DurableError> {
        let mut names = self.names.lock();
        let mut next = names.clone();
        change(&mut next);
        durable::save(&self.path, &next)?;
        *names = next;
        Ok(())
    }
}
