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
/// The blob that it leaves behind.
const LEFT: BlobId = BlobId(9);

/// What is in the pack.
#[derive(Default)]
struct Content {
    length: u64,
    /// Where each blob begins that a restart would have to find. One that the round refers to is found by its commit.
    needed: BTreeMap<u64, BlobId>,
    /// Those that no committed change refers to, and that one still may.
    uncommitted: BTreeMap<u64, BlobId>,
    /// The length that was recorded last.
    recorded: u64,
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
            pack.uncommitted.insert(offset, blob);
            offset
        };
        let place = BlobPlace { pack: PACK, offset, payload_len: 8, stored_len: LENGTH as u32 };
        self.blobs.finish_append(append, Some(owner), &[(blob, place)]);
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
                self.pack.lock().needed.retain(|_, known| *known != blob);
            } else {
                // Nobody can refer to them from here on, whether they have been taken out yet or not.
                let mut pack = self.pack.lock();
                pack.needed.retain(|_, blob| *blob != LEFT);
                pack.uncommitted.retain(|_, blob| *blob != LEFT);
                drop(pack);
                assert_eq!(self.blobs.take_owned(QUITTER).len(), 1, "what a session that ended has left");
            }
            let synced = self.pack.lock().length;
            for (_, recorded) in self.blobs.durable_lengths(vec![(PACK, synced)]) {
                let mut pack = self.pack.lock();
                pack.recorded = recorded;
                let first = pack.needed.first_key_value().map(|(offset, _)| *offset);
                assert!(first.is_none_or(|first| recorded <= first), "{recorded} passes the blob at {first:?}");
            }
            // The metadata first: in between, a blob counts twice rather than not at all.
            self.pack.lock().uncommitted.retain(|_, blob| Some(*blob) != next);
            self.blobs.committed();
        }
    }

    /// Maintenance, which may drop a pack that nothing needs.
    fn look(&self) {
        for _ in 0..3 {
            let before = self.pack.lock().uncommitted.clone();
            if !self.blobs.may_be_in(PACK) {
                let pack = self.pack.lock();
                let missed = before.keys().find(|offset| pack.uncommitted.contains_key(offset));
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
        let quitter = spawn(Box::new(|world| world.append(LEFT, QUITTER)));
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
        assert!(!world.blobs.may_be_in(PACK));
        assert!(world.blobs.durable_lengths(Vec::new()).is_empty(), "nothing is left to be recorded");
        let pack = world.pack.lock();
        assert!(pack.needed.is_empty() && pack.uncommitted.is_empty());
        assert_eq!(pack.recorded, pack.length, "all of the pack is recorded");
    });
}
