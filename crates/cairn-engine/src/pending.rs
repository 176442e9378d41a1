//! Blobs that are stored and not referenced yet, and from where on a restart must look for them.
//!
//! A blob is *pending* from the end of its append until a commit refers to it (or its session ends, or nobody came for it
//! for long). A restart finds pending blobs by scanning each pack from its recorded durable length on; that length
//! therefore never passes a pending blob, nor one whose append may not have been entered here yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_types::{BlobId, BlobPlace, PackId, SessionId};

use crate::lock_order;

#[derive(Debug)]
struct Pending {
    place: BlobPlace,
    /// `None` for one that was found after a restart.
    owner: Option<SessionId>,
    since: Instant,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<BlobId, Pending>,
    /// Where each of them begins, those being referenced left out.
    places: BTreeSet<(PackId, u64)>,
    /// Referenced by the round that is not committed yet.
    referenced: Vec<BlobId>,
    next_append: u64,
    /// Appends that have begun and are not entered.
    appending: BTreeSet<u64>,
    /// Lengths of packs that a flush made durable, with the first append that began after it.
    synced: VecDeque<(u64, Vec<(PackId, u64)>)>,
    /// Lengths that may be recorded as far as appends are concerned, and those that were.
    targets: BTreeMap<PackId, u64>,
    recorded: BTreeMap<PackId, u64>,
    /// Packs that are no more; a flush may still tell of one.
    gone: BTreeSet<PackId>,
}

/// Number of an append under way.
#[derive(Debug)]
pub(crate) struct Append(u64);

#[derive(Debug, Default)]
pub(crate) struct PendingBlobs(Mutex<State, lock_order::PendingBlobs>);

impl PendingBlobs {
    /// Notes that bytes are about to be appended; must be followed by [`PendingBlobs::finish_append`].
    pub(crate) fn begin_append(&self) -> Append {
        let mut state = self.0.lock();
        let number = state.next_append;
        state.next_append += 1;
        state.appending.insert(number);
        Append(number)
    }

    /// Enters what was appended (nothing, if that failed).
    pub(crate) fn finish_append(&self, append: Append, owner: Option<SessionId>, blobs: &[(BlobId, BlobPlace)]) {
        let mut state = self.0.lock();
        state.appending.remove(&append.0);
        for (blob, place) in blobs {
            state.enter(*blob, *place, owner);
        }
    }

    /// Enters a blob that a restart has found. `false` if it was found before, at another place.
    pub(crate) fn found(&self, blob: BlobId, place: BlobPlace) -> bool {
        let mut state = self.0.lock();
        let new = !state.blobs.contains_key(&blob);
        if new {
            state.enter(blob, place, None);
        }
        new
    }

    pub(crate) fn place(&self, blob: BlobId) -> Option<BlobPlace> {
        self.0.lock().blobs.get(&blob).map(|pending| pending.place)
    }

    /// Blobs that the round being filled refers to; they are no longer pending once it is committed.
    pub(crate) fn reference(&self, blobs: impl Iterator<Item = BlobId>) {
        let mut state = self.0.lock();
        for blob in blobs {
            if let Some(place) = state.blobs.get(&blob).map(|pending| pending.place) {
                state.places.remove(&(place.pack, place.offset));
                state.referenced.push(blob);
            }
        }
    }

    /// The round is committed.
    pub(crate) fn committed(&self) {
        let mut state = self.0.lock();
        for blob in std::mem::take(&mut state.referenced) {
            state.blobs.remove(&blob);
        }
    }

    /// Takes out blobs that nobody will refer to. Only between the changes of a round: what the round refers to stays.
    pub(crate) fn take_blobs(&self, blobs: &[BlobId]) -> Vec<BlobPlace> {
        let mut state = self.0.lock();
        blobs.iter().filter_map(|blob| state.take(*blob)).collect()
    }

    /// Takes out the blobs of a session; as [`PendingBlobs::take_blobs`].
    pub(crate) fn take_owned(&self, session: SessionId) -> Vec<BlobPlace> {
        let mut state = self.0.lock();
        let owned = state.blobs.iter().filter(|(_, pending)| pending.owner == Some(session));
        let owned: Vec<BlobId> = owned.map(|(blob, _)| *blob).collect();
        owned.into_iter().filter_map(|blob| state.take(blob)).collect()
    }

    /// Blobs that nobody has come for in `age`.
    pub(crate) fn older(&self, age: Duration) -> Vec<BlobId> {
        let state = self.0.lock();
        let old = state.blobs.iter().filter(|(_, pending)| pending.since.elapsed() > age);
        old.map(|(blob, _)| *blob).collect()
    }

    /// Whether a blob of this pack is pending, or may be because an append is under way that began before this call.
    pub(crate) fn may_be_in(&self, pack: PackId) -> bool {
        let state = self.0.lock();
        !state.appending.is_empty()
            || state.places.range((pack, 0)..=(pack, u64::MAX)).next().is_some()
            || state.referenced.iter().any(|blob| state.blobs.get(blob).is_some_and(|found| found.place.pack == pack))
    }

