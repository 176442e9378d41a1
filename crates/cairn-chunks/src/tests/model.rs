//! Random histories of a store against a table of what it must hold, with crashes that damage what was not durable.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Read(Index, Index, Index),
    Free(Vec<Index>),
    Sync,
    Seal(Index),
    /// Everything alive moves out of a sealed pack, which then dies.
    Compact(Index),
    Crash(Crash),
}

#[derive(Clone, Debug)]
enum Crash {
    Killed,
    /// The end of a pack's unflushed tail is missing.
    Cut(Index, Index),
    /// A bit of a pack's unflushed tail is wrong.
    Flip(Index, Index, u8),
    /// A range of a pack's unflushed tail was never written.
    Hole(Index, Index, Index),
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![6 => 1..3000usize, 2 => 3000..40_000usize, 1 => 40_000..200_000usize];
    let crash = prop_oneof![
        Just(Crash::Killed),
        (any::<Index>(), any::<Index>()).prop_map(|(pack, at)| Crash::Cut(pack, at)),
        (any::<Index>(), any::<Index>(), 0..8u8).prop_map(|(pack, at, bit)| Crash::Flip(pack, at, bit)),
        (any::<Index>(), any::<Index>(), any::<Index>()).prop_map(|(pack, from, to)| Crash::Hole(pack, from, to)),
    ];
    prop_oneof![
        6 => prop::collection::vec(length, 1..8).prop_map(Step::Append),
        4 => (any::<Index>(), any::<Index>(), any::<Index>()).prop_map(|(blob, from, to)| Step::Read(blob, from, to)),
        3 => prop::collection::vec(any::<Index>(), 1..10).prop_map(Step::Free),
        2 => Just(Step::Sync),
        1 => any::<Index>().prop_map(Step::Seal),
        1 => any::<Index>().prop_map(Step::Compact),
        2 => crash.prop_map(Step::Crash),
    ]
}

/// The store and what it must hold.
struct Model {
    fixture: Fixture,
    store: PackStore,
    alive: BTreeMap<u64, BlobPlace>,
    freed: Vec<BlobPlace>,
    next_blob: u64,
}

