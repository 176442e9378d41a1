//! Which small files to fetch: those that follow the one that is read, and those of a directory that a walk will come to.
//!
//! How many is decided in [`super::policy::contents`]; here the files are found. Only what is known under leases is looked
//! at, nothing is asked for but contents: names, attributes and extents came with the listing.

use std::sync::Arc;

use cairn_types::{FileKind, Ino, LeaseMode, Name};

use super::{Prefetch, SMALL};
use crate::cache::fetch::Want;
use crate::node::{Node, Place};
use crate::read_plan::{Origin, Plan, missing_in, plan};
use crate::stats::add;

/// Most bytes that are fetched along at once.
const BYTES_MAX: u64 = 1024 * 1024;
/// How many known names are looked at for each file that is fetched: others may be large, or here already.
const LOOKED_AT: usize = 8;

impl Prefetch {
    /// A small file is read from its beginning, from `parts`: begins to fetch what is missing of it together with the files
    /// that will be read next.
    pub(super) fn fetch_small_files(&self, node: &Arc<Node>, parts: &[Origin]) {
        let parent = node.lock().place().map(|place| place.parent);
        self.tree.lock().read(parent);
        let mut wants = missing_in(parts, self.blocks.cache());
        let along = self.files_after(node, wants.is_empty());
        if !along.is_empty() {
            wants.extend(along);
            self.blocks.fetch(&self.fetching, &wants);
        }
    }

    /// What to fetch besides a file whose content is here (`hit`) or not.
    fn files_after(&self, node: &Arc<Node>, hit: bool) -> Vec<Want> {
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
    pub(super) fn fetch_contents_of(&self, directory: &Arc<Node>, most: u32) {
        let candidates: Vec<(Name, Ino)> = {
            let state = directory.lock();
            let Some(names) = state.directory().and_then(|cache| cache.listing(None)) else { return };
            let files = names.filter(|(_, link)| link.kind == FileKind::Regular);
            files.take(most as usize * LOOKED_AT).map(|(name, link)| (name.clone(), link.ino)).collect()
        };
        let wants = self.contents_of(directory, candidates, most);
        self.blocks.fetch(&self.fetching, &wants);
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
        add(&self.fetching.counters.files_read_ahead, names.len() as u64);
        add(&self.fetching.counters.bytes_read_ahead, bytes);
        wants
    }

    /// What is missing here of a small file whose extents are known.
    fn missing_of(&self, ino: Ino) -> Vec<Want> {
        let Some(node) = self.nodes.table.get(ino) else { return Vec::new() };
        let state = node.lock();
        if !state.attr().is_some_and(|attr| attr.size > 0 && attr.size <= SMALL) {
            return Vec::new();
        }
        match plan(&self.nodes, &state, 0, SMALL) {
            Ok(Plan::Ready { parts, .. }) => missing_in(&parts, self.blocks.cache()),
            _ => Vec::new(),
        }
    }
}
