//! At start: what the database says and what is in the volumes' directory are brought together.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use cairn_types::VolumeId;
use cairn_wire::admin::VolumeInfo;

use super::CatalogueError;
use crate::store::Store;

/// Ending of a directory that is being made.
pub(super) const UNFINISHED: &str = ".new";
/// Ending of a directory that is being removed.
pub(super) const DELETED: &str = ".deleted";

/// The volumes there are.
pub(super) struct Found {
    /// With a record. Their directory may be missing: that shows when they are opened.
    pub(super) known: Vec<VolumeInfo>,
    /// With a directory and no record.
    pub(super) unrecorded: Vec<VolumeId>,
}

/// Finishes interrupted creations and deletions and tells what is left. Waits for the disk.
pub(super) fn reconcile(store: &Store, directory: &Path) -> Result<Found, CatalogueError> {
    let failed = |source: io::Error| CatalogueError::Io { path: directory.to_path_buf(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let mut known: BTreeMap<VolumeId, VolumeInfo> =
        store.volumes()?.into_iter().map(|record| (record.id.clone(), VolumeInfo::from(record))).collect();
    let mut unrecorded = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(id) = name.strip_suffix(DELETED).and_then(|stem| stem.parse::<VolumeId>().ok()) {
            store.remove_volume(&id)?;
            known.remove(&id);
            remove_trash(&entry.path());
        } else if name.strip_suffix(UNFINISHED).is_some_and(|stem| stem.parse::<VolumeId>().is_ok()) {
            remove_trash(&entry.path());
        } else if let Ok(id) = name.parse::<VolumeId>()
            && !known.contains_key(&id)
        {
            unrecorded.push(id);
        }
    }
    Ok(Found { known: known.into_values().collect(), unrecorded })
}

/// Removes a directory that no longer counts. What cannot be removed now is tried again at the next start.
pub(super) fn remove_trash(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a deleted volume's directory cannot be removed");
    }
}
