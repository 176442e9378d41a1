//! Which directories to list ahead of a walk through a tree: those in the one that is being listed, then those that follow it
//! in its parent. Both are read from the caches alone.
//!
//! When and how far is decided in [`super::policy::tree`].

use std::sync::Arc;

use cairn_types::{FileKind, Ino, LeaseMode, Name};

use super::{Ask, Prefetch};
use crate::node::{Node, Place};

/// Directories with more entries are not listed ahead.
const ENTRIES_MAX: u64 = 1000;
/// Files whose contents are fetched along with a listing, at most.
const FILES_MAX: u32 = 256;

impl Prefetch {
    /// The listing of a directory begins. How many directories to list ahead once it has been answered.
    pub(crate) fn listing_begins(&self, node: &Node) -> u32 {
        let parent = node.lock().place().map(|place| place.parent);
        self.tree.lock().listed(node.ino, parent)
    }

    /// The listing was answered: lists up to `window` directories ahead of the walk that has come to this one.
    pub(crate) fn listed(self: &Arc<Self>, ask: &Arc<impl Ask>, node: &Arc<Node>, window: u32) {
        if window == 0 {
            return;
        }
        let files = {
            let state = node.lock();
            let names = state.directory().and_then(|cache| cache.listing(None));
            names.map_or(0, |names| names.filter(|(_, link)| link.kind == FileKind::Regular).count())
        };
        self.tree.lock().saw_files(u32::try_from(files).unwrap_or(u32::MAX));
        let mut candidates = self.directories_in(node, None, window);
        let place = node.lock().place().cloned();
        if let Some(Place { parent, name }) = place
            && let Some(parent) = self.nodes.table.get(parent)
        {
            candidates.extend(self.directories_in(&parent, Some(&name), window));
        }
        for directory in candidates {
            if self.tree.lock().list_ahead(directory.ino) {
                let (prefetch, ask) = (Arc::clone(self), Arc::clone(ask));
                self.fetching.runtime.spawn(async move {
                    if let Err(error) = ask.list(&directory).await {
                        tracing::debug!(ino = %directory.ino, ?error, "listing ahead failed");
                        return;
                    }
                    if prefetch.tree.lock().reads_contents() {
                        prefetch.fetch_contents_of(&directory, FILES_MAX);
                    }
                });
            }
        }
    }

    /// Directories in `node` after a name that are worth listing: small, and not known whole.
    fn directories_in(&self, node: &Node, after: Option<&Name>, most: u32) -> Vec<Arc<Node>> {
        let found: Vec<Ino> = {
            let state = node.lock();
            if !self.nodes.usable(&state, LeaseMode::Shared) {
                return Vec::new();
            }
            let Some(names) = state.directory().and_then(|cache| cache.listing(after)) else { return Vec::new() };
            let directories = names.filter(|(_, link)| link.kind == FileKind::Directory);
            directories.take(most as usize).map(|(_, link)| link.ino).collect()
        };
        let nodes = found.into_iter().filter_map(|ino| self.nodes.table.get(ino));
        let unknown = |node: &Arc<Node>| {
            let state = node.lock();
            let small = state.attr().is_some_and(|attr| (1..=ENTRIES_MAX).contains(&attr.size));
            let known = state.directory().is_some_and(|cache| cache.listing(None).is_some());
            small && !known && !state.is_ahead() && self.nodes.usable(&state, LeaseMode::Shared)
        };
        nodes.filter(unknown).collect()
    }
}
