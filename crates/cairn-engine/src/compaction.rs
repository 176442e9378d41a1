//! Rewriting packs of which little is alive, so that their space comes back.
//!
//! The order that makes it safe: seal, copy, let the metadata point at the copies, make that durable, then free the old
//! places. A crash in between leaves copies that nothing points at, or old places that nothing points at; never a blob
//! without bytes.

use std::collections::HashMap;
use std::time::Duration;

use cairn_chunks::{Compact, Move};
use cairn_meta::PackRecord;
use cairn_types::{BlobPlace, PackId};

use crate::Inner;
use crate::committer::Kind;

/// Packs shorter than this are left alone, in bytes.
const PACK_MIN: u64 = 1024 * 1024;
/// A pack that is still written to is only worth sealing from this length on, in bytes.
const UNSEALED_MIN: u64 = 16 * 1024 * 1024;
/// Bytes copied a second, on average.
const RATE: u64 = 64 * 1024 * 1024;
/// Blobs whose places are changed in one step.
const STEP: usize = 512;

/// Looks for the pack that is most worth it and rewrites it.
pub(crate) fn compact_one(inner: &Inner) {
    let Some(store) = inner.blob_store.compaction() else { return };
    let Some(_packs) = inner.maintenance.packs.try_lock() else { return };
    let Ok(snapshot) = inner.snapshot() else { return };
    let (Ok(records), Ok(stats)) = (snapshot.pack_records(), store.pack_stats()) else { return };
    drop(snapshot);
    let live: HashMap<PackId, PackRecord> = records.into_iter().collect();
    let candidate = stats
        .iter()
        .filter(|stats| stats.length >= if stats.sealed { PACK_MIN } else { UNSEALED_MIN })
        .map(|stats| (stats, live.get(&stats.pack).map_or(0, |record| record.live_bytes)))
        .filter(|(stats, live)| stats.on_disk >= PACK_MIN && live * 2 < stats.on_disk)
        .max_by_key(|(stats, live)| stats.on_disk - live);
    if let Some((stats, live)) = candidate {
        rewrite(inner, store, stats.pack, live);
    }
}

fn rewrite(inner: &Inner, store: &dyn Compact, pack: PackId, live: u64) {
    tracing::debug!(volume = %inner.id, %pack, live, "rewriting a pack");
    if let Err(error) = store.seal(pack) {
        tracing::warn!(volume = %inner.id, %pack, %error, "a pack cannot be sealed");
        return;
    }
    // Blobs that wait for their metadata keep their place: another time.
    if inner.blobs.may_be_in(pack) || (live > 0 && !copy_live(inner, store, pack)) {
        return;
    }
    // Nothing new can come into a sealed pack; whether it is empty is the committer's to say.
    let Some(shared) = inner.weak.upgrade() else { return };
    let empty = inner.committer.submit_blocking(Kind::Durable, move |round| {
        if shared.blobs.may_be_in(pack) {
            return Ok(false);
        }
        let dropped = round.batch.drop_pack(pack);
        let dropped = round.answer(dropped)?;
        if dropped {
            shared.blobs.forget_pack(pack);
        }
        Ok::<bool, cairn_types::Errno>(dropped)
    });
    if !matches!(empty, Ok(Ok(true))) {
        return;
    }
    match store.delete(pack) {
        Ok(()) | Err(cairn_chunks::ChunkError::NoSuchPack(_)) => inner.counters.packs_compacted.add(1),
        Err(error) => tracing::error!(volume = %inner.id, %pack, %error, "a dead pack cannot be deleted"),
    }
}

/// Moves what is alive out of a sealed pack. Whether all of it could be moved.
fn copy_live(inner: &Inner, store: &dyn Compact, pack: PackId) -> bool {
    let mut is_live = |blob, place: &BlobPlace| {
        let record = inner.snapshot().ok().and_then(|snapshot| snapshot.blob_record(blob).ok().flatten());
        record.is_some_and(|record| record.place == *place)
    };
    let compaction = match store.compact(pack, &mut is_live) {
        Ok(compaction) => compaction,
        Err(error) => {
            tracing::warn!(volume = %inner.id, %pack, %error, "a pack cannot be rewritten");
            return false;
        }
    };
    for problem in &compaction.problems {
        inner.counters.blobs_damaged.add(1);
        tracing::error!(volume = %inner.id, %problem, "stored bytes are damaged");
    }
    if let Some(error) = &compaction.stopped_by {
        tracing::warn!(volume = %inner.id, %pack, %error, "rewriting a pack was stopped");
    }
    let mut dead = Vec::new();
    let mut bytes = 0;
    for step in compaction.moved.chunks(STEP) {
        let moves: Vec<Move> = step.to_vec();
        let moved = inner.committer.submit_blocking(Kind::Normal, move |round| {
            let mut outcomes = Vec::with_capacity(moves.len());
            for step in &moves {
                let moved = round.batch.relocate_blob(step.blob, step.from, step.to);
                outcomes.push(round.answer(moved).unwrap_or(false));
            }
            outcomes
        });
        let Ok(moved) = moved else { return false };
        for (step, moved) in step.iter().zip(moved) {
            // What has died meanwhile is dead at both places; its old one is freed by whoever let it die.
            dead.push(if moved { step.from } else { step.to });
            bytes += u64::from(step.from.stored_len);
        }
    }
    inner.counters.bytes_compacted.add(bytes);
    if inner.committer.submit_blocking(Kind::Durable, |_| ()).is_err() {
        return false;
    }
    inner.maintenance.free(dead);
    let time = Duration::from_millis(bytes.saturating_mul(1000) / RATE);
    inner.maintenance.pause(time) && compaction.problems.is_empty() && compaction.stopped_by.is_none()
}
