//! Appending blobs to packs and reading them back, page cache warm, without flushes.

use std::hint::black_box;

use bytes::Bytes;
use cairn_chunks::{NewBlob, Options, PackStore};
use cairn_types::checksum::{blob_hash, block_checksums};
use cairn_types::{BlobId, BlobPlace, Ino};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const MIB: usize = 1 << 20;

/// So small that what a benchmark appends is gone soon, and so large that a pack is not made for each append.
const OPTIONS: Options = Options { pack_limit: 256 << 20, writers: 1, open_files: 16 };

fn blob(id: u64, length: usize) -> NewBlob {
    let payload = Bytes::from(vec![id as u8; length]);
    let (checksums, hash) = (block_checksums(&payload), blob_hash(&payload));
    NewBlob { id: BlobId(id), ino: Ino(id), chunk: 0, payload, checksums, hash }
}

fn append(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("directory");
    let (store, _) = PackStore::open(directory.path().join("packs"), &OPTIONS, []).expect("opened");
    let mut group = criterion.benchmark_group("append");
    for (name, count, length) in [("256 blobs of 4 KiB", 256, 4096), ("a blob of 4 MiB", 1, 4 * MIB)] {
        let blobs: Vec<NewBlob> = (1..=count).map(|id| blob(id, length)).collect();
        group.throughput(Throughput::Bytes(count * length as u64));
        group.bench_function(name, |bencher| {
            // What was appended is freed outside the time that is taken, so that the disk does not fill.
            let freed = std::cell::RefCell::new(Vec::<BlobPlace>::new());
            bencher.iter_batched(
                || store.free(&freed.take()).expect("freed"),
                |_| freed.borrow_mut().extend(store.append(&blobs).expect("appended")),
                BatchSize::PerIteration,
            );
            store.free(&freed.take()).expect("freed");
        });
    }
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("directory");
    let (store, _) = PackStore::open(directory.path().join("packs"), &OPTIONS, []).expect("opened");
    let mut group = criterion.benchmark_group("read");
    for (name, length, wanted) in
        [("a blob of 4 KiB", 4096, 0..4096), ("1 MiB of a blob of 4 MiB", 4 * MIB, (MIB as u32)..(2 * MIB as u32))]
    {
        let id = length as u64;
        let places = store.append(&[blob(id, length)]).expect("appended");
        group.throughput(Throughput::Bytes(wanted.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| store.read(BlobId(id), black_box(&places[0]), wanted.clone()).expect("read"));
        });
        group.bench_function(format!("locate {name}"), |bencher| {
            bencher.iter(|| store.locate(BlobId(id), black_box(&places[0]), wanted.clone()).expect("located"));
        });
    }
    group.finish();
}

criterion_group!(benches, append, read);
criterion_main!(benches);
