//! Tests of the store as a whole, each against a directory of its own. What the tests share is here.

mod append;
mod golden;
mod model;
mod read;
mod reclaim;
mod recover;
mod stores;
mod sync;
mod tails;

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use cairn_types::checksum::{blob_hash, block_checksums};
use cairn_types::{BlobId, BlobPlace, Ino, PackId};
use tempfile::TempDir;

use crate::place::file_name;
use crate::{ChunkError, NewBlob, Options, PackStore, Recovery};

/// A directory for packs, and what the metadata would know of them.
struct Fixture {
    directory: TempDir,
    options: Options,
    durable: BTreeMap<PackId, u64>,
}

impl Fixture {
    fn new(pack_limit: u64) -> Self {
        let options = Options { pack_limit, writers: 1, open_files: 4 };
        Fixture { directory: tempfile::tempdir().unwrap(), options, durable: BTreeMap::new() }
    }

    fn open(&self) -> (PackStore, Recovery) {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<(PackStore, Recovery), ChunkError> {
        PackStore::open(self.directory.path().join("packs"), &self.options, self.durable.clone())
    }

    fn sync(&mut self, store: &PackStore) {
        self.durable.extend(store.sync().unwrap());
    }

    fn path(&self, pack: PackId) -> PathBuf {
        self.directory.path().join("packs").join(file_name(pack))
    }

    fn length(&self, pack: PackId) -> u64 {
        std::fs::metadata(self.path(pack)).unwrap().len()
    }

    /// Changes the bytes of a pack behind the store's back.
    fn damage(&self, pack: PackId, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.path(pack)).unwrap();
        change(&mut bytes);
        std::fs::write(self.path(pack), bytes).unwrap();
    }
}

/// Bytes that look random and differ from blob to blob.
fn payload(id: u64, length: usize) -> Vec<u8> {
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn blob_of(id: u64, payload: Vec<u8>) -> NewBlob {
    NewBlob {
        id: BlobId(id),
        ino: Ino(1000 + id),
        chunk: 3,
        checksums: block_checksums(&payload),
        hash: blob_hash(&payload),
        payload: Bytes::from(payload),
    }
}

fn blob(id: u64, length: usize) -> NewBlob {
    blob_of(id, payload(id, length))
}

fn append_one(store: &PackStore, id: u64, length: usize) -> BlobPlace {
    store.append(&[blob(id, length)]).unwrap()[0]
}

/// Whether the blob that `blob(id, …)` made can be read whole from `place`.
fn assert_intact(store: &PackStore, id: u64, place: &BlobPlace) {
    let data = store.read_verified(BlobId(id), place, 0..place.payload_len).unwrap();
    assert!(data == payload(id, place.payload_len as usize), "blob {id} has other bytes");
}
