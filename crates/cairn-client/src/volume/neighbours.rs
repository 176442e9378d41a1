//! Small files that are read one after the other: the contents of those that follow are fetched along, and those of directories
//! that a walk will come to ([`super::subtree`]).
//!
//! Which and how many is decided in [`crate::walk`]; here the files are found. Only what is known under leases is looked
//! at, nothing is asked for but contents: names, attributes and extents came with the listing.

use std::sync::Arc;

use cairn_types::{FileKind, Ino, LeaseMode, Name};

use super::Mount;
use super::read::{Origin, Plan};
use crate::cache::BLOCK;
use crate::cache::fetch::Want;
use crate::node::{Node, Place};
use crate::stats::add;

/// Files up to this size, in bytes, count as small.
const SMALL: u64 = BLOCK as u64;
/// Most bytes that are fetched along at once.
const BYTES_MAX: u64 = 1024 * 1024;
/// How many known names are looked at for each file that is fetched: others may be large, or here already.
const LOOKED_AT: usize = 8;

impl Mount {
    /// A file of `size` bytes is read from its beginning, from `parts`: begins to fetch what is missing of it together
    /// with the files that will be read next.
    pub(super) fn fetch_neighbours(&self, node: &Arc<Node>, size: u64, parts: &[Origin]) {
        if size > SMALL {
            return;
        }
        let parent = node.lock().place().map(|place| place.parent);
        self.tree_walk.lock().read(parent);
        let mut wants = self.missing(parts);
        let along = self.neighbours(node, wants.is_empty());
        if !along.is_empty() {
            wants.extend(along);
            self.blocks.fetch(&self.fetch_context(), &wants);
        }
    }

    /// What to fetch besides a file whose content is here (`hit`) or not.
    fn neighbours(&self, node: &Arc<Node>, hit: bool) -> Vec<Want> {
        let place = node.lock().place().cloned();
        let Some(Place { parent, name }) = place else { return Vec::new() };
        let Some(directory) = self.nodes.table.get(parent) else { return Vec::new() };
        let (candidates, count): (Vec<(Name, Ino)>, u32) = {
            let mut state = directory.lock();
            if !self.nodes.usable(&state, LeaseMode::Shared) {
                return Vec::new();
            }
            let Some(cache) = state.directory_mut() else { return Vec::new() };
            let Some((after, count)) = cache.contents.read(&name, hit) else { return Vec::new() };
            let files = cache.known_after(&after).filter(|(_, link)| link.kind == FileKind::Regular);
            (files.take(count as usize * LOOKED_AT).map(|(name, link)| (name.clone(), link.ino)).collect(), count)
        };
        self.contents_of(&directory, candidates, count)
    }

    /// Begins to fetch the contents of the first files of a directory, up to `most`.
    pub(super) fn fetch_contents_of(self: &Arc<Self>, directory: &Arc<Node>, most: u32) {
        let candidates: Vec<(Name, Ino)> = {
            let state = directory.lock();
            let Some(names) = state.directory().and_then(|cache| cache.listing(None)) else { return };
            let files = names.filter(|(_, link)| link.kind == FileKind::Regular);
            files.take(most as usize * LOOKED_AT).map(|(name, link)| (name.clone(), link.ino)).collect()
        };
        let wants = self.contents_of(directory, candidates, most);
        self.blocks.fetch(&self.fetch_context(), &wants);
    }

    /// What is missing here of the first `count` of these files for which that is anything.
    fn contents_of(&self, directory: &Arc<Node>, candidates: Vec<(Name, Ino)>, count: u32) -> Vec<Want> {
        let mut wants = Vec::new();
        let mut names = Vec::new();
        let mut bytes = 0;
        for (name, ino) in candidates {
            if names.len() == count as usize || bytes >= BYTES_MAX {
                break;
            }
            let missing = self.missing_of(ino);
            if !missing.is_empty() {
                bytes += missing.iter().map(|want| u64::from(want.to - want.from)).sum::<u64>();
                wants.extend(missing);
                names.push(name);
            }
        }
        if let Some(cache) = directory.lock().directory_mut() {
            cache.contents.fetched(&names);
        }
        add(&self.counters.files_read_ahead, names.len() as u64);
        add(&self.counters.bytes_read_ahead, bytes);
        wants
    }

    /// What is missing here of a small file whose extents are known.
    fn missing_of(&self, ino: Ino) -> Vec<Want> {
        let Some(node) = self.nodes.table.get(ino) else { return Vec::new() };
        let state = node.lock();
        if !state.attr().is_some_and(|attr| attr.size > 0 && attr.size <= SMALL) {
            return Vec::new();
        }
        match self.plan(&state, 0, SMALL) {
            Ok(Plan::Ready { parts, .. }) => self.missing(&parts),
            _ => Vec::new(),
        }
    }
}
