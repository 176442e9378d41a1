//! Flushing packs to stable storage, in rounds that callers share.
//!
//! A caller joins the round that is *gathering*. Once no round is running, one of those who wait in it runs it: it
//! takes everything that has been written, flushes it, and hands the outcome to all of them. What was written before a
//! caller came is therefore always covered, and however many callers come during one flush, there is one more.
//!
//! A flush that fails stops all writing for good: the kernel may have dropped the pages it could not write and forgets
//! the error, so a second attempt would succeed without having stored anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use cairn_locks::{Condvar, Mutex};
use cairn_types::PackId;

use crate::error::{ChunkError, Poison};
use crate::files::PackFiles;
use crate::lock_order;
use crate::store::PackStore;
use crate::sys;
use crate::tails::Tail;

/// How many bytes of each pack that changed are durable.
type DurableLengths = Vec<(PackId, u64)>;

#[derive(Debug, Default)]
pub(crate) struct Flusher {
    state: Mutex<FlushState, lock_order::FlushRounds>,
    round_ended: Condvar,
    poison: OnceLock<Poison>,
}

#[derive(Debug, Default)]
struct FlushState {
    unflushed: Unflushed,
    running: bool,
    gathering: Arc<Round>,
}

#[derive(Debug, Default)]
struct Unflushed {
    packs: BTreeMap<PackId, UnflushedPack>,
    /// A pack was made or deleted.
    directory: bool,
}

#[derive(Debug)]
struct UnflushedPack {
    /// Kept open: the kernel reports a failed write to descriptors that were open when it failed.
    file: Arc<File>,
    /// Bytes before this are flushed, or stored elsewhere until they are.
    stored: u64,
    /// End of the last whole record, in bytes.
    length: u64,
}

#[derive(Debug, Default)]
struct Round {
    outcome: OnceLock<Result<DurableLengths, Poison>>,
}

impl Flusher {
    /// `pack` has been written from `start` up to `length`.
    pub(crate) fn add(&self, pack: PackId, file: &Arc<File>, start: u64, length: u64) {
        let mut state = self.state.lock();
        let known = state.unflushed.packs.get(&pack).map_or(start, |known| known.stored.min(start));
        let unflushed = UnflushedPack { file: Arc::clone(file), stored: known, length };
        state.unflushed.packs.insert(pack, unflushed);
    }

    /// What is neither flushed nor stored elsewhere, unless it is more than `most` bytes; from now on it counts as stored.
    pub(crate) fn take_tails(&self, most: u64) -> Option<Vec<Tail>> {
        let mut state = self.state.lock();
        // What a flush under way has taken may not be durable yet.
        if state.running || state.unflushed.directory || self.poison.get().is_some() {
            return None;
        }
        let total: u64 = state.unflushed.packs.values().map(|pack| pack.length - pack.stored).sum();
        if total > most {
            return None;
        }
        let mut tails = Vec::new();
        for (&pack, unflushed) in &mut state.unflushed.packs {
            let start = std::mem::replace(&mut unflushed.stored, unflushed.length);
            if start < unflushed.length {
                tails.push(Tail { pack, file: Arc::clone(&unflushed.file), start, end: unflushed.length });
            }
        }
        Some(tails)
    }

    pub(crate) fn add_directory(&self) {
        self.state.lock().unflushed.directory = true;
    }

    /// `pack` has been deleted.
    pub(crate) fn forget(&self, pack: PackId) {
        let mut state = self.state.lock();
        state.unflushed.packs.remove(&pack);
        state.unflushed.directory = true;
    }

    /// Fails after a failed flush.
    pub(crate) fn check(&self) -> Result<(), ChunkError> {
        self.poison.get().map_or(Ok(()), |poison| Err(ChunkError::Poisoned(poison.clone())))
    }

    fn flush(&self, files: &PackFiles) -> Result<DurableLengths, Poison> {
        let mut state = self.state.lock();
        let round = Arc::clone(&state.gathering);
        loop {
            if let Some(outcome) = round.outcome.get() {
                return outcome.clone();
            }
            if !state.running {
                break;
            }
            self.round_ended.wait(&mut state);
        }
        state.running = true;
        state.gathering = Arc::default();
        let unflushed = std::mem::take(&mut state.unflushed);
        drop(state);

        let outcome = match self.poison.get() {
            Some(poison) => Err(poison.clone()),
            None => flush_all(files, unflushed).inspect_err(|poison| {
                tracing::error!(%poison, "flush failed; the store takes no more writes");
                self.poison.get_or_init(|| poison.clone());
            }),
        };

        let mut state = self.state.lock();
        state.running = false;
        let outcome = round.outcome.get_or_init(|| outcome).clone();
        drop(state);
        self.round_ended.notify_all();
        outcome
    }
}

fn flush_all(files: &PackFiles, unflushed: Unflushed) -> Result<DurableLengths, Poison> {
    let poison = |file: &Path, error: std::io::Error| Poison { file: file.to_owned(), reason: error.to_string() };
    let mut durable = Vec::with_capacity(unflushed.packs.len());
    for (pack, unflushed) in unflushed.packs {
        sys::sync_data(&unflushed.file).map_err(|error| poison(&files.path(pack), error))?;
        durable.push((pack, unflushed.length));
    }
    if unflushed.directory {
        let directory = files.directory();
        File::open(directory).and_then(|file| file.sync_all()).map_err(|error| poison(directory, error))?;
    }
    Ok(durable)
}

impl PackStore {
    /// Makes everything durable whose append returned before this call. Callers at the same time share the work.
    ///
    /// Returns the durable length, in bytes, of every pack that this flush covered and that still exists: what
    /// [`PackStore::open`] wants to be told. It is a lower bound, so an older value does no harm.
    ///
    /// # Errors
    /// [`ChunkError::Poisoned`] if this or an earlier flush failed.
    pub fn sync(&self) -> Result<Vec<(PackId, u64)>, ChunkError> {
        let mut durable = self.flusher.flush(&self.files).map_err(ChunkError::Poisoned)?;
        let packs = self.packs.read();
        durable.retain(|(pack, _)| packs.contains_key(pack));
        Ok(durable)
    }
}
