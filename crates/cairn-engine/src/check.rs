//! Checking a volume while it is in use: metadata against its own invariants, packs against the metadata.
//!
//! A check reads one snapshot. Repairs are made only while nobody has the volume mounted, because a mount would go on
//! believing what it has cached.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use cairn_chunks::ChunkError;
use cairn_meta::check::{self as metadata, Finding};
use cairn_types::{BlobId, BlobPlace, Timestamp};
use cairn_wire::admin::{CheckOptions, CheckProgress};

use crate::committer::Kind;
use crate::{Inner, VolumeError};

/// Most problems that are told, one sentence each.
const TOLD_MAX: usize = 10_000;
/// Repairs may bring more to light; so often they are followed by another check.
const REPAIRS_MAX: usize = 8;

/// Where a check stands, and to whom that is told.
struct Report<'a> {
    state: CheckProgress,
    tell: &'a dyn Fn(CheckProgress),
}

impl Report<'_> {
    fn stage(&mut self, stage: &str, done: u64, total: u64) {
        stage.clone_into(&mut self.state.stage);
        (self.state.done, self.state.total) = (done, total);
        (self.tell)(self.state.clone());
    }

    fn problem(&mut self, sentence: String) {
        if self.state.problems.len() < TOLD_MAX {
            self.state.problems.push(sentence);
        }
    }
}

pub(crate) fn check(
    inner: &Arc<Inner>,
    options: &CheckOptions,
    tell: &dyn Fn(CheckProgress),
) -> Result<CheckProgress, VolumeError> {
    let _packs = inner.maintenance.packs.lock();
    let state =
        CheckProgress { stage: String::new(), done: 0, total: 0, finished: false, problems: Vec::new(), repaired: 0 };
    let mut report = Report { state, tell };
    let mut findings = check_metadata(inner, &mut report)?;
    if options.repair && !findings.is_empty() {
        if inner.sessions.is_empty() {
            findings = repair(inner, &mut report)?;
        } else {
            report
                .problem("nothing was repaired, because the volume is mounted: unmount it and check again".to_owned());
        }
    }
    for finding in &findings {
        report.problem(finding.to_string());
    }
    if options.data {
        check_data(inner, &mut report)?;
    }
    report.state.finished = true;
    report.stage("finished", 1, 1);
    Ok(report.state)
}

fn check_metadata(inner: &Inner, report: &mut Report<'_>) -> Result<Vec<Finding>, VolumeError> {
    let snapshot = inner.snapshot()?;
    Ok(metadata::check(&snapshot, &mut |at| report.stage(at.stage, at.done, at.total))?)
}

/// Repairs until nothing more can be; answers what is left.
fn repair(inner: &Arc<Inner>, report: &mut Report<'_>) -> Result<Vec<Finding>, VolumeError> {
    let mut left = Vec::new();
    for _ in 0..REPAIRS_MAX {
        report.stage("repairing", 0, 1);
        let shared = Arc::clone(inner);
        let outcome = inner.committer.submit_blocking(Kind::Alone, move |round| {
            // In a round of its own, the batch begins where the snapshot is.
            let findings = metadata::check(&shared.snapshot().map_err(|failure| failure.message)?, &mut |_| {})
                .map_err(|error| error.to_string())?;
            let stored = OnceCell::new();
            let find = |blob: BlobId| stored.get_or_init(|| all_blobs(&shared)).get(&blob).copied();
            metadata::repair(round.batch, findings, Timestamp::now(), &find).map_err(|error| error.to_string())
        })?;
        let outcome = outcome.map_err(VolumeError::Refused)?;
        report.state.repaired += outcome.repaired as u64;
        left = outcome.left;
        if outcome.repaired == 0 {
            break;
        }
    }
    Ok(left)
}

/// Every blob that can be recognised in the packs.
fn all_blobs(inner: &Inner) -> HashMap<BlobId, BlobPlace> {
    let mut blobs = HashMap::new();
    for pack in inner.blob_store.packs() {
        let Ok(stored) = inner.blob_store.blobs(pack) else { continue };
        blobs.extend(stored.flatten().map(|stored| (stored.blob, stored.place)));
    }
    blobs
}

/// Reads and verifies every live blob.
fn check_data(inner: &Inner, report: &mut Report<'_>) -> Result<(), VolumeError> {
    let records = inner.snapshot()?.pack_records()?;
    let total = records.iter().map(|(_, record)| record.live_bytes).sum();
    let mut done = 0;
    for (pack, record) in records {
        report.stage("data", done, total);
        done += record.live_bytes;
        let mut live = Vec::new();
        let mut makers = HashMap::new();
        match inner.blob_store.blobs(pack) {
            Ok(stored) => {
                let snapshot = inner.snapshot()?;
                for found in stored.flatten() {
                    let record = snapshot.blob_record(found.blob)?;
                    if record.is_some_and(|record| record.place == found.place) {
                        live.push((found.blob, found.place));
                        makers.insert(found.blob, found.ino);
                    }
                }
                let now = snapshot.pack_records()?.into_iter().find(|(other, _)| *other == pack);
                let expected = now.map_or(0, |(_, record)| record.live_blobs);
                if (live.len() as u64) < expected {
                    let missing = expected - live.len() as u64;
                    report.problem(format!("pack {pack}: {missing} blobs that are in use cannot be found in it"));
                }
            }
            Err(ChunkError::NoSuchPack(_)) if record.live_blobs == 0 => continue,
            Err(error) => {
                report.problem(format!("pack {pack}: {error}"));
                continue;
            }
        }
        // In pieces, so that the progress moves on.
        let of_pack = done - record.live_bytes;
        let mut verified = 0;
        for piece in live.chunks(256) {
            match inner.blob_store.verify_pack(pack, piece) {
                Ok(problems) => {
                    for problem in problems {
                        // Copies of a file share its blobs, so this need not be the only one that suffers.
                        let maker = problem.blob.and_then(|blob| makers.get(&blob));
                        let file = maker.map(|ino| format!("; it was written for inode {ino}")).unwrap_or_default();
                        report.problem(format!("{problem}{file}"));
                    }
                }
                Err(ChunkError::NoSuchPack(_)) => break,
                Err(error) => report.problem(format!("pack {pack}: {error}")),
            }
            verified += piece.iter().map(|(_, place)| u64::from(place.stored_len)).sum::<u64>();
            report.stage("data", of_pack + verified, total);
        }
    }
    Ok(())
}