    /// What was recorded when the volume was opened.
    pub(crate) fn set_recorded(&self, lengths: impl Iterator<Item = (PackId, u64)>) {
        self.0.lock().recorded.extend(lengths);
    }

    /// A pack is no more.
    pub(crate) fn forget_pack(&self, pack: PackId) {
        let mut state = self.0.lock();
        state.gone.insert(pack);
        state.recorded.remove(&pack);
    }

    /// After a flush that made packs durable up to `synced`: the lengths to record along with the commit that comes now.
    pub(crate) fn durable_lengths(&self, synced: Vec<(PackId, u64)>) -> Vec<(PackId, u64)> {
        let mut state = self.0.lock();
        let next = state.next_append;
        state.synced.push_back((next, synced));
        let oldest = state.appending.first().copied().unwrap_or(next);
        while state.synced.front().is_some_and(|(began_after, _)| *began_after <= oldest) {
            let lengths = state.synced.pop_front().map(|(_, lengths)| lengths);
            state.targets.extend(lengths.unwrap_or_default());
        }
        let mut changed = Vec::new();
        for (pack, target) in std::mem::take(&mut state.targets) {
            if state.gone.contains(&pack) {
                continue;
            }
            let pending = state.places.range((pack, 0)..=(pack, u64::MAX)).next();
            let length = pending.map_or(target, |(_, offset)| target.min(*offset));
            if length < target {
                state.targets.insert(pack, target);
            }
            if length > state.recorded.get(&pack).copied().unwrap_or(0) {
                state.recorded.insert(pack, length);
                changed.push((pack, length));
            }
        }
        changed
    }
}

impl State {
    fn enter(&mut self, blob: BlobId, place: BlobPlace, owner: Option<SessionId>) {
        self.places.insert((place.pack, place.offset));
        if let Some(old) = self.blobs.insert(blob, Pending { place, owner, since: Instant::now() }) {
            self.places.remove(&(old.place.pack, old.place.offset));
        }
    }

    fn take(&mut self, blob: BlobId) -> Option<BlobPlace> {
        let place = self.blobs.get(&blob)?.place;
        if !self.places.remove(&(place.pack, place.offset)) {
            return None;
        }
        self.blobs.remove(&blob);
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: PackId = PackId(3);

    fn place(offset: u64) -> BlobPlace {
        BlobPlace { pack: PACK, offset, payload_len: 8, stored_len: 80 }
    }

    fn append(blobs: &PendingBlobs, blob: u64, offset: u64) {
        let number = blobs.begin_append();
        blobs.finish_append(number, Some(SessionId(1)), &[(BlobId(blob), place(offset))]);
    }

    #[test]
    fn the_recorded_length_never_passes_a_pending_blob() {
        let blobs = PendingBlobs::default();
        append(&blobs, 1, 100);
        append(&blobs, 2, 200);
        assert_eq!(blobs.durable_lengths(vec![(PACK, 300)]), [(PACK, 100)]);
        blobs.reference([BlobId(1)].into_iter());
        assert_eq!(blobs.durable_lengths(vec![]), [(PACK, 200)], "referenced by the commit that records it");
        blobs.committed();
        assert_eq!(blobs.place(BlobId(1)), None);
        assert_eq!(blobs.take_owned(SessionId(1)), [place(200)]);
        assert_eq!(blobs.durable_lengths(vec![]), [(PACK, 300)]);
        assert_eq!(blobs.durable_lengths(vec![]), []);
    }

    #[test]
    fn an_append_under_way_holds_the_recorded_length_back() {
        let blobs = PendingBlobs::default();
        let slow = blobs.begin_append();
        assert_eq!(blobs.durable_lengths(vec![(PACK, 300)]), []);
        blobs.finish_append(slow, None, &[(BlobId(1), place(150))]);
        assert_eq!(blobs.durable_lengths(vec![]), [(PACK, 150)]);
        let later = blobs.begin_append();
        blobs.reference([BlobId(1)].into_iter());
        assert_eq!(blobs.durable_lengths(vec![(PACK, 400)]), [(PACK, 300)]);
        blobs.finish_append(later, None, &[]);
        assert_eq!(blobs.durable_lengths(vec![]), [(PACK, 400)]);
    }

    #[test]
    fn what_a_round_refers_to_is_not_taken_away() {
        let blobs = PendingBlobs::default();
        append(&blobs, 1, 100);
        blobs.reference([BlobId(1)].into_iter());
        assert!(blobs.take_owned(SessionId(1)).is_empty());
        assert!(blobs.place(BlobId(1)).is_some(), "readable until the commit");
        assert!(blobs.may_be_in(PACK));
        blobs.committed();
        assert!(!blobs.may_be_in(PACK) && blobs.place(BlobId(1)).is_none());
    }
}