impl Model {
    fn new() -> Self {
        let fixture = Fixture::new(150_000);
        let (store, _) = fixture.open();
        Model { fixture, store, alive: BTreeMap::new(), freed: Vec::new(), next_blob: 1 }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Append(lengths) => {
                let ids = self.next_blob..;
                let batch: Vec<NewBlob> = ids.zip(lengths).map(|(id, length)| blob(id, length)).collect();
                self.next_blob += batch.len() as u64;
                let places = self.store.append(&batch).unwrap();
                self.alive.extend(batch.iter().map(|blob| blob.id.0).zip(places));
            }
            Step::Read(which, from, to) => self.read(which, from, to),
            Step::Free(which) => {
                let ids: Vec<u64> = which.iter().filter_map(|index| self.pick(index)).collect();
                let places: Vec<BlobPlace> = ids.iter().filter_map(|id| self.alive.remove(id)).collect();
                self.free(&places);
            }
            Step::Sync => self.fixture.sync(&self.store),
            Step::Seal(which) => {
                if let Some(pack) = self.pick_pack(&which) {
                    self.store.seal(pack).unwrap();
                    self.forget_deleted();
                }
            }
            Step::Compact(which) => {
                let Some(pack) = self.pick_pack(&which) else { return };
                self.store.seal(pack).unwrap();
                if self.store.pack_ids().contains(&pack) {
                    self.compact(pack);
                }
                self.forget_deleted();
            }
            Step::Crash(crash) => self.crash(&crash),
        }
    }

    fn pick(&self, index: &Index) -> Option<u64> {
        let ids: Vec<u64> = self.alive.keys().copied().collect();
        (!ids.is_empty()).then(|| *index.get(&ids))
    }

    fn pick_pack(&self, index: &Index) -> Option<PackId> {
        let packs = self.store.pack_ids();
        (!packs.is_empty()).then(|| *index.get(&packs))
    }

    fn read(&self, which: Index, from: Index, to: Index) {
        if let Some(id) = self.pick(&which) {
            let place = &self.alive[&id];
            let length = place.payload_len as usize;
            let (from, to) = (from.index(length), to.index(length + 1));
            let (from, to) = (from.min(to), from.max(to));
            let data = self.store.read_verified(BlobId(id), place, from as u32..to as u32).unwrap();
            assert!(data == payload(id, length)[from..to]);
        }
        if let Some(place) = self.freed.last() {
            assert!(matches!(self.store.read(BlobId(0), place, 0..1), Err(ChunkError::Gone { .. })));
        }
    }

    fn free(&mut self, places: &[BlobPlace]) {
        self.store.free(places).unwrap();
        self.freed.extend(places);
        self.forget_deleted();
    }

    /// The metadata drops its row of a pack that is no more.
    fn forget_deleted(&mut self) {
        let packs = self.store.pack_ids();
        self.fixture.durable.retain(|pack, _| packs.contains(pack));
    }

    fn compact(&mut self, pack: PackId) {
        let compaction = self.store.compact(pack, |blob, place| self.alive.get(&blob.0) == Some(place)).unwrap();
        assert!(compaction.problems.is_empty() && compaction.stopped_by.is_none());
        let expected = self.alive.values().filter(|place| place.pack == pack).count();
        assert_eq!(compaction.moved.len(), expected);
        for moved in &compaction.moved {
            assert_eq!(self.alive.insert(moved.blob.0, moved.to), Some(moved.from));
        }
        self.fixture.sync(&self.store);
        let old: Vec<BlobPlace> = compaction.moved.iter().map(|moved| moved.from).collect();
        self.free(&old);
        // Blobs freed before the store was opened last are not known to be dead; the metadata knows.
        if self.store.pack_ids().contains(&pack) {
            self.store.delete(pack).unwrap();
        }
    }

    fn crash(&mut self, crash: &Crash) {
        let packs = self.store.pack_ids();
        let durable = |pack: PackId| self.fixture.durable.get(&pack).copied().unwrap_or(64);
        // Bytes of one pack that may be lost.
        let mut lost: Option<(PackId, u64, u64)> = None;
        if !packs.is_empty() {
            let tail = |index: &Index| {
                let pack = *index.get(&packs);
                let (start, end) = (durable(pack), self.fixture.length(pack));
                (start < end).then_some((pack, start, end))
            };
            let at = |index: &Index, start: u64, end: u64| start + index.index((end - start) as usize) as u64;
            lost = match crash {
                Crash::Killed => None,
                Crash::Cut(pack, index) => tail(pack).map(|(pack, start, end)| (pack, at(index, start, end), end)),
                Crash::Flip(pack, index, _) => tail(pack).map(|(pack, start, end)| {
                    let at = at(index, start, end);
                    (pack, at, at + 1)
                }),
                Crash::Hole(pack, from, to) => tail(pack).map(|(pack, start, end)| {
                    let (from, to) = (at(from, start, end), at(to, start, end));
                    (pack, from.min(to), from.max(to))
                }),
            };
        }
        if let Some((pack, start, end)) = lost {
            self.fixture.damage(pack, |bytes| match crash {
                Crash::Killed => {}
                Crash::Cut(..) => bytes.truncate(start as usize),
                Crash::Flip(_, _, bit) => bytes[start as usize] ^= 1 << bit,
                Crash::Hole(..) => bytes[start as usize..end as usize].fill(0),
            });
        }

        let unflushed: BTreeMap<u64, BlobPlace> = self
            .alive
            .iter()
            .filter(|(_, place)| place.offset >= durable(place.pack))
            .map(|(&id, &at)| (id, at))
            .collect();
        let (store, recovery) = self.fixture.open();
        self.store = store;
        self.freed.clear();
        // A dead pack may be deleted before the metadata has dropped its row.
        for problem in recovery.problems.iter().filter(|problem| problem.kind == crate::ProblemKind::MissingFile) {
            assert!(self.alive.values().all(|place| place.pack != problem.pack), "{problem}");
            self.store.seal(problem.pack).unwrap();
        }
        let found: BTreeMap<u64, BlobPlace> = recovery.blobs.iter().map(|blob| (blob.blob.0, blob.place)).collect();
        for blob in &recovery.blobs {
            assert_intact(&self.store, blob.blob.0, &blob.place);
        }
        for (id, place) in unflushed {
            let harmed =
                lost.is_some_and(|(pack, start, end)| pack == place.pack && place.offset < end && start < place.end());
            match found.get(&id) {
                Some(there) if *there == place => {}
                other => {
                    assert!(harmed, "blob {id} was at {place:?}, found {other:?}, damage {lost:?}");
                    self.alive.remove(&id);
                }
            }
        }
        self.forget_deleted();
    }

    fn check(&self) {
        for (id, place) in &self.alive {
            self.store.verify_blob(BlobId(*id), place).unwrap();
            assert_intact(&self.store, *id, place);
        }
        for pack in self.store.pack_ids() {
            let mut seen = self.alive.iter().filter(|(_, place)| place.pack == pack).collect::<BTreeMap<_, _>>();
            for item in self.store.scan(pack).unwrap() {
                if let crate::ScanItem::Record(record) = item.unwrap()
                    && seen.get(&record.header.blob.0) == Some(&&record.place)
                {
                    seen.remove(&record.header.blob.0);
                }
            }
            assert!(seen.is_empty(), "a scan of {pack} misses {seen:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_table(steps in prop::collection::vec(step(), 1..50)) {
        let mut model = Model::new();
        for step in steps {
            model.run(step);
        }
        model.check();
        model.crash(&Crash::Killed);
        model.check();
    }
}
