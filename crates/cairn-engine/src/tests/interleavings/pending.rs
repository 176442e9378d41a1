//! Blobs that are appended, referred to and given up while packs are flushed and looked at: the recorded length never
//! passes a blob that a restart must find, and a pack that such a blob is in never counts as free of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_locks::Mutex;
use cairn_locks::schedules::{mpsc, thread, try_many};
use cairn_types::{BlobId, BlobPlace, PackId, SessionId};

use crate::pending::PendingBlobs;

cairn_locks::ranks! { Band::Program;
    /// The only pack.
    Pack,
}

const PACK: PackId = PackId(3);
const LENGTH: u64 = 100;
const WRITER: SessionId = SessionId(1);
const QUITTER: SessionId = SessionId(2);

/// What is in the pack.
#[derive(Default)]
struct Content {
    length: u64,
    /// Where each blob begins that a restart would have to find.
    needed: BTreeMap<u64, BlobId>,
}

#[derive(Default)]
struct World {
    blobs: PendingBlobs,
    pack: Mutex<Content, Pack>,
}

impl World {
    fn append(&self, blob: BlobId, owner: SessionId) {
        let append = self.blobs.begin_append();
        let offset = {
            let mut pack = self.pack.lock();
            let offset = pack.length;
            pack.length += LENGTH;
            pack.needed.insert(offset, blob);
            offset
        };
        let place = BlobPlace { pack: PACK, offset, payload_len: 8, stored_len: LENGTH as u32 };
        self.blobs.finish_append(append, Some(owner), &[(blob, place)]);
    }

    /// No restart needs to find these any more.
    fn settle(&self, settled: impl Fn(u64, BlobId) -> bool) {
        self.pack.lock().needed.retain(|offset, blob| !settled(*offset, *blob));
    }

    /// The committer: refers to what is finished, gives up what the session that ended has left, and records lengths.
    fn commit(&self, finished: &mpsc::Receiver<Option<BlobId>>) {
        let mut open = true;
        while open {
            let next = finished.recv().expect("told of the end");
            open = next.is_some();
            if let Some(blob) = next {
                assert!(self.blobs.place(blob).is_some(), "{blob:?} was appended, and nobody has taken it");
                self.blobs.reference([blob].into_iter());
                self.settle(|_, known| known == blob);
            } else {
                for place in self.blobs.take_owned(QUITTER) {
                    self.settle(|offset, _| offset == place.offset);
                }
            }
            let synced = self.pack.lock().length;
            for (_, recorded) in self.blobs.durable_lengths(vec![(PACK, synced)]) {
                let first = self.pack.lock().needed.first_key_value().map(|(offset, _)| *offset);
                assert!(first.is_none_or(|first| recorded <= first), "{recorded} passes the blob at {first:?}");
            }
            self.blobs.committed();
        }
    }

    /// Maintenance, which may drop a pack that nothing needs.
    fn look(&self) {
        for _ in 0..3 {
            let before = self.pack.lock().needed.clone();
            if !self.blobs.may_be_in(PACK) {
                let pack = self.pack.lock();
                let missed = before.keys().find(|offset| pack.needed.contains_key(offset));
                assert_eq!(missed, None, "a pending blob was overlooked");
            }
        }
    }
}

#[test]
fn a_restart_finds_every_blob_that_is_still_needed() {
    try_many(|| {
        let world = Arc::new(World::default());
        let (finished, receiver) = mpsc::channel();
        let spawn = |act: Box<dyn FnOnce(&World) + Send>| {
            let world = Arc::clone(&world);
            thread::spawn(move || act(&world))
        };
        let committer = spawn(Box::new(move |world| world.commit(&receiver)));
        let looking = spawn(Box::new(World::look));
        let quitter = spawn(Box::new(|world| world.append(BlobId(9), QUITTER)));
        let writers = [0, 10].map(|base| {
            let finished = finished.clone();
            spawn(Box::new(move |world| {
                for blob in [BlobId(base), BlobId(base + 1)] {
                    world.append(blob, WRITER);
                    finished.send(Some(blob)).expect("taken");
                }
            }))
        });
        for thread in writers.into_iter().chain([quitter]) {
            thread.join().expect("appended");
        }
        finished.send(None).expect("taken");
        committer.join().expect("committed");
        looking.join().expect("looked");
        assert!(world.pack.lock().needed.is_empty());
        assert!(!world.blobs.may_be_in(PACK));
        assert!(world.blobs.durable_lengths(Vec::new()).is_empty(), "all of the pack is recorded");
    });
}
