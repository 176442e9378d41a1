//! Where a volume lies: its metadata and its blobs, before they are open.

use std::path::Path;
use std::sync::Arc;

use cairn_chunks::{BlobStoreOpener, LocalPacks};
use cairn_meta::kv::{LocalOpener, Opener};

use crate::VolumeOptions;

/// Name of the directory of packs in a volume's own.
const PACKS: &str = "packs";

/// The two stores of a volume. What is asked of them is [`cairn_meta::kv`] and [`cairn_chunks::BlobStore`].
#[derive(Clone)]
pub struct Storage {
    pub metadata: Arc<dyn Opener>,
    pub blobs: Arc<dyn BlobStoreOpener>,
}

impl Storage {
    /// Files in `directory`, which must exist.
    pub fn local(directory: &Path, options: &VolumeOptions) -> Self {
        Storage {
            metadata: Arc::new(LocalOpener::new(directory).with_cache(options.metadata_cache)),
            blobs: Arc::new(LocalPacks::new(directory.join(PACKS), options.packs.clone())),
        }
    }
}
