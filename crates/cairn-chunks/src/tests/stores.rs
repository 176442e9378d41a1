//! What every blob store promises, asked of each.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::{BlobStore, BlobStoreOpener, LocalPacks, MemoryBlobs, Wait};

/// Where a store lies that can crash.
trait Place {
    fn new() -> Self;
    fn opener(&self) -> &dyn BlobStoreOpener;
    /// Loses what no sync has covered, or keeps it: both may happen.
    fn crash(&self);
}

struct Local {
    packs: LocalPacks,
    _directory: TempDir,
}

impl Place for Local {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { pack_limit: 100_000, writers: 1, open_files: 4 };
        Local { packs: LocalPacks::new(directory.path().join("packs"), options), _directory: directory }
    }

    fn opener(&self) -> &dyn BlobStoreOpener {
        &self.packs
    }

    fn crash(&self) {}
}

impl Place for MemoryBlobs {
    fn new() -> Self {
        MemoryBlobs::default()
    }

    fn opener(&self) -> &dyn BlobStoreOpener {
        self
    }

    fn crash(&self) {
        self.crash();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Read(Index, Index, Index),
    Free(Vec<Index>),
    Sync,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![6 => 1..3000usize, 2 => 3000..60_000usize];
    let step = prop_oneof![
        6 => prop::collection::vec(length, 0..6).prop_map(Step::Append),
        4 => (any::<Index>(), any::<Index>(), any::<Index>()).prop_map(|(blob, from, to)| Step::Read(blob, from, to)),
        3 => prop::collection::vec(any::<Index>(), 1..8).prop_map(Step::Free),
        2 => Just(Step::Sync),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..50)
}

/// A store and what it must hold.
struct Model<P> {
    place: P,
    store: std::sync::Arc<dyn BlobStore>,
    alive: BTreeMap<u64, BlobPlace>,
    freed: Vec<(u64, BlobPlace)>,
    /// What metadata would know.
    known: BTreeMap<PackId, u64>,
    next: u64,
}

impl<P: Place> Model<P> {
    fn new() -> Self {
        let place = P::new();
        let (store, recovery) = place.opener().open(&[]).unwrap();
        assert!(recovery.blobs.is_empty() && recovery.problems.is_empty());
        Model { place, store, alive: BTreeMap::new(), freed: Vec::new(), known: BTreeMap::new(), next: 1 }
    }

    fn pick(&self, index: &Index) -> Option<(u64, BlobPlace)> {
        let alive: Vec<_> = self.alive.iter().map(|(id, place)| (*id, *place)).collect();
        (!alive.is_empty()).then(|| *index.get(&alive))
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append(lengths) => {
                let batch: Vec<NewBlob> = (self.next..).zip(lengths).map(|(id, length)| blob(id, *length)).collect();
                self.next += batch.len() as u64;
                let places = self.store.append(&batch).unwrap();
                assert_eq!(places.len(), batch.len());
                self.alive.extend(batch.iter().map(|blob| blob.id.0).zip(places));
                // A pack that is full is deleted if nothing in it is alive.
                self.forget_deleted();
            }
            Step::Read(which, from, to) => {
                let Some((id, place)) = self.pick(which) else { return };
                let length = place.payload_len as usize;
                let (from, to) = (from.index(length), to.index(length + 1));
                let range = from.min(to) as u32..from.max(to) as u32;
                let read = self.store.read(BlobId(id), &place, range.clone(), Wait::Storage).unwrap();
                let bytes = read.verified(range.clone()).unwrap();
                assert!(bytes == payload(id, length)[range.start as usize..range.end as usize]);
                let beyond = self.store.read(BlobId(id), &place, 0..place.payload_len + 1, Wait::Storage);
                assert!(matches!(beyond, Err(ChunkError::OutOfRange { .. })));
            }
            Step::Free(which) => {
                let chosen: BTreeMap<u64, BlobPlace> = which.iter().filter_map(|index| self.pick(index)).collect();
                let places: Vec<BlobPlace> = chosen.values().copied().collect();
                let freed = self.store.free(&places).unwrap();
                self.alive.retain(|id, _| !chosen.contains_key(id));
                self.freed.extend(chosen);
                for pack in freed.deleted {
                    assert!(self.alive.values().all(|place| place.pack != pack) && !self.store.packs().contains(&pack));
                }
                self.forget_deleted();
                self.store.free(&places).expect("twice does no harm");
            }
            Step::Sync => self.known.extend(self.store.sync().unwrap()),
            Step::Crash => self.crash(),
        }
    }

    fn forget_deleted(&mut self) {
        let packs = self.store.packs();
        self.known.retain(|pack, _| packs.contains(pack));
    }

    fn crash(&mut self) {
        self.place.crash();
        let known: Vec<(PackId, u64)> = self.known.iter().map(|(pack, length)| (*pack, *length)).collect();
        let (store, recovery) = self.place.opener().open(&known).unwrap();
        // Holes of what was freed and not synced look like damage, as the metadata know better.
        let harmed =
            recovery.problems.iter().filter_map(|problem| problem.blob).find(|id| self.alive.contains_key(&id.0));
        assert_eq!(harmed, None, "{:?}", recovery.problems);
        self.store = store;
        let found: BTreeMap<u64, BlobPlace> = recovery.blobs.iter().map(|found| (found.blob.0, found.place)).collect();
        let durable = |place: &BlobPlace| self.known.get(&place.pack).is_some_and(|length| place.end() <= *length);
        self.alive.retain(|id, place| durable(place) || found.get(id) == Some(place));
        self.freed.clear();
        for found in &recovery.blobs {
            assert_eq!((found.ino, found.chunk), (Ino(1000 + found.blob.0), 3));
            self.store.verify(found.blob, &found.place).unwrap();
        }
    }

    fn check(&self) {
        for (id, place) in &self.alive {
            self.store.verify(BlobId(*id), place).unwrap();
        }
        for (id, place) in &self.freed {
            let read = self.store.read(BlobId(*id), place, 0..1, Wait::Storage);
            assert!(matches!(read, Err(ChunkError::Gone { .. })), "{read:?}");
        }
        for pack in self.store.packs() {
            let live: Vec<(BlobId, BlobPlace)> =
                self.alive.iter().filter(|(_, at)| at.pack == pack).map(|(id, at)| (BlobId(*id), *at)).collect();
            assert_eq!(self.store.verify_pack(pack, &live).unwrap(), []);
            let stored: Vec<_> = self.store.blobs(pack).unwrap().map(|blob| blob.unwrap()).collect();
            assert!(live.iter().all(|(id, at)| stored.iter().any(|blob| (blob.blob, blob.place) == (*id, *at))));
        }
        let live: u64 = self.alive.values().map(|place| u64::from(place.payload_len)).sum();
        assert!(self.store.stored_bytes().unwrap() >= live);
    }
}

fn agrees_with_a_table<P: Place>(steps: &[Step]) {
    let mut model = Model::<P>::new();
    for step in steps {
        model.run(step);
    }
    model.check();
    model.crash();
    model.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn packs_in_a_directory_agree_with_a_table(steps in steps()) {
        agrees_with_a_table::<Local>(&steps);
    }

    #[test]
    fn objects_in_memory_agree_with_a_table(steps in steps()) {
        agrees_with_a_table::<MemoryBlobs>(&steps);
    }
}
