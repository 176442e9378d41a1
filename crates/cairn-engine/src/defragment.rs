//! Putting a chunk together again that small overwrites have cut into many extents.

use cairn_chunks::{NewBlob, Wait};
use cairn_meta::FRAGMENTS_MAX;
use cairn_types::checksum::{blob_hash, block_checksums};
use cairn_types::{BlobId, Extent, ExtentList, Ino, Source};

use crate::Inner;
use crate::committer::Kind;

/// Rewrites a chunk's bytes as few blobs, unless it has changed or there is nothing to be gained.
pub(crate) fn defragment(inner: &Inner, ino: Ino, chunk: u32) {
    let Some(old) = current_extents(inner, ino, chunk) else { return };
    let runs = runs(&old);
    let separate = old.as_slice().iter().filter(|extent| extent.source == Source::Zeros).count() + runs.len();
    if old.as_slice().len() <= FRAGMENTS_MAX || separate * 2 > old.as_slice().len() || inner.disk.is_full() {
        return;
    }
    let Some(payloads) = runs.iter().map(|run| read_run(inner, run)).collect::<Option<Vec<_>>>() else { return };
    let count = payloads.len() as u64;
    let Ok(BlobId(first)) =
        inner.committer.submit_blocking(Kind::Normal, move |round| round.batch.allocate_blobs(count))
    else {
        return;
    };
    let mut new = old.clone();
    let mut blobs = Vec::with_capacity(payloads.len());
    for ((run, payload), number) in runs.iter().zip(payloads).zip(first..) {
        let Some(start) = run.first().map(|extent| extent.offset) else { continue };
        let length = payload.len() as u32;
        new.write(Extent { offset: start, length, source: Source::Blob { blob: BlobId(number), offset: 0 } });
        let (checksums, hash) = (block_checksums(&payload), blob_hash(&payload));
        blobs.push(NewBlob { id: BlobId(number), ino, chunk, payload: payload.into(), checksums, hash });
    }
    let append = inner.blobs.begin_append();
    let placed: Vec<_> = match inner.blob_store.append(&blobs) {
        Ok(places) => blobs.iter().map(|blob| blob.id).zip(places).collect(),
        Err(error) => {
            tracing::warn!(volume = %inner.id, %error, "a fragmented chunk could not be rewritten");
            Vec::new()
        }
    };
    inner.blobs.finish_append(append, None, &placed);
    if placed.len() < blobs.len() {
        return;
    }
    let Some(shared) = inner.weak.upgrade() else { return };
    let ids: Vec<BlobId> = placed.iter().map(|(blob, _)| *blob).collect();
    let replaced = inner.committer.submit_blocking(Kind::Normal, move |round| {
        let replaced = round.batch.replace_extents(ino, chunk, &old, &new, &|blob| shared.blobs.place(blob));
        let replaced = round.answer(replaced).unwrap_or(false);
        if replaced {
            shared.blobs.reference(ids.into_iter());
        }
        replaced
    });
    if matches!(replaced, Ok(true)) {
        inner.counters.chunks_defragmented.add(1);
    } else {
        // It was written to meanwhile; if it still needs it, it is listed again.
        inner.maintenance.discard_blobs(blobs.iter().map(|blob| blob.id).collect());
    }
}

fn current_extents(inner: &Inner, ino: Ino, chunk: u32) -> Option<ExtentList> {
    let found = inner.snapshot().ok()?.extents(ino, chunk, 1).ok()?;
    found.into_iter().next().map(|(_, list)| list)
}

/// Groups of extents that follow one another without a hole and together fit one blob.
fn runs(list: &ExtentList) -> Vec<Vec<Extent>> {
    let mut runs: Vec<Vec<Extent>> = Vec::new();
    for extent in list.as_slice().iter().filter(|extent| extent.source != Source::Zeros) {
        let fits = runs.last().and_then(|run| Some((run.first()?, run.last()?))).is_some_and(|(first, last)| {
            last.end() == extent.offset && extent.end() - first.offset <= cairn_wire::BLOB_MAX
        });
        match runs.last_mut().filter(|_| fits) {
            Some(run) => run.push(*extent),
            None => runs.push(vec![*extent]),
        }
    }
    runs
}

/// The verified bytes of a run. `None` if a blob is gone (the chunk has changed) or damaged (it stays as it is).
fn read_run(inner: &Inner, run: &[Extent]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for extent in run {
        let Source::Blob { blob, offset } = extent.source else { return None };
        let place = inner.snapshot().ok()?.blob_record(blob).ok()??.place;
        let end = offset.checked_add(extent.length)?;
        let read = inner.blob_store.read(blob, &place, offset..end, Wait::Storage).ok()?;
        bytes.extend_from_slice(&read.verified(offset..end).ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_at_holes_and_zeros() {
        let blob = |number: u64| Source::Blob { blob: BlobId(number), offset: 0 };
        let extents = [(0, 4, blob(1)), (4, 4, blob(2)), (8, 4, Source::Zeros), (12, 4, blob(3)), (20, 4, blob(4))];
        let extents = extents.map(|(offset, length, source)| Extent { offset, length, source });
        let list = ExtentList::from_extents(extents.to_vec(), 64).expect("valid");
        let lengths: Vec<usize> = runs(&list).iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1, 1]);
    }
}
